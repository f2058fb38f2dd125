"""The functions of a SavedModel as frozen graphs, read as data.

TensorFlow's own loader builds each function of a SavedModel, also those that save and restore it,
and a variable with its operations for each array; all of which a frozen graph is without. To read
the graph and the arrays takes a tenth of the time. What this does not know, such as state, control
flow or tables, is left to the loader.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

# What outputs an operation has, and what an attribute is that a SavedModel leaves out, which itself
# describes only the operations of its signatures.
from tensorflow.python.framework import op_def_registry

from model_build import artifact
from model_build.artifact import Functions
from pipeline.network.graphs import Graph, set_attribute

CALLS = ("PartitionedCall", "StatefulPartitionedCall")


class NotPlain(ValueError):
    """A SavedModel, or a function of one, that is not read as data."""


@functools.lru_cache(maxsize=1)
def functions(folder: str, fingerprint: str) -> Functions:
    """Body and head of a local SavedModel, to be called where TensorFlow traces a function.

    The last one is kept: a local run loads the network once to check it and once to use it.

    Args:
        folder: the SavedModel.
        fingerprint: tells a folder that was written anew.

    Raises:
        Exception: TensorFlow cannot load it.
    """
    try:
        return read(folder)
    except NotPlain:
        return artifact.loaded(folder)


def read(folder: str | Path) -> Functions:
    """Body and head of a local SavedModel as :class:`pipeline.network.graphs.Graph`.

    Raises:
        NotPlain: it holds what is not read as data, or is no SavedModel.
    """
    try:
        saved = saved_model_pb2.SavedModel.FromString(Path(folder, "saved_model.pb").read_bytes())
        (meta,) = saved.meta_graphs
        variables = tf.train.load_checkpoint(str(Path(folder, "variables", "variables")))
        file = _File(meta, variables)
        body, head = file.function("body"), file.function("head")
    except (OSError, DecodeError, KeyError, IndexError, ValueError, tf.errors.OpError) as error:
        raise NotPlain(f"{folder}: {error!r}") from error
    return Functions(body.graph(), head.graph(), head.channels)


class _File:
    """A SavedModel's parts.

    Args:
        meta: a ``MetaGraphDef``.
        variables: TensorFlow's reader of the checkpoint.
    """

    def __init__(self, meta: Any, variables: Any):
        self.objects = meta.object_graph_def
        self.constants = {node.name: node for node in meta.graph_def.node}
        self.versions = meta.graph_def.versions
        self.library = {f.signature.name: f for f in meta.graph_def.library.function}
        self.variables = variables
        self.keys = _keys(self.objects, variables)

    def function(self, name: str) -> _Function:
        """A function of the SavedModel's root object."""
        (index,) = (
            child.node_id for child in self.objects.nodes[0].children if child.local_name == name
        )
        (concrete,) = self.objects.nodes[index].function.concrete_functions
        return _Function(self, concrete)

    def variable(self, index: int) -> np.ndarray:
        """The value of an object that is a variable."""
        self._check(index, "variable")
        return self.variables.get_tensor(self.keys[index])

    def constant(self, index: int) -> np.ndarray:
        """The value of an object that is a constant, which a function has caught."""
        self._check(index, "constant")
        name = self.objects.nodes[index].constant.operation
        return tf.make_ndarray(self.constants[name].attr["value"].tensor)

    def _check(self, index: int, expected: str) -> None:
        kind = self.objects.nodes[index].WhichOneof("kind")
        if kind != expected:
            raise NotPlain(f"a function takes a {kind} as a {expected}")


def _operation(name: str) -> Any:
    """The ``OpDef`` of an operation."""
    found = op_def_registry.get(name)
    if found is None:
        raise NotPlain(f"{name} is no operation of this TensorFlow's")
    return found


def _place(node: Any, output: str) -> int:
    """The place of a named output's first tensor among those of a node."""
    place = 0
    for one in _operation(node.op).output_arg:
        if one.name == output:
            return place
        if one.number_attr:
            place += node.attr[one.number_attr].i
        elif one.type_list_attr:
            place += len(node.attr[one.type_list_attr].list.type)
        else:
            place += 1
    raise NotPlain(f"{node.op} has no output {output}")


def _keys(objects: Any, variables: Any) -> dict[int, str]:
    """The checkpoint's key of each variable, by its number among the SavedModel's objects.

    Both hold the same tree of named objects, numbered on their own
    (tensorflow/core/protobuf/trackable_object_graph.proto).
    """
    tree = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        variables.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
    )
    keys: dict[int, str] = {}
    seen = {0}
    left = [(0, 0)]
    while left:
        ours, theirs = left.pop()
        attributes = tree.nodes[theirs].attributes
        if attributes:
            keys[ours] = attributes[0].checkpoint_key
        children = {child.local_name: child.node_id for child in tree.nodes[theirs].children}
        for child in objects.nodes[ours].children:
            if child.node_id not in seen and child.local_name in children:
                seen.add(child.node_id)
                left.append((child.node_id, children[child.local_name]))
    return keys


