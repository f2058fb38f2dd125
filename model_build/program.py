"""Runs an inference program: the functions that a job needs, taken from its single graph.

:mod:`model_build.export` lists the tensors of a program. Each function adds to TensorFlow's graph
the nodes that compute one tensor, with its inputs replaced by the function's arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from model_build.saved_model import UnusableModel, ancestors, node_of

IMAGES, SCORES, LOGITS = "images", "scores", "logits"
AGAIN = "copy or train the model again"
FEATURES, MEAN = "features{}", "mean{}"

# A node and the nodes of its inputs → a function that changes its first input, or None.
Change = Callable[[Any, Sequence[Any]], Callable[[Any], Any] | None]


class Program:
    """The functions of a program, to be called where TensorFlow traces a function.

    Args:
        graph: its ``GraphDef``, each node after its inputs.
        averages: number of averages over whole images that it uses.

    Attributes:
        graph: the same ``GraphDef``.
        channels: number of channels of scores and logits.
        averaged: number of channels of each average.

    Raises:
        UnusableModel: a tensor is missing, or a node comes before its inputs.
    """

    def __init__(self, graph: Any, averages: int):
        self.graph = graph
        self._features = [FEATURES.format(index) for index in range(averages)]
        self._means = [MEAN.format(index) for index in range(averages)]
        self._nodes = {node.name: node for node in with_kernels(graph.node)}
        for name in (IMAGES, SCORES, LOGITS, *self._features, *self._means):
            if name not in self._nodes:
                raise UnusableModel(f"it has no tensor {name!r}; {AGAIN}")
        self.channels, *self.averaged = map(self._channels, (LOGITS, *self._means))

    def scores(self, images: Any, *means: Any, change: Change | None = None) -> Any:
        """Computes scores, float32 ``[n, h/s, w/s, classes]``.

        Args:
            images: uint8 RGB ``[n, h, w, 3]``.
            means: averages to use instead of the images' own, float32 ``[n, 1, 1, c]`` each.
            change: replaces the first input of nodes.
        """
        given = {IMAGES: images, **(dict(zip(self._means, means, strict=True)) if means else {})}
        return self._tensors([SCORES], given, change)[0]

    def features(self, images: Any, change: Change | None = None) -> list[Any]:
        """Computes the features to average, float32 ``[n, h/s, w/s, c]`` with s and c for each.

        Args:
            images, change: as in :meth:`scores`.
        """
        return self._tensors(self._features, {IMAGES: images}, change)

    def logits(self, scores: Any) -> Any:
        """Computes logits, float32 ``[n, h, w, classes]``, from scores."""
        return self._tensors([LOGITS], {SCORES: scores}, None)[0]

    def _channels(self, name: str) -> int:
        shapes = self._nodes[name].attr["_output_shapes"].list.shape
        if not shapes or len(shapes[0].dim) != 4:
            raise UnusableModel(f"its tensor {name!r} has no channels; {AGAIN}")
        return shapes[0].dim[3].size

    def _tensors(
        self, wanted: Sequence[str], given: Mapping[str, Any], change: Change | None
    ) -> list[Any]:
        values = {f"{name}:0": tensor for name, tensor in given.items()}
        needed = ancestors(self._nodes, wanted, given)
        for node in self._nodes.values():
            if node.name not in needed:
                continue
            sources = [self._nodes[node_of(tensor)] for tensor in node.input]
            changed = change(node, sources) if change and sources else None
            runs = not _is_dilated_depthwise(node) or dilates_depthwise()
            if changed is None and runs:
                continue
            self._add(node.input, values)
            first, *others = (values[_full(name)] for name in node.input)
            if changed is not None:
                first = changed(first)
            if runs:
                self._add([node.name], values, {_full(node.input[0]): first})
            else:
                values[_full(node.name)] = _rearranged(node, first, *others)
        self._add(wanted, values)
        return [values[_full(name)] for name in wanted]

    def _add(
        self,
        wanted: Iterable[str],
        values: dict[str, Any],
        instead: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds missing nodes to the graph that TensorFlow is building.

        Args:
            wanted: names of tensors.
            values: existing tensors by name; those of the added nodes are added.
            instead: replacements for some of these as inputs of the nodes.
        """
        names = ancestors(self._nodes, wanted, map(node_of, values))
        if not names:
            return
        nodes = [node for node in self._nodes.values() if node.name in names]
        taken = {_full(name) for node in nodes for name in node.input} & values.keys()
        given = {name: {**values, **(instead or {})}[name] for name in taken}
        part = tf.compat.v1.GraphDef(node=nodes, versions=self.graph.versions)
        added = tf.graph_util.import_graph_def(part, given, [node.name for node in nodes])
        for operation, node in zip(added, nodes, strict=True):
            for index, tensor in enumerate(operation.outputs):
                values[f"{node.name}:{index}"] = tensor


