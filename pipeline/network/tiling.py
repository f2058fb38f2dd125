"""Segments an image larger than the network sees at once, in overlapping tiles.

Features that the network averages over a whole image are first averaged over all tiles, and each
tile gets these averages. Scores of neighbouring tiles are blended before classes are found, so that
no edge shows where one tile ends. Two rows of tiles are held in memory, as scores.

Both axes are cut alike: a tile is a span of rows and a span of columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from pipeline.images.sizes import pad, padded_size

MIN_OVERLAP = 3 / 8  # of the longest side of a tile


class Tiling:
    """Runs images of any size through a network in tiles.

    Args:
        average: uint8 RGB ``[n, h, w, 3]`` → the features that the network averages over the image,
            each float32 ``[n, h/s, w/s, c]`` with its own s and c; None if there are none.
        score: images, and the averages ``[n, 1, 1, c]``, → float32 scores ``[n, h/s, w/s, c]``, and
            bool ``[n]``: whether they are finite.
        classify: scores → uint8 class ids ``[n, h, w]``, as its only output.
        side: the longest side of a tile, in pixels.
        stride: of the network; ``side`` and the sides of tiles are multiples of it.
        batch_size: the maximum number of tiles per call.
    """

    def __init__(
        self,
        average: Callable[[np.ndarray], Sequence[np.ndarray]] | None,
        score: Callable[..., Sequence[np.ndarray]],
        classify: Callable[[np.ndarray], Sequence[np.ndarray]],
        side: int,
        stride: int,
        batch_size: int,
    ):
        self._average, self._score, self._classify = average, score, classify
        self.side, self.stride, self.batch_size = side, stride, batch_size

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, bool]:
        """Segments an image.

        Args:
            pixels: uint8 RGB ``[h, w, 3]``.

        Returns:
            uint8 class ids ``[h, w]``, and whether the scores of all tiles are finite; if not, the
            class ids are meaningless.
        """
        overlap = int(MIN_OVERLAP * self.side) // self.stride * self.stride
        rows, columns = (
            spans(length, self.side, overlap, self.stride)
            for length in padded_size(pixels, self.stride)
        )
        averages = self._averages(pixels, rows, columns)
        class_map = np.zeros(pixels.shape[:2], np.uint8)
        above: list[np.ndarray] = []
        for index, row in enumerate(rows):
            scores: list[np.ndarray] = []
            for tiles in self._batches(pixels, [row], columns):
                means = [np.repeat(average, len(tiles), axis=0) for average in averages]
                found, finite = self._score(tiles, *means)
                if not finite.all():
                    return class_map, False
                scores += list(np.array(found))  # a writable copy
            cell = (row.end - row.start) // len(scores[0])
            for place, (left, right) in enumerate(pairwise(scores)):
                shared = (columns[place].end - columns[place + 1].start) // cell
                blend(left, right, shared, axis=1)
            if above:
                shared = (rows[index - 1].end - row.start) // cell
                for upper, lower in zip(above, scores, strict=True):
                    blend(upper, lower, shared, axis=0)
                self._paint(class_map, above, rows[index - 1], columns)
            above = scores
        self._paint(class_map, above, rows[-1], columns)
        return class_map, True

    def _averages(
        self, pixels: np.ndarray, rows: Sequence[Span], columns: Sequence[Span]
    ) -> list[np.ndarray]:
        """Returns the averages over the whole image, float32 ``[1, 1, 1, c]`` each."""
        if self._average is None:
            return []
        sums: list[Any] = []
        places = ((row, column) for row in rows for column in columns)
        for tiles in self._batches(pixels, rows, columns):
            features = self._average(tiles)
            sums = sums or [0] * len(features)
            for index in range(len(tiles)):
                row, column = next(places)
                for which, feature in enumerate(features):
                    # Each place counts once, in the tile whose border is farthest from it.
                    own = feature[index][own_part(row, feature.shape[1])]
                    own = own[:, own_part(column, feature.shape[2])]
                    sums[which] += own.mean(axis=(0, 1), dtype=np.float64) * (
                        (row.last - row.first) * (column.last - column.first)
                    )
        area = rows[-1].last * columns[-1].last
        return [(one / area).astype(np.float32).reshape(1, 1, 1, -1) for one in sums]

    def _paint(
        self,
        class_map: np.ndarray,
        scores: Sequence[np.ndarray],
        row: Span,
        columns: Sequence[Span],
    ) -> None:
        """Writes the classes of a row of tiles, each in its own part, into a class map."""
        for start in range(0, len(columns), self.batch_size):
            batch = slice(start, start + self.batch_size)
            (found,) = self._classify(np.stack(scores[batch]))
            for column, classes in zip(columns[batch], found, strict=True):
                # Slicing by the part's shape cuts off the padding.
                part = class_map[row.first : row.last, column.first : column.last]
                top, left = row.first - row.start, column.first - column.start
                part[...] = classes[top:, left:][: part.shape[0], : part.shape[1]]

    def _batches(
        self, pixels: np.ndarray, rows: Sequence[Span], columns: Sequence[Span]
    ) -> Iterator[np.ndarray]:
        """Yields batches of tiles, ``[n, h, w, 3]``, padded where they exceed the image."""
        places = [(row, column) for row in rows for column in columns]
        for start in range(0, len(places), self.batch_size):
            yield np.stack(
                [
                    pad(
                        pixels[row.start : row.end, column.start : column.end],
                        (row.end - row.start, column.end - column.start),
                    )
                    for row, column in places[start : start + self.batch_size]
                ]
            )


def own_part(span: Span, cells: int) -> slice:
    """Returns which of a span's ``cells`` belong to its own part."""
    pixels = (span.end - span.start) // cells
    return slice((span.first - span.start) // pixels, (span.last - span.start) // pixels)


def blend(one: np.ndarray, other: np.ndarray, shared: int, axis: int) -> None:
    """Blends the overlap of two neighbouring tiles, in place and identically in both.

    Args:
        one: scores ``[h, w, c]`` of the upper, or left, tile.
        other: of the lower, or right, one.
        shared: number of cells they share.
        axis: 0 for rows, 1 for columns.
    """
    if axis == 1:
        one, other = one.swapaxes(0, 1), other.swapaxes(0, 1)
    ends, begins = one[len(one) - shared :], other[:shared]
    share = fade_weights(shared)[:, None, None]
    ends += share * (begins - ends)
    begins[...] = ends


class Span(NamedTuple):
    """A tile along one axis.

    Attributes:
        start: its first pixel.
        end: the pixel after its last one.
        first: where its own part begins, about the middle of its overlap with the span before;
            together, the parts of all spans cover the axis once.
        last: the pixel after its own part.
    """

    start: int
    end: int
    first: int
    last: int


def spans(length: int, side: int, overlap: int, multiple: int = 1) -> list[Span]:
    """Cuts an axis into the fewest overlapping spans of one length.

    Args:
        length: of the axis in pixels, a multiple of ``multiple``.
        side: the maximum length of a span.
        overlap: the minimum overlap of neighbours.
        multiple: all starts and ends are multiples of it, as ``side`` and ``overlap`` must be.

    Returns:
        Spans in order. No pixel is in three of them if ``overlap`` is at most 3/8 of ``side``.
    """
    if length <= side:
        return [Span(0, length, 0, length)]
    gaps = -(-(length - side) // (side - overlap))
    # Shortens all of them, rather than placing the last one nearly on top of its neighbour.
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


def fade_weights(length: int) -> np.ndarray:
    """Returns the weight of the later of two tiles in each cell of their overlap.

    It is 0 and 1 near the ends, where a network sees the border of a tile instead of the image
    beyond it, and smooth between.

    Returns:
        float32 ``[length]``; reversed, it is the weight of the earlier tile.
    """
    place = (np.arange(length, dtype=np.float32) + 0.5) / length
    place = np.clip(2 * place - 0.5, 0, 1)
    return place * place * (3 - 2 * place)
