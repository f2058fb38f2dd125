"""Argmax of interpolated logits, computed only where neighbouring cells disagree.

A pixel between four cells gets a weighted sum of their scores, and no weight is negative. So where
one class has the largest score in all four, it has the largest logit in every pixel between them;
most blocks of a photo are like that (``benchmarks/heads.py``). Logits are computed only for the
other blocks. The classes equal the argmax of all logits, except where rounding decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

# A class wins a cell clearly if it leads by more than this share of the largest score: by less,
# rounding decides.
MIN_LEAD = 1e-5
PIXELS_PER_CHUNK = 1 << 14  # whose logits are computed at a time, so that they fit in the cache


class Axis(NamedTuple):
    """Positions of pixels between cells, along one axis.

    Attributes:
        weights: float32 ``[s, 2]``: the weights of the two cells around a block, for each of its
            pixels. Beyond the border the outermost cells repeat.
        start: the number of pixels of the first block, before the first cell, outside the image.
    """

    weights: np.ndarray
    start: int


def axis(stride: int, shift: float) -> Axis:
    """Returns the axis of a bilinear interpolation, as in :mod:`model_build.network.upsampling`.

    Args:
        stride: pixels a cell.
        shift: see :class:`model_build.artifact.Scores`.
    """
    first = shift + (stride - 1) / 2  # the first cell, in pixels
    pixel = math.ceil(first)  # from there on pixels lie between two cells
    second = (pixel + np.arange(stride) - first) / stride
    return Axis(np.stack([1 - second, second], axis=1).astype(np.float32), stride - pixel)


def sparse_argmax_of(axis: Axis, spec: tf.TensorSpec) -> Callable[[Any], Sequence[Any]]:
    """Returns a function: float32 scores ``[n, h, w, c]`` → uint8 classes ``[n, H, W]``.

    Args:
        axis: of rows and columns.
        spec: of the scores.
    """
    side = len(axis.weights)
    area, channels = side * side, spec.shape[-1]
    weights = tf.constant(np.einsum("ya,xb->abyx", axis.weights, axis.weights).reshape(4, area))
    size = max(1, PIXELS_PER_CHUNK // area)

    # XLA has one program for it, whatever sizes images have.
    @tf.function(
        input_signature=[tf.TensorSpec([size, 4, channels])], autograph=False, jit_compile=True
    )
    def classify(corners: Any) -> Any:
        return argmax(corners, weights)

    def classes(scores: Any) -> Any:
        first, leads = unanimous_corners(scores)
        places = tf.where(~leads)
        number = tf.shape(places)[0]
        parts = (number + size - 1) // size
        filled = tf.pad(places, [[0, parts * size - number], [0, 0]])
        framed = tf.pad(scores, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        steps = tf.constant([[0, y, x] for y in (0, 1) for x in (0, 1)], tf.int64)

        def part(some: Any) -> Any:
            corners = tf.gather_nd(framed, some[:, None] + steps)
            return classify(tf.ensure_shape(corners, [size, 4, channels]))

        computed = tf.map_fn(
            part,
            tf.reshape(filled, [parts, size, 3]),
            fn_output_signature=tf.TensorSpec([size, area], tf.uint8),
            parallel_iterations=1,
        )
        batch, height, width = tf.unstack(tf.shape(first))
        blocks = tf.broadcast_to(first[..., None, None], [batch, height, width, side, side])
        pixels = tf.reshape(computed, [-1, side, side])[:number]
        blocks = tf.tensor_scatter_nd_update(blocks, places, pixels)
        blocks = tf.transpose(blocks, [0, 1, 3, 2, 4])
        pixels = tf.reshape(blocks, [batch, height * side, width * side])
        start = axis.start
        bottom, right = (height - 1) * side + start, (width - 1) * side + start
        return pixels[:, start:bottom, start:right]

    traced = tf.function(classes, [spec], autograph=False).get_concrete_function()
    return lambda scores: [traced(tf.convert_to_tensor(scores))]


def unanimous_corners(scores: Any) -> tuple[Any, Any]:
    """Returns a class for each block between four cells, and whether all four agree on it.

    Args:
        scores: float32 ``[n, h, w, c]``.

    Returns:
        uint8 and bool ``[n, h + 1, w + 1]``: the first and last blocks lie beyond the border.
    """
    framed = tf.pad(clear_winners(scores), [[0, 0], [1, 1], [1, 1]], "SYMMETRIC")
    first, *others = (
        framed[:, y : y - 1 or None, x : x - 1 or None] for y in (0, 1) for x in (0, 1)
    )
    leads = tf.reduce_all([first >= 0, *(first == other for other in others)], axis=0)
    return tf.cast(first, tf.uint8), leads


def clear_winners(scores: Any) -> Any:
    """Returns the class with the largest score of each cell, int32 ``[n, h, w]``; -1 if close.

    Args:
        scores: float32 ``[n, h, w, c]``.
    """
    values, classes = tf.math.top_k(scores, 2)
    least = MIN_LEAD * tf.reduce_max(tf.abs(scores), axis=[1, 2, 3])[:, None, None]
    return tf.where(values[..., 0] - values[..., 1] > least, classes[..., 0], -1)


def argmax(corners: Any, weights: Any) -> Any:
    """Returns the class of the largest logit of each pixel, uint8 ``[m, pixels]``.

    Loops over classes for all pixels at once, which XLA compiles to one loop.

    Args:
        corners: float32 ``[m, 4, c]``, scores of the four cells around each block.
        weights: float32 ``[4, pixels]``.
    """
    channels = corners.shape[-1]
    by_class = tf.transpose(corners, [2, 0, 1])
    shape = [corners.shape[0], weights.shape[1]]

    def step(number: Any, most: Any, which: Any) -> tuple[Any, Any, Any]:
        scores = by_class[number]
        logits = sum(weights[index] * scores[:, index, None] for index in range(4))
        more = logits > most
        number_of = tf.cast(number, tf.uint8)
        return number + 1, tf.where(more, logits, most), tf.where(more, number_of, which)

    start = tf.constant(0), tf.fill(shape, -np.float32(np.inf)), tf.zeros(shape, tf.uint8)
    return tf.while_loop(lambda number, *_: number < channels, step, start)[2]
