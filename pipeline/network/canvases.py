"""Canvases: the few shapes that XLA compiles for, whatever sizes images have.

XLA makes a program for each shape it meets and keeps it, so an archive of many sizes would take
minutes and memory without end. What it is to run is padded to the next of at most 16 canvases. An
image's canvas follows from its own size, and so its mask hangs on no other image.

Padding tells a network something else than the border of an image does, beside it and in averages
over the image. So a network is made to see the image alone (:func:`of_part`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from model_build.program import Change

SIDES = 4  # lengths of a canvas's side; each of height and width, so 16 canvases
PADS = ("Pad", "PadV2", "MirrorPad")


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


def of_part(images: Any, part: Any) -> Change:
    """Lets a program see a part of its images as if that were all of them.

    What is averaged over images is averaged over the part. What looks at neighbouring cells finds
    beyond the part what it would find beyond the border of an image: zeros mostly. (But for an
    average pooling whose windows reach over the border, which counts what lies there.)

    Args:
        images: ``[n, h, w, c]``.
        part: int32 ``[2]``, height and width of the part, in pixels from the upper left corner and
            multiples of the network's stride. Outputs are right in the part alone.

    Returns:
        What nodes get instead, for :meth:`model_build.program.Program.scores`.
    """

    def within(features: Any) -> Any:
        """bool ``[h, w]``: which cells are of the part."""
        rows, columns = (
            tf.range(cells) < part[axis] * cells // tf.shape(images)[1 + axis]
            for axis, cells in enumerate(tf.unstack(tf.shape(features)[1:3]))
        )
        return rows[:, None] & columns

    def fill(features: Any, beyond: Any) -> Any:
        return tf.where(within(features)[..., None], features, tf.cast(beyond, features.dtype))

    def zero(features: Any) -> Any:
        return fill(features, 0)

    def lowest(features: Any) -> Any:
        return fill(features, features.dtype.min)

    def edge(features: Any) -> Any:
        inside = tf.cast(within(features), tf.int32)
        for axis in (1, 2):
            last = tf.reduce_sum(inside[:, 0] if axis == 1 else inside[0]) - 1
            places = tf.minimum(tf.range(tf.shape(features)[axis]), last)
            features = tf.gather(features, places, axis=axis)
        return features

    def average(features: Any) -> Any:
        """``[n, 1, 1, c]``, whose own mean it is."""
        count = tf.reduce_sum(tf.cast(within(features), features.dtype))
        return tf.reduce_sum(zero(features), axis=[1, 2], keepdims=True) / count

    beyond = {
        "Conv2D": zero,
        "DepthwiseConv2dNative": zero,
        "AvgPool": zero,
        "MaxPool": lowest,
        "Pad": zero,
        "PadV2": zero,
        "MirrorPad": edge,
    }

    def change(node: Any, sources: Sequence[Any]) -> Callable[[Any], Any] | None:
        if node.name.startswith("mean"):
            return average
        if node.op not in beyond or sources[0].op in PADS:
            return None
        if node.op not in PADS and node.attr["padding"].s == b"VALID":
            return None
        if "Conv" in node.op:
            kernel = sources[1].attr["_output_shapes"].list.shape[0]
            if [dim.size for dim in kernel.dim[:2]] == [1, 1]:
                return None
        return beyond[node.op]

    return change
