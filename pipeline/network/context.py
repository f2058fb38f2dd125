"""What a network averages over a whole image, apart from the rest of it.

Features averaged over all places tell a network what an image shows at large. Of a tile they tell
something else than of its image, so its scores would not go with those of its neighbours. Here a
network is cut in two: one function gives what is averaged, the other takes the averages of the
whole image.
"""

from __future__ import annotations

from typing import Any

from pipeline.network.graphs import Graph


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
