"""The classes of an interpolation, cell by cell.

Pixels between four cells get weighted sums of the scores of these, and no weight is negative. So
where one class leads in all four it leads in each pixel between them, and nothing need be computed:
most blocks of a photo are of that kind (``benchmarks/heads.py``). Only the others have their logits
computed. The classes are those of all logits, but for how sums are rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pipeline.network.graphs import Graph

PRODUCTS = ("BatchMatMulV2", "BatchMatMul", "MatMul")
# (height, width) in cells, and what scores are multiplied by; from the first one weights are read.
TRIALS = (((5, 7), 1.0), ((6, 3), 1e4))
TOLERANCE = 1e-5  # of the largest value
# A class leads if it does by more than this share of the largest score: by less, rounding decides.
LEAD = 1e-5
COMPILED = 1 << 14  # pixels whose logits a compiled program computes at a time, all in the cache
PLAIN = 1 << 16  # likewise, without XLA, where each step costs more


class Axis(NamedTuple):
    """How pixels lie between cells, along one axis.

    Attributes:
        weights: float32 ``[s, 2]``: of the pixels of a block, from one cell to the next, how much
            of either goes into each. Beyond the border the outermost cells repeat.
        start: how many pixels of the first block, before the first cell, lie outside the image.
    """

    weights: np.ndarray
    start: int

    def matrix(self, cells: int) -> np.ndarray:
        """``[cells · s, cells]``: how much of each cell goes into each pixel."""
        side = len(self.weights)
        found = np.zeros(((cells + 1) * side, cells), np.float32)
        for block in range(cells + 1):
            pixels = found[block * side : (block + 1) * side]
            pixels[:, max(block - 1, 0)] += self.weights[:, 0]
            pixels[:, min(block, cells - 1)] += self.weights[:, 1]
        return found[self.start : self.start + cells * side]


def axis_of(matrix: np.ndarray) -> Axis | None:
    """The axis that has a matrix; None where there is none, or where one class may lead in all
    cells around a pixel and not in it: where a weight is negative, or all are zero.

    Args:
        matrix: float32 ``[pixels, cells]``, of four cells or more.
    """
    pixels, cells = matrix.shape
    side = pixels // cells
    first = int(np.argmax(matrix[:, 1] > 0))  # the first pixel between the first two cells
    weights = matrix[first + side : first + 2 * side, 1:3]
    axis = Axis(weights, side - first)
    if pixels % cells or first > side or len(weights) < side:
        return None
    if (weights < 0).any() or not weights.any(axis=1).all():
        return None
    return axis if _has_matrix(axis, matrix) else None


def axes_of(head: Any) -> tuple[Axis, Axis] | None:
    """The rows' and the columns' axis, where a head is an interpolation and an argmax.

    That is shown by a trial, whatever the names of its operations.

    Args:
        head: a frozen concrete function, float32 scores ``[n, h, w, c]`` → uint8 classes.
    """
    try:
        graph = Graph(head)
    except ValueError:
        return None
    channels = head.inputs[0].shape[-1]
    argmaxes = [node for node in graph.nodes.values() if node.op == "ArgMax"]
    matrices = [
        node.input[0]
        for node in graph.nodes.values()
        if node.op in PRODUCTS and graph.is_of_sizes(node.input[0])
    ]
    if channels is None or channels < 2 or len(argmaxes) != 1 or len(matrices) != 2:
        return None
    wanted = [*matrices, argmaxes[0].input[0], graph.outputs[0]]
    axes: list[Axis | None] = []
    rng = np.random.default_rng(0)
    for size, scale in TRIALS:
        scores = scale * rng.standard_normal((head.inputs[0].shape[0] or 1, *size, channels))
        scores = scores.astype(np.float32)
        try:
            *found, logits, classes = graph.run(wanted, {graph.inputs[0]: scores})
        except (tf.errors.OpError, ValueError):  # it takes no images of that size
            return None
        # Which is the rows' is told by the number of cells.
        of_cells = {matrix.shape[-1]: matrix for matrix in found if matrix.ndim == 2}
        if set(of_cells) != set(size):
            return None
        rows, columns = (of_cells[cells] for cells in size)
        axes = axes or [axis_of(rows), axis_of(columns)]
        if not all(map(_has_matrix, axes, (rows, columns))):
            return None
        expected = np.einsum("yh,xw,nhwc->nyxc", rows, columns, scores, optimize=True)
        if not _are_close(expected, logits) or classes.shape != logits.shape[:3]:
            return None
        if (classes != logits.argmax(axis=-1)).any():
            return None
    of_rows, of_columns = axes
    assert of_rows is not None
    assert of_columns is not None
    return of_rows, of_columns


def _has_matrix(axis: Axis | None, matrix: np.ndarray) -> bool:
    return axis is not None and _are_close(axis.matrix(matrix.shape[1]), matrix)


def _are_close(one: np.ndarray, other: np.ndarray) -> bool:
    largest_value = np.abs(one).max(initial=0)
    return one.shape == other.shape and np.allclose(
        one, other, rtol=0, atol=TOLERANCE * largest_value
    )


def by_cells(axes: tuple[Axis, Axis], spec: Any, compiled: bool) -> Callable[..., Sequence[Any]]:
    """What runs a head: float32 scores ``[n, h, w, c]`` → uint8 ``[n, H, W]``, in a list.

    Args:
        axes: from :func:`axes_of`.
        spec: the ``TensorSpec`` of its scores.
        compiled: XLA compiles what computes logits: one program, whatever sizes images have.
    """
    rows, columns = axes
    sides = len(rows.weights), len(columns.weights)
    area, channels = sides[0] * sides[1], spec.shape[-1]
    weights = tf.constant(np.einsum("ya,xb->abyx", rows.weights, columns.weights).reshape(4, area))
    if compiled:
        at_a_time = max(1, COMPILED // area)
        signature = [tf.TensorSpec([at_a_time, 4, channels])]
        classify = tf.function(
            lambda corners: largest_by_class(corners, weights),
            signature,
            autograph=False,
            jit_compile=True,
        )
    else:
        at_a_time = max(1, PLAIN // area)

        def classify(corners: Any) -> Any:
            return largest(corners, weights)

    def classes(scores: Any) -> Any:
        first, leads = leads_between(scores)
        places = tf.where(~leads)
        number = tf.shape(places)[0]
        parts = (number + at_a_time - 1) // at_a_time
        if compiled:  # a program has one shape: the last part is filled up
            each = at_a_time
        else:  # one part at least, if an empty one, as its shape is not known
            parts = tf.maximum(parts, 1)
            each = (number + parts - 1) // parts
        filled = tf.pad(places, [[0, parts * each - number], [0, 0]])
        framed = tf.pad(scores, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        steps = tf.constant([[0, y, x] for y in (0, 1) for x in (0, 1)], tf.int64)
        size = at_a_time if compiled else None

        def part(some: Any) -> Any:
            corners = tf.gather_nd(framed, some[:, None] + steps)
            return classify(tf.ensure_shape(corners, [size, 4, channels]))

        computed = tf.map_fn(
            part,
            tf.reshape(filled, [parts, each, 3]),
            fn_output_signature=tf.TensorSpec([size, area], tf.uint8),
            parallel_iterations=1,
        )
        batch, height, width = (tf.shape(first)[axis] for axis in range(3))
        blocks = tf.broadcast_to(first[..., None, None], [batch, height, width, *sides])
        pixels = tf.reshape(computed, [-1, *sides])[:number]
        blocks = tf.tensor_scatter_nd_update(blocks, places, pixels)
        blocks = tf.transpose(blocks, [0, 1, 3, 2, 4])
        pixels = tf.reshape(blocks, [batch, height * sides[0], width * sides[1]])
        top, left = rows.start, columns.start
        bottom, right = (height - 1) * sides[0] + top, (width - 1) * sides[1] + left
        return pixels[:, top:bottom, left:right]

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

    Args:
        corners: float32 ``[m, 4, c]``, scores of the four cells around each block.
        weights: float32 ``[4, pixels]``.
    """
    number, channels = tf.shape(corners)[0], corners.shape[-1]
    flat = tf.reshape(tf.transpose(corners, [1, 0, 2]), [4, number * channels])
    logits = tf.linalg.matmul(weights, flat, transpose_a=True)
    logits = tf.reshape(logits, [weights.shape[1], number, channels])
    return tf.transpose(tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.uint8))


def largest_by_class(corners: Any, weights: Any) -> Any:
    """The same, one class after the other for all pixels: of that XLA makes one loop."""
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
