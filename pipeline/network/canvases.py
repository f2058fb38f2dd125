"""Canvases: a few fixed shapes for XLA, to which images of all sizes are padded.

XLA compiles and keeps a program for each input shape, so an archive of many sizes would take
minutes and unbounded memory. Images are therefore padded to one of at most 16 canvases. An image's
canvas depends only on its own size, so its mask does not depend on any other image.

Padding changes what a network computes near the border of an image and in averages over it. So the
network is made to ignore the padding (:func:`ignore_padding`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from model_build.program import Change

LENGTHS_PER_AXIS = 4  # possible heights and widths of a canvas, so 16 canvases
PAD_OPERATIONS = ("Pad", "PadV2", "MirrorPad")


def canvas_size(size: tuple[int, int], longest: int, multiple: int = 1) -> tuple[int, int] | None:
    """Returns the (height, width) that an image is padded to for XLA.

    Sides are multiples of a quarter of the longest one, so that padding adds an eighth of the area
    on average to an image of the full length.

    Args:
        size: (height, width).
        longest: the longest side of images that fit on a canvas.
        multiple: the sides of a canvas are multiples of it.

    Returns:
        None for an image larger than any canvas.
    """
    step = -(-longest // (LENGTHS_PER_AXIS * multiple)) * multiple
    height, width = (-(-side // step) * step for side in size)
    return None if max(height, width) > LENGTHS_PER_AXIS * step else (height, width)


def run_on_canvas(
    function: Callable[..., Sequence[Any]],
    larger: Callable[..., Sequence[Any]],
    canvas_of: Callable[[tuple[int, int]], tuple[int, int] | None],
) -> Callable[..., list[Any]]:
    """Wraps a function of arrays ``[n, h, w, c]`` so that they are padded to a canvas.

    Args:
        function: takes the array, padded at the bottom and right by repeating its edge; all other
            arguments; and int32 ``[2]``, the height and width without padding.
        larger: called instead, without the size, for arrays larger than any canvas.
        canvas_of: (height, width) → (height, width) of the canvas; None if there is none.

    Returns:
        A function that returns the outputs as arrays. Padding is cut off those whose height and
        width are those of the canvas or a fraction of them.
    """

    def call(images: Any, *others: Any) -> list[Any]:
        images = np.asarray(images)
        size = images.shape[1:3]
        sides = canvas_of(size)
        if sides is None:
            return list(larger(images, *others))
        height, width = (side - own for side, own in zip(sides, size, strict=True))
        padded = np.pad(images, [(0, 0), (0, height), (0, width), (0, 0)], mode="edge")
        found = function(padded, *others, np.array(size, np.int32))
        return [_crop_output(np.asarray(array), size, sides) for array in found]

    return call


def _crop_output(array: np.ndarray, size: tuple[int, ...], sides: tuple[int, int]) -> np.ndarray:
    """Cuts the padding off an output; one without height and width is returned as it is."""
    if array.ndim < 3:
        return array
    height, width = (
        own * cells // side for own, cells, side in zip(size, array.shape[1:3], sides, strict=True)
    )
    return array[:, :height, :width]


def ignore_padding(images: Any, part: Any) -> Change:
    """Makes a program treat a part of its images as the whole image.

    Averages over images become averages over the part. Operations that look at neighbouring cells
    find beyond the part what they would find beyond the border of an image: mostly zeros. (Except
    average pooling whose windows cross the border, which includes the padding.)

    Args:
        images: ``[n, h, w, c]``.
        part: int32 ``[2]``, height and width of the part, in pixels from the upper left corner and
            multiples of the network's stride. Outputs are valid only within the part.

    Returns:
        The ``change`` argument of :meth:`model_build.program.Program.scores`.
    """

    def within(features: Any) -> Any:
        """Returns bool ``[h, w]``: which cells belong to the part."""
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
        """Returns the mean over the part, ``[n, 1, 1, c]``, which is its own mean."""
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
        if node.op not in beyond or sources[0].op in PAD_OPERATIONS:
            return None
        if node.op not in PAD_OPERATIONS and node.attr["padding"].s == b"VALID":
            return None
        if "Conv" in node.op:
            kernel = sources[1].attr["_output_shapes"].list.shape[0]
            if [dim.size for dim in kernel.dim[:2]] == [1, 1]:
                return None
        return beyond[node.op]

    return change