def with_kernels(nodes: Iterable[Any]) -> list[Any]:
    """Evaluates the products and casts of constants in nodes.

    A kernel stored as float16 is cast and multiplied by the factors of batch norms. TensorFlow's
    optimizer does not fold casts that enlarge a large constant, so they would run for each image.

    Raises:
        UnusableModel: a node comes before its inputs.
    """
    constants: dict[str, np.ndarray] = {}
    found: dict[str, Any] = {}
    for node in nodes:
        sources = [node_of(tensor) for tensor in node.input]
        if not all(source in found for source in sources):
            raise UnusableModel(f"its graph is not whole or not in order ({node.name}); {AGAIN}")
        found[node.name] = node
        if node.op == "Const":
            constants[node.name] = tf.make_ndarray(node.attr["value"].tensor)
        elif node.op in ("Cast", "Mul") and all(source in constants for source in sources):
            values = [constants[source] for source in sources]
            value = np.multiply(*values) if node.op == "Mul" else values[0].astype(_type_of(node))
            constants[node.name] = value
            found[node.name] = constant(node, value)
    return list(found.values())


def constant(node: Any, value: np.ndarray) -> Any:
    """Returns a constant node with a value, to replace a node."""
    found = tf.compat.v1.NodeDef(name=node.name, op="Const")
    found.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
    found.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    found.attr["_output_shapes"].CopyFrom(node.attr["_output_shapes"])
    return found


@functools.cache
def dilates_depthwise() -> bool:
    """Whether this machine's TensorFlow has a kernel for dilated depthwise convolutions.

    oneDNN has one, if TensorFlow uses it; TensorFlow itself has none.
    """
    try:
        with tf.init_scope():
            image, kernel = tf.zeros([1, 4, 4, 1]), tf.zeros([3, 3, 1, 1])
            tf.raw_ops.DepthwiseConv2dNative(
                input=image,
                filter=kernel,
                strides=[1, 1, 1, 1],
                padding="SAME",
                dilations=[1, 2, 2, 1],
            )
    except tf.errors.UnimplementedError:
        return False
    return True


def _is_dilated_depthwise(node: Any) -> bool:
    return node.op == "DepthwiseConv2dNative" and max(node.attr["dilations"].list.i, default=1) > 1


def _rearranged(node: Any, images: Any, kernel: Any) -> Any:
    """Computes a dilated depthwise convolution as dense ones on every second, third … place."""
    _, *dilations, _ = node.attr["dilations"].list.i
    strides, padding = list(node.attr["strides"].list.i), node.attr["padding"].s.decode()
    return tf.nn.depthwise_conv2d(images, kernel, strides, padding, dilations=dilations)


def _type_of(cast: Any) -> Any:
    return tf.as_dtype(cast.attr["DstT"].type).as_numpy_dtype


def _full(tensor: str) -> str:
    return tensor if ":" in tensor else f"{tensor}:0"
