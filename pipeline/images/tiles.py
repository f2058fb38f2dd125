"""A large image as overlapping tiles: where they lie, and how their shares fade into each other.

Both axes are cut alike, each by itself: a tile is a span of rows and a span of columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """A tile along one axis.

    Attributes:
        start: its first pixel.
        end: the pixel after its last one.
        first: where its own part begins, about the middle of what it shares with the span before;
            the parts of all spans are the axis.
        last: the pixel after its own part.
    """

    start: int
    end: int
    first: int
    last: int


def spans(length: int, side: int, overlap: int, multiple: int = 1) -> list[Span]:
    """Cuts an axis into as few overlapping spans as do, all of one length.

    Args:
        length: of the axis in pixels, a multiple of ``multiple``.
        side: the longest that a span may be.
        overlap: what neighbours share at least.
        multiple: all starts and ends are multiples of it, as ``side`` and ``overlap`` must be.

    Returns:
        Spans in their order. No pixel is in three of them where ``overlap`` is at most a third of
        ``side``.
    """
    if length <= side:
        return [Span(0, length, 0, length)]
    gaps = -(-(length - side) // (side - overlap))
    # All of them shorter, rather than the last one nearly on top of its neighbour.
    cells = length // multiple
    longest = -(-(cells + gaps * (overlap // multiple)) // (gaps + 1))
    starts = [multiple * (index * (cells - longest) // gaps) for index in range(gaps + 1)]
    ends = [start + multiple * longest for start in starts]
    middles = [
        (start + end) // 2 // multiple * multiple
        for start, end in zip(starts[1:], ends[:-1], strict=True)
    ]
    parts = zip(starts, ends, [0, *middles], [*middles, length], strict=True)
    return [Span(*part) for part in parts]


def fade(length: int) -> np.ndarray:
    """The share of the later one of two tiles in each of the cells that both have.

    It is 0 and 1 near the ends, where a network sees the border of a tile instead of what lies
    beyond, and smooth between.

    Returns:
        float32 ``[length]``; from the other end it is what is left of one.
    """
    place = (np.arange(length, dtype=np.float32) + 0.5) / length
    place = np.clip(2 * place - 0.5, 0, 1)
    return place * place * (3 - 2 * place)
