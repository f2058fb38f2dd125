"""The last product of a network and its argmax, by bands of rows.

An interpolation is a product with a matrix that has two weights in each row, and zeros: most of the
product is spent on zeros, and the logits of all pixels go through memory twice. By bands of rows
only the columns that a band has weights in are multiplied, and a band's logits are still in the
cache when their largest is looked for.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.network.graphs import Graph, traced

PRODUCTS = ("BatchMatMulV2", "BatchMatMul", "MatMul")
TRANSPOSES = ("adj_x", "adj_y", "transpose_a", "transpose_b")
BANDS = 8  # between 4 and 24 it makes little difference


def argmax_by_bands(graph: Graph) -> None:
    """Rewrites argmax(reshape(matrix · scores)) where the matrix depends on sizes alone, in place.

    The matrix is ``[rows, cells]``, scores are ``[n, cells, columns · channels]``, and what the
    argmax sees is ``[n, rows, columns, channels]``. What the matrix holds need not be known: where
    its zeros are is looked up in each call.
    """
    for node in list(graph.nodes.values()):
        if node.op != "ArgMax" or graph.constant(node.input[1]) not in (-1, 3):
            continue
        reshape = graph.nodes.get(node.input[0])
        if reshape is None or reshape.op != "Reshape":
            continue
        product = graph.nodes.get(reshape.input[0])
        if product is None or product.op not in PRODUCTS:
            continue
        if any(product.attr[key].b for key in TRANSPOSES if key in product.attr):
            continue
        matrix, scores = product.input
        if not graph.is_of_sizes(matrix) or not _fits(graph, (matrix, scores, node.input[0])):
            continue
        signature = [
            tf.TensorSpec([None, None], tf.float32),
            tf.TensorSpec([None, None, None], tf.float32),
            tf.TensorSpec([4], graph.dtype(reshape.input[1])),
            tf.TensorSpec([], tf.int32),
        ]
        kind = tf.as_dtype(node.attr["output_type"].type)
        band = Graph(traced(partial(_argmax, kind), *signature))
        found = []
        for number in range(BANDS):
            name = f"{node.name}/band{number}"
            which = graph.add_constant(f"{name}/number", np.array(number, np.int32))
            found += graph.splice(band, name, [matrix, scores, reshape.input[1], which])
        axis = graph.add_constant(f"{node.name}/bands/axis", np.array(1, np.int32))
        types = {"T": np.dtype(kind.as_numpy_dtype), "Tidx": np.dtype(np.int32)}
        bands = graph.add("ConcatV2", f"{node.name}/bands", [*found, axis], N=BANDS, **types)
        graph.replace(node.name, bands)
    graph.prune()


def _fits(graph: Graph, tensors: tuple[str, str, str]) -> bool:
    """Whether matrix, scores and logits have 2, 3 and 4 dimensions of float32."""
    shapes = graph.shapes(tensors)
    ranks = [None if shape is None else len(shape) for shape in shapes]
    return ranks == [2, 3, 4] and graph.dtype(tensors[0]) == tf.float32


def _argmax(kind: Any, matrix: Any, scores: Any, shape: Any, band: Any) -> Any:
    """Index of a band's largest channel, ``[n, rows, columns]``; shape is that of all logits."""
    rows, cells = tf.shape(matrix)[0], tf.shape(matrix)[1]
    places = tf.range(cells)
    weights = matrix[rows * band // BANDS : rows * (band + 1) // BANDS]
    used = tf.reduce_any(weights != 0, axis=0)
    first = tf.reduce_min(tf.where(used, places, cells))
    end = tf.reduce_max(tf.where(used, places + 1, 0))
    logits = tf.linalg.matmul(weights[:, first:end], scores[:, first:end])
    split = tf.concat([shape[:1], [tf.cast(tf.shape(weights)[0], shape.dtype)], shape[2:]], 0)
    return tf.argmax(tf.reshape(logits, split), axis=-1, output_type=kind)
