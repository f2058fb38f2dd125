"""What a network averages over a whole image: apart from the rest of it, or of a part alone.

Features averaged over all places tell a network what an image shows at large. Of a tile they tell
something else than of its image, so its scores would not go with those of its neighbours. Here a
network is cut in two: one function gives what is averaged, the other takes the averages of the
whole image.

Padding, too, tells something else than an image does, in averages and beside its border: a network
can be made to see a part of its images alone.
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
    """Lets a frozen function see a part of its images as if that were all of them.

    What is averaged over images is averaged over the part. What looks at neighbouring cells finds
    beyond the part what it would find beyond the border of an image: zeros mostly. (But for an
    average pooling whose windows reach over the border, which counts what lies there.)

    Args:
        function: a concrete function, without variables, of images ``[n, h, w, c]`` and perhaps
            more.

    Returns:
        A function of the same and of int32 ``[2]``: height and width of the part, in pixels from
        the upper left corner and multiples of the network's stride. Outputs are right in the part
        alone. It says nothing to a graph that has state or control flow.
    """
    try:
        graph = Graph(function)
    except ValueError:
        return lambda *given: function(*given[:-1])
    images = graph.inputs[0]
    of_images = graph.dtype(images)
    part = graph.add_input("part", [2], tf.int32)
    kept: dict[tuple[str, Callable], str] = {}

    def put_before(node: Any, change: Callable) -> None:
        """Puts a function of features, images and part before a node."""
        tensor = node.input[0]
        if (tensor, change) not in kept:
            signature = [
                tf.TensorSpec([None, None, None, None], dtype)
                for dtype in (node.attr["T"].type, of_images)
            ]
            changed = Graph(traced(change, *signature, tf.TensorSpec([2], tf.int32)))
            inputs = [tensor, images, part]
            (kept[tensor, change],) = graph.splice(changed, f"{node.name}/part", inputs)
        node.input[0] = kept[tensor, change]

    for name in means(graph):
        put_before(graph.nodes[name], _average)  # the mean of one place is that place
    looking = [node for node in graph.nodes.values() if _looks_beyond(graph, node)]
    shapes = graph.shapes([node.input[0] for node in looking])
    for node, shape in zip(looking, shapes, strict=True):
        if shape is not None:
            put_before(node, _BEYOND[node.op])
    graph.prune()
    return graph.function()


def _looks_beyond(graph: Graph, node: Any) -> bool:
    """Whether a node looks at cells beside those it computes, and nothing before it is told to."""
    if node.op not in _BEYOND:
        return False
    before = graph.nodes.get(node.input[0])
    if before is not None and before.op in _FRAMES:
        return False
    kernel = graph.constant(node.input[1]) if "Conv" in node.op else None
    return kernel is None or kernel.shape[:2] != (1, 1)


def _within(features: Any, images: Any, part: Any) -> list[Any]:
    """Which rows and which columns of features ``[n, h, w, c]`` are of a part of images."""
    found = []
    for axis in (1, 2):
        cells = tf.shape(features)[axis]
        found.append(tf.range(cells) < part[axis - 1] * cells // tf.shape(images)[axis])
    return found


def _average(features: Any, images: Any, part: Any) -> Any:
    """``[n, 1, 1, c]``: the mean of a part."""
    rows, columns = _within(features, images, part)
    count = tf.reduce_sum(tf.cast(rows[:, None] & columns, features.dtype))
    kept = _zero(features, images, part)
    return tf.reduce_sum(kept, axis=[1, 2], keepdims=True) / count


def _zero(features: Any, images: Any, part: Any) -> Any:
    rows, columns = _within(features, images, part)
    nothing = tf.zeros([], features.dtype)
    return tf.where(rows[:, None, None] & columns[:, None], features, nothing)


def _lowest(features: Any, images: Any, part: Any) -> Any:
    rows, columns = _within(features, images, part)
    nothing = tf.constant(features.dtype.min, features.dtype)
    return tf.where(rows[:, None, None] & columns[:, None], features, nothing)


def _edge(features: Any, images: Any, part: Any) -> Any:
    for axis, within in enumerate(_within(features, images, part), start=1):
        last = tf.reduce_sum(tf.cast(within, tf.int32)) - 1
        places = tf.minimum(tf.range(tf.shape(features)[axis]), last)
        features = tf.gather(features, places, axis=axis)
    return features


# What operations that look at neighbours find beyond an image's border.
_BEYOND = {
    "Conv2D": _zero,
    "DepthwiseConv2dNative": _zero,
    "AvgPool": _zero,
    "MaxPool": _lowest,
    "Pad": _zero,
    "PadV2": _zero,
    "SpaceToBatchND": _zero,
    "MirrorPad": _edge,
}
_FRAMES = ("Pad", "PadV2", "SpaceToBatchND", "MirrorPad")


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
