"""A frozen graph as its nodes by name: looked at, rewired, its constant parts worked out, run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# What hands its inputs on as they are. IdentityN is what a custom gradient leaves, as of swish.
_PASSES_ON = ("Identity", "IdentityN", "Snapshot", "StopGradient", "PreventGradient")
_CONTROL_FLOW = ("Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond")
_SOURCES = ("Const", "Placeholder")


class Graph:
    """The nodes of a frozen function, without identities and control edges, constants worked out.

    Tensors are called as a ``GraphDef`` calls a node's inputs: ``"name"`` is a node's first output,
    ``"name:1"`` its second.

    Args:
        function: a concrete function without variables, as ``convert_variables_to_constants_v2``
            of TensorFlow makes it.

    Attributes:
        nodes: each node that the outputs need, by name.
        inputs: name of the placeholder of each of the function's inputs.
        outputs: tensor of each of the function's outputs.

    Raises:
        ValueError: the function has state, control flow or calls that may have either, so that
            order matters in it and edges must not be taken away.
    """

    def __init__(self, function: Any):
        for operation in function.graph.get_operations():
            if operation.op_def.is_stateful:
                raise ValueError(f"{operation.type} ({operation.name}) is not a pure function")
        self._take(
            function.graph.as_graph_def(),
            [tensor.op.name for tensor in function.inputs],
            [_short(tensor.name) for tensor in function.outputs],
        )

    @classmethod
    def of(cls, definition: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
        """The graph of a ``GraphDef`` that has no state.

        Args:
            inputs: names of its placeholders.
            outputs: tensors.

        Raises:
            ValueError: it has control flow, or two nodes of one name.
        """
        graph = cls.__new__(cls)
        graph._take(definition, inputs, outputs)
        return graph

    def _take(self, definition: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._rest = tf.compat.v1.GraphDef(versions=definition.versions, library=definition.library)
        self.nodes = {node.name: node for node in definition.node}
        if len(self.nodes) < len(definition.node):
            raise ValueError("two nodes have one name")
        for node in self.nodes.values():
            if node.op in _CONTROL_FLOW:
                raise ValueError(f"{node.op} ({node.name}) is not a pure function")
        self.inputs, self.outputs = list(inputs), list(outputs)
        for node in self.nodes.values():
            node.input[:] = [_short(name) for name in node.input if not name.startswith("^")]
        self._pass_on()
        self.prune()
        self._work_out_constants()

    def __call__(self, *inputs: Any) -> Any:
        """Its output, where TensorFlow traces a function: a tensor, or several as a list."""
        found = self._within(self.outputs, dict(zip(self.inputs, inputs, strict=True)))
        return found[0] if len(found) == 1 else found

    def users(self) -> Mapping[str, list[Any]]:
        """The nodes that take each tensor, once for each time they do; outputs count as None."""
        users: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes.values():
            for name in node.input:
                users[name].append(node)
        for name in self.outputs:
            users[name].append(None)
        return users

    def constant(self, tensor: str) -> np.ndarray | None:
        """The value of a constant; None for what is computed."""
        node = self.nodes.get(tensor)
        if node is None or node.op != "Const":
            return None
        return tf.make_ndarray(node.attr["value"].tensor)

    def add(self, op: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node, in the place of one that had this name.

        Args:
            attributes: of the operation: a numpy dtype, an array, text or a list of int.

        Returns:
            Its name.
        """
        node = tf.compat.v1.NodeDef(op=op, name=name, input=inputs)
        for key, value in attributes.items():
            set_attribute(node, key, value)
        self.nodes[name] = node
        return name

    def add_constant(self, name: str, value: np.ndarray) -> str:
        """Adds a constant, in the place of a node that had this name."""
        return self.add("Const", name, [], value=value, dtype=value.dtype)

    def add_input(self, name: str, shape: Sequence[int | None], dtype: Any) -> str:
        """Adds a placeholder, as the last of the inputs.

        Returns:
            Its name.
        """
        self.add("Placeholder", name, [], dtype=np.dtype(dtype.as_numpy_dtype))
        self.nodes[name].attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
        self.inputs.append(name)
        return name

    def replace(self, tensor: str, other: str) -> None:
        """Gives all that takes one tensor the other in its place."""
        for node in self.nodes.values():
            node.input[:] = [other if name == tensor else name for name in node.input]
        self.outputs = [other if name == tensor else name for name in self.outputs]

    def prune(self) -> None:
        """Drops what no output needs."""
        needed = self.above(self.outputs) | set(self.inputs)
        self.nodes = {name: node for name, node in self.nodes.items() if name in needed}

    def above(self, tensors: Iterable[str], stop: Iterable[str] = ()) -> set[str]:
        """Names of the nodes that tensors are computed from, and of their own.

        Args:
            stop: tensors that are taken as given.
        """
        stop, found = set(stop), set()
        left = [tensor for tensor in tensors if tensor not in stop]
        while left:
            name = _node(left.pop())
            if name not in found:
                found.add(name)
                left += [tensor for tensor in self.nodes[name].input if tensor not in stop]
        return found

    def run(
        self, tensors: Sequence[str], given: Mapping[str, np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Computes tensors, here and now.

        Args:
            given: values for tensors that are computed otherwise.
        """
        given = dict(given or {})

        def compute() -> list[Any]:
            values = {name: tf.constant(value) for name, value in given.items()}
            return self._within(tensors, values)

        function = traced(compute)
        types = [tensor.dtype for tensor in function.outputs]
        # What runs once is not worth optimizing, which would take longer than to run it.
        settings = tf.compat.v1.ConfigProto(allow_soft_placement=True)
        settings.graph_options.rewrite_options.disable_meta_optimizer = True
        values = tf.raw_ops.PartitionedCall(
            args=[], Tout=types, f=function, config_proto=settings.SerializeToString()
        )
        return [value.numpy() for value in values]

    def shapes(
        self, tensors: Sequence[str], sides: int | None = None
    ) -> list[tuple[int | None, ...] | None]:
        """The shapes of tensors as far as they follow from the shapes of the inputs.

        Args:
            sides: what sides of the inputs are where they may be any.

        Returns:
            None for what has an unknown number of dimensions.
        """
        with tf.Graph().as_default():
            given = {}
            for name in self.inputs:
                shape = self.shape_of_input(name)
                shape = [sides if side is None else side for side in shape]
                given[name] = tf.compat.v1.placeholder(self.dtype(name), shape)
            found = self._within(tensors, given)
        return [None if x.shape.rank is None else tuple(x.shape.as_list()) for x in found]

    def shape_of_input(self, name: str) -> list[int | None]:
        """The shape of an input; None for sides that may be any."""
        sizes = [dim.size for dim in self.nodes[name].attr["shape"].shape.dim]
        return [None if size < 0 else size for size in sizes]

    def dtype(self, tensor: str) -> Any:
        """The type of a tensor."""
        with tf.Graph().as_default():
            (found,) = self._within([tensor], {})
        return found.dtype

    def is_of_sizes(self, tensor: str) -> bool:
        """Whether a tensor is computed from constants and the sizes of others alone."""
        sizes = [node.name for node in self.nodes.values() if node.op == "Shape"]
        return all(self.nodes[name].op != "Placeholder" for name in self.above([tensor], sizes))

    def splice(self, other: Graph, name: str, inputs: Sequence[str]) -> list[str]:
        """Adds the nodes of another graph.

        Args:
            name: goes before the names of its nodes.
            inputs: the tensors that it gets.

        Returns:
            The tensors of its outputs.
        """
        given = dict(zip(other.inputs, inputs, strict=True))

        def here(tensor: str) -> str:
            return given.get(tensor, f"{name}/{tensor}")

        for node in other.nodes.values():
            if node.name not in given:
                copy = tf.compat.v1.NodeDef()
                copy.CopyFrom(node)
                copy.name, copy.input[:] = here(node.name), map(here, node.input)
                self.nodes[copy.name] = copy
        return [here(tensor) for tensor in other.outputs]

    def _within(self, tensors: Sequence[str], given: Mapping[str, Any]) -> list[Any]:
        """Adds what computes tensors to the graph that TensorFlow is building.

        Args:
            given: tensors of that graph that stand for tensors of this one.
        """
        wanted = [tensor for tensor in dict.fromkeys(tensors) if tensor not in given]
        part = self.definition(self.above(wanted, given))
        # Those alone that are needed: others would be taken for mistakes.
        used = {name for node in part.node for name in node.input}
        inputs = {_full(name): value for name, value in given.items() if name in used}
        outputs = [_full(tensor) for tensor in wanted]
        found = tf.graph_util.import_graph_def(part, inputs, outputs, name="")
        values = {**given, **dict(zip(wanted, found, strict=True))}
        return [values[tensor] for tensor in tensors]

    def function(self) -> Any:
        """The graph as a concrete function again, of the same inputs."""

        def call(*inputs: Any) -> list[Any]:
            return self._within(self.outputs, dict(zip(self.inputs, inputs, strict=True)))

        signature = [
            tf.TensorSpec(self.shape_of_input(name), self.dtype(name)) for name in self.inputs
        ]
        return traced(call, *signature)

    def definition(self, names: Iterable[str]) -> Any:
        """These nodes as a ``GraphDef``."""
        definition = tf.compat.v1.GraphDef()
        definition.CopyFrom(self._rest)
        definition.node.extend(self.nodes[name] for name in names)
        return definition

    def operations(self) -> Counter:
        """How often each operation stands in the graph, constants aside."""
        return Counter(node.op for node in self.nodes.values() if node.op not in _SOURCES)

    def _pass_on(self) -> None:
        given: dict[str, str] = {}
        for node in self.nodes.values():
            if node.op in _PASSES_ON:
                for index, name in enumerate(node.input):
                    given[f"{node.name}:{index}" if index else node.name] = name

        def origin(name: str) -> str:
            while name in given:
                name = given[name]
            return name

        for node in self.nodes.values():
            node.input[:] = [origin(name) for name in node.input]
        self.outputs = [origin(name) for name in self.outputs]

    def _work_out_constants(self) -> None:
        constant: dict[str, bool] = {}
        for name in self._in_order():
            node = self.nodes[name]
            known = bool(node.input) and all(constant[_node(source)] for source in node.input)
            constant[name] = node.op == "Const" or known
        # Those alone that something computed takes are needed as constants.
        wanted = {
            tensor
            for tensor, users in self.users().items()
            if constant[_node(tensor)]
            and self.nodes[_node(tensor)].op != "Const"
            and any(user is None or not constant[user.name] for user in users)
        }
        ordered = sorted(wanted)
        values = self.run(ordered) if ordered else []
        for tensor, value in zip(ordered, values, strict=True):
            if tensor in self.nodes:
                self.add_constant(tensor, np.asarray(value))
            else:  # not the first output of its node, whose name is taken
                self.replace(tensor, self.add_constant(tensor.replace(":", "_"), np.asarray(value)))
        self.prune()

    def _in_order(self) -> list[str]:
        """Names, each after those of its inputs."""
        order: dict[str, None] = {}
        for first in self.nodes:
            left = [first]
            while left:
                name = left[-1]
                sources = {_node(tensor) for tensor in self.nodes[name].input}
                missing = [source for source in sources if source not in order]
                if missing:
                    left += missing
                else:
                    order[left.pop()] = None
        return list(order)


def traced(function: Callable, *signature: Any) -> Any:
    """A function as a concrete function, with its operations in no order but that of their data.

    ``tf.function`` would also work out for each operation whether it has state, and make those that
    have wait for each other; here none has.
    """
    return tf.compat.v1.wrap_function(function, signature)


def set_attribute(node: Any, key: str, value: Any) -> None:
    """Sets an attribute of a node: a numpy dtype, an array, text or a list of int."""
    attribute = node.attr[key]
    attribute.Clear()
    if isinstance(value, np.ndarray):
        attribute.tensor.CopyFrom(tf.make_tensor_proto(value))
    elif isinstance(value, np.dtype):
        attribute.type = tf.as_dtype(value).as_datatype_enum
    elif isinstance(value, str):
        attribute.s = value.encode()
    else:
        attribute.list.i[:] = value
        attribute.list.SetInParent()


def _short(name: str) -> str:
    return name.removesuffix(":0")


def _node(tensor: str) -> str:
    return tensor.partition(":")[0]


def _full(tensor: str) -> str:
    return tensor if ":" in tensor else f"{tensor}:0"
