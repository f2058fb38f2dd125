"""What a network averages over a whole image: apart from the rest of it, or of a part alone.

Features averaged over all places tell a network what an image shows at large. Of a tile they tell
something else than of its image, so its scores would not go with those of its neighbours. Here a
network is cut in two: one function gives what is averaged, the other takes the averages of the
whole image. Padding, too, tells something else than an image does: here it can be left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from pipeline.network.graphs import Graph, traced


def split(function: Any) -> tuple[Any, Any]:
    """Cuts a frozen function in two at what it averages over the places of its images.

    Args:
        function: a concrete function of images ``[n, h, w, c]``, without variables.

    Returns:
        Two concrete functions: images → for each average the features ``[n, h, w, c]`` that it is
        of; and images and these, already averaged to ``[n, 1, 1, c]``, → the function's outputs.
        The first is None, and the second the function itself, where nothing is averaged, or where
        the graph has state or control flow and cannot be cut.
    """
    try:
        features, rest = Graph(function), Graph(function)
    except ValueError:
        return None, function
    averages = means(rest)
    if not averages:
        return None, function
    features.outputs = [rest.nodes[name].input[0] for name in averages]
    features.prune()
    shapes = rest.shapes(features.outputs)
    for name, tensor, shape in zip(averages, features.outputs, shapes, strict=True):
        assert shape is not None  # or it would not be known what is averaged
        given = [shape[0], 1, 1, shape[3]]
        # The mean of one place is that place, so what shape the mean has is left to it.
        rest.nodes[name].input[0] = rest.add_input(f"{name}/given", given, rest.dtype(tensor))
    rest.prune()
    return features.function(), rest.function()


def of_part(function: Any) -> Callable[..., Any]:
    """Lets a frozen function average over a part of its images alone.

    Args:
        function: a concrete function, without variables, of images ``[n, h, w, c]`` and perhaps
            more.

    Returns:
        A function of the same and of int32 ``[2]``: height and width, in pixels from the upper left
        corner, of the part that counts in averages. That says nothing to a graph that has state or
        control flow.
    """
    try:
        graph = Graph(function)
    except ValueError:
        return lambda *given: function(*given[:-1])
    images = graph.inputs[0]
    part = graph.add_input("part", [2], tf.int32)
    for name in means(graph):
        mean = graph.nodes[name]
        signature = [
            tf.TensorSpec([None, None, None, None], graph.dtype(tensor))
            for tensor in (mean.input[0], images)
        ]
        average = Graph(traced(_average, *signature, tf.TensorSpec([2], tf.int32)))
        # The mean of one place is that place, so what shape the mean has is left to it.
        (mean.input[0],) = graph.splice(average, f"{name}/part", [mean.input[0], images, part])
    graph.prune()
    return graph.function()


def _average(features: Any, images: Any, part: Any) -> Any:
    """``[n, 1, 1, c]``: features ``[n, h, w, c]`` averaged over the cells of a part of images."""
    counts = []
    for axis in (1, 2):
        cells = tf.shape(features)[axis]
        counts.append(tf.range(cells) < part[axis - 1] * cells // tf.shape(images)[axis])
    within = counts[0][:, None] & counts[1]
    kept = tf.where(within[:, :, None], features, tf.zeros([], features.dtype))
    count = tf.reduce_sum(tf.cast(within, features.dtype))
    return tf.reduce_sum(kept, axis=[1, 2], keepdims=True) / count


def means(graph: Graph) -> list[str]:
    """Names of the nodes that average images over height and width."""
    found = [
        node
        for node in graph.nodes.values()
        if node.op == "Mean" and _axes(graph, node) in ([1, 2], [-3, -2])
    ]
    shapes = graph.shapes([node.input[0] for node in found])
    return [
        node.name for node, shape in zip(found, shapes, strict=True) if shape and len(shape) == 4
    ]


def _axes(graph: Graph, mean: Any) -> list[int]:
    axes = graph.constant(mean.input[1])
    return [] if axes is None else sorted(axes.ravel().tolist())