class _Function:
    """A function with what it calls put in the place of the calls, and values for variables.

    Tensors have the names that a ``GraphDef`` calls them by, ``"node"`` and ``"node:1"``.

    Raises:
        NotPlain: it has state, control flow, several inputs or several outputs.
    """

    def __init__(self, file: _File, name: str):
        concrete, definition = file.objects.concrete_functions[name], file.library[name]
        if not concrete.output_signature.HasField("tensor_spec_value"):
            raise NotPlain(f"{name} gives more than one tensor")
        self.channels = concrete.output_signature.tensor_spec_value.shape.dim[-1].size
        self.file = file
        self.nodes: list[Any] = []
        self._same: dict[str, str] = {}  # tensors → those that they are
        (given, *caught) = definition.signature.input_arg
        if len(caught) != len(concrete.bound_inputs):
            raise NotPlain(f"{name} takes more than one tensor")
        self.input = given.name
        placeholder = tf.compat.v1.NodeDef(name=self.input, op="Placeholder")
        placeholder.attr["dtype"].type = given.type
        placeholder.attr["shape"].shape.unknown_rank = True
        self.nodes.append(placeholder)
        objects = [f"@{index}" for index in concrete.bound_inputs]
        (self.output,) = self._expand(definition, [self.input, *objects], "")
        self._resolve()

    def graph(self) -> Graph:
        """The function as a graph, its constant parts worked out."""
        definition = tf.compat.v1.GraphDef(node=self.nodes, versions=self.file.versions)
        return Graph.of(definition, [self.input], [self.output])

    def _expand(self, definition: Any, given: list[str], prefix: str) -> list[str]:
        """Adds the nodes of a function.

        Args:
            definition: a ``FunctionDef``.
            given: the tensors that it gets; ``"@5"`` is the SavedModel's object 5.
            prefix: goes before the names of its nodes.

        Returns:
            The tensors that it gives.
        """
        if definition.signature.attr:
            raise NotPlain(f"{definition.signature.name} is of any type")
        operations = {node.name: node for node in definition.node_def}
        arguments = dict(zip((a.name for a in definition.signature.input_arg), given, strict=True))

        def here(tensor: str) -> str:
            if ":" not in tensor:
                return arguments[tensor]
            name, output, index = tensor.split(":")
            number = _place(operations[name], output) + int(index)
            return f"{prefix}{name}:{number}" if number else f"{prefix}{name}"

        for node in definition.node_def:
            inputs = [here(tensor) for tensor in node.input if not tensor.startswith("^")]
            name = f"{prefix}{node.name}"
            if node.op in CALLS:
                called = self.file.library[node.attr["f"].func.name]
                for index, tensor in enumerate(self._expand(called, inputs, f"{name}/")):
                    self._same[f"{name}:{index}" if index else name] = tensor
                continue
            operation = _operation(node.op)
            if operation.is_stateful and node.op != "ReadVariableOp":
                raise NotPlain(f"{node.op} has state")
            copy = tf.compat.v1.NodeDef(name=name, op=node.op, device=node.device, input=inputs)
            for key, value in node.attr.items():
                if value.HasField("func") or value.list.func:
                    raise NotPlain(f"{node.op} is control flow")
                if key not in ("_output_shapes", "_class"):
                    copy.attr[key].CopyFrom(value)
            for attribute in operation.attr:  # a SavedModel leaves out what is by default
                if attribute.HasField("default_value") and attribute.name not in copy.attr:
                    copy.attr[attribute.name].CopyFrom(attribute.default_value)
            self.nodes.append(copy)
        return [here(definition.ret[output.name]) for output in definition.signature.output_arg]

    def _resolve(self) -> None:
        """Puts values in the place of variables, and results in the place of calls."""

        def origin(tensor: str) -> str:
            while tensor in self._same:
                tensor = self._same[tensor]
            return tensor

        for node in self.nodes:
            node.input[:] = [origin(tensor) for tensor in node.input]
            if node.op == "ReadVariableOp" and node.input[0].startswith("@"):
                value = self.file.variable(int(node.input[0][1:]))
                if node.attr["dtype"].type != tf.as_dtype(value.dtype):
                    raise NotPlain(f"{node.name} is read as another type than it has")
                node.op = "Const"
                node.input[:] = []
                set_attribute(node, "value", value)
        self.output = origin(self.output)
        caught: dict[str, Any] = {}

        def constant(tensor: str) -> str:
            if not tensor.startswith("@"):
                return tensor
            if tensor not in caught:
                value = self.file.constant(int(tensor[1:]))
                caught[tensor] = tf.compat.v1.NodeDef(name=f"caught.{tensor[1:]}", op="Const")
                set_attribute(caught[tensor], "dtype", value.dtype)
                set_attribute(caught[tensor], "value", value)
            return caught[tensor].name

        for node in self.nodes:
            node.input[:] = map(constant, node.input)
        self.output = constant(self.output)
        self.nodes += caught.values()
