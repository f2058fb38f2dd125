"""Canvases: the few shapes that XLA compiles for, whatever sizes images have.

XLA makes a program for each shape it meets and keeps it, so an archive of many sizes would take
minutes and memory without end. What it is to run is padded to the next of at most 16 canvases. An
image's canvas follows from its own size, and so its mask hangs on no other image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SIDES = 4  # lengths of a canvas's side; each of height and width, so 16 canvases


def canvas(size: tuple[int, int], longest: int, multiple: int = 1) -> tuple[int, int] | None:
    """The (height, width) that an image is padded to for XLA.

    Sides are quarters of the longest one, so that padding an image as long as that adds an eighth
    of its area on average.

    Args:
        size: (height, width).
        longest: the longest side of images that are padded.
        multiple: sides are multiples of it.

    Returns:
        None for what is larger than any canvas.
    """
    step = -(-longest // (SIDES * multiple)) * multiple
    height, width = (-(-side // step) * step for side in size)
    return None if max(height, width) > SIDES * step else (height, width)


def on_canvas(
    function: Callable[..., Sequence[Any]],
    larger: Callable[..., Sequence[Any]],
    place: Callable[[tuple[int, int]], tuple[int, int] | None],
) -> Callable[..., list[Any]]:
    """What calls a function with arrays ``[n, h, w, c]`` that have the shape of a canvas.

    Args:
        function: gets the array, its edge repeated at the bottom and right; what other arguments
            there are; and int32 ``[2]``, the height and width that are not padding.
        larger: gets what no canvas holds, and the other arguments.
        place: (height, width) → those of its canvas; None where there is none.

    Returns:
        What gives the outputs of these as arrays. Of those that have height and width, or a
        fraction of these, padding is cut off.
    """

    def call(images: Any, *others: Any) -> list[Any]:
        images = np.asarray(images)
        size = images.shape[1:3]
        sides = place(size)
        if sides is None:
            return list(larger(images, *others))
        height, width = (side - own for side, own in zip(sides, size, strict=True))
        padded = np.pad(images, [(0, 0), (0, height), (0, width), (0, 0)], mode="edge")
        found = function(padded, *others, np.array(size, np.int32))
        return [_own_part(np.asarray(array), size, sides) for array in found]

    return call


def _own_part(array: np.ndarray, size: tuple[int, ...], sides: tuple[int, int]) -> np.ndarray:
    """What of an output is not padding: all of it where it is one value an image."""
    if array.ndim < 3:
        return array
    height, width = (
        own * cells // side for own, cells, side in zip(size, array.shape[1:3], sides, strict=True)
    )
    return array[:, :height, :width]
