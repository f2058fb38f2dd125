"""The classes of an interpolation, cell by cell.

Pixels between four cells get weighted sums of the scores of these, and no weight is negative. So
where one class leads in all four it leads in each pixel between them, and nothing need be computed:
most blocks of a photo are of that kind (``benchmarks/heads.py``). Only the others have their logits
computed. The classes are those of all logits, but for how sums are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

# A class leads if it does by more than this share of the largest score: by less, rounding decides.
LEAD = 1e-5
AT_A_TIME = 1 << 14  # pixels whose logits are computed at a time, all in the cache


class Axis(NamedTuple):
    """How pixels lie between cells, along one axis.

    Attributes:
        weights: float32 ``[s, 2]``: of the pixels of a block, from one cell to the next, how much
            of either goes into each. Beyond the border the outermost cells repeat.
        start: how many pixels of the first block, before the first cell, lie outside the image.
    """

    weights: np.ndarray
    start: int


def axis(stride: int, shift: float) -> Axis:
    """The axis of a bilinear interpolation, as :class:`model_build.network.upsampling` has it.

    Args:
        stride: pixels a cell.
        shift: see :class:`model_build.artifact.Scores`.
    """
    first = shift + (stride - 1) / 2  # the first cell, in pixels
    pixel = math.ceil(first)  # from there on pixels lie between two cells
    second = (pixel + np.arange(stride) - first) / stride
    return Axis(np.stack([1 - second, second], axis=1).astype(np.float32), stride - pixel)


def by_cells(axis: Axis, spec: tf.TensorSpec) -> Callable[[Any], Sequence[Any]]:
    """Classes of an interpolation: float32 scores ``[n, h, w, c]`` → uint8 ``[n, H, W]``, alone.

    Args:
        axis: of rows and columns.
        spec: of the scores.
    """
    side = len(axis.weights)
    area, channels = side * side, spec.shape[-1]
    weights = tf.constant(np.einsum("ya,xb->abyx", axis.weights, axis.weights).reshape(4, area))
    size = max(1, AT_A_TIME // area)

    # XLA has one program for it, whatever sizes images have.
    @tf.function(
        input_signature=[tf.TensorSpec([size, 4, channels])], autograph=False, jit_compile=True
    )
    def classify(corners: Any) -> Any:
        return largest(corners, weights)

    def classes(scores: Any) -> Any:
        first, leads = leads_between(scores)
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


def leads_between(scores: Any) -> tuple[Any, Any]:
    """Of each block of pixels between four cells a class, and whether it leads in all of these.

    Args:
        scores: float32 ``[n, h, w, c]``.

    Returns:
        uint8 and bool ``[n, h + 1, w + 1]``: the first and last blocks lie beyond the border.
    """
    framed = tf.pad(leaders(scores), [[0, 0], [1, 1], [1, 1]], "SYMMETRIC")
    first, *others = (
        framed[:, y : y - 1 or None, x : x - 1 or None] for y in (0, 1) for x in (0, 1)
    )
    leads = tf.reduce_all([first >= 0, *(first == other for other in others)], axis=0)
    return tf.cast(first, tf.uint8), leads


def leaders(scores: Any) -> Any:
    """int32 ``[n, h, w]``: the class that leads in each cell, -1 where it does by next to nothing.

    Args:
        scores: float32 ``[n, h, w, c]``.
    """
    values, classes = tf.math.top_k(scores, 2)
    least = LEAD * tf.reduce_max(tf.abs(scores), axis=[1, 2, 3])[:, None, None]
    return tf.where(values[..., 0] - values[..., 1] > least, classes[..., 0], -1)


def largest(corners: Any, weights: Any) -> Any:
    """uint8 ``[m, pixels]``: the class of the largest logit of each pixel.

    One class comes after the other for all pixels, of which XLA makes one loop.

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
