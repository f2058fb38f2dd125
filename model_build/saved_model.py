"""Writes flat graphs as SavedModels; reads any SavedModel and checks its operations.

A program of :mod:`model_build.export` has the form of TensorFlow 1: its only function is the graph
itself, without variables, so that its tensors keep their names
(https://www.tensorflow.org/guide/saved_model, tensorflow/core/protobuf/saved_model.proto).
TensorFlow Serving, ``tf.saved_model.load`` and converters read both forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError

FILE = "saved_model.pb"
SIGNATURE = "serving_default"

# Operations that only compute tensors from others: they open no file or connection, load no
# library, call no Python and keep no state.
_COMPUTING = """
Const Placeholder PlaceholderWithDefault NoOp Identity IdentityN Snapshot StopGradient EnsureShape
PreventGradient PartitionedCall StatefulPartitionedCall If StatelessIf While StatelessWhile Case
StatelessCase Switch Merge Assert VarHandleOp ReadVariableOp VarIsInitializedOp

Shape ShapeN Size Rank Reshape Squeeze ExpandDims BroadcastArgs BroadcastTo Fill ZerosLike OnesLike
Range LinSpace Pack Unpack Concat ConcatV2 ConcatOffset Split SplitV Slice StridedSlice Gather
GatherV2 GatherNd ScatterNd TensorScatterUpdate TensorScatterAdd Tile Transpose InvertPermutation
Reverse ReverseV2 Roll Pad PadV2 MirrorPad SpaceToBatch SpaceToBatchND BatchToSpace BatchToSpaceND
SpaceToDepth DepthToSpace Where OneHot MatrixBandPart

Abs Neg Sign Square Sqrt Rsqrt Exp Expm1 Log Log1p Sin Cos Tan Sinh Cosh Tanh Atan Atan2 Erf Erfc
Floor Ceil Round Rint Reciprocal Inv Sigmoid Cast Bitcast ClipByValue Add AddV2 AddN Sub Mul
MulNoNan Div DivNoNan RealDiv FloorDiv TruncateDiv FloorMod Mod TruncateMod Pow Maximum Minimum
SquaredDifference Xdivy Xlogy Equal NotEqual Less LessEqual Greater GreaterEqual LogicalAnd
LogicalOr LogicalNot IsFinite IsInf IsNan Select SelectV2

Sum Mean Prod Max Min All Any ArgMax ArgMin Cumsum Cumprod TopK TopKV2 MatMul BatchMatMul
BatchMatMulV2 BatchMatMulV3 Einsum L2Loss SegmentSum UnsortedSegmentSum

Conv2D DepthwiseConv2dNative Conv2DBackpropInput Conv3D Conv BiasAdd BiasAddV1 MaxPool MaxPoolV2
AvgPool FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Relu Relu6 LeakyRelu Elu Selu Softplus
Softsign Softmax LogSoftmax LRN Dilation2D ExtractImagePatches

ResizeBilinear ResizeNearestNeighbor ResizeBicubic ResizeArea CropAndResize ScaleAndTranslate
AdjustContrastv2 RGBToHSV HSVToRGB
"""
_COMPUTES = frozenset(_COMPUTING.split())
_PRODUCTS = frozenset(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"))


class UnusableModel(ValueError):
    """A SavedModel that cannot be read or must not be run; its text gives cause and remedy."""


def _message() -> Any:
    """Returns the file's message type, which TensorFlow registers but does not export."""
    pool = descriptor_pool.Default()
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.SavedModel"))


def write(folder: Path, graph: Any, taken: str, given: str) -> None:
    """Writes a SavedModel that is one flat graph; equal graphs give equal bytes.

    Args:
        folder: is created.
        graph: a ``GraphDef`` without variables, with the shapes of its tensors.
        taken, given: names of the nodes that are input and output of its serving signature.
    """
    saved = _message()(saved_model_schema_version=1)
    meta = saved.meta_graphs.add()
    meta.meta_info_def.tags.append(tf.saved_model.SERVING)
    meta.meta_info_def.tensorflow_version = tf.__version__
    meta.graph_def.CopyFrom(graph)
    nodes = {node.name: node for node in graph.node}
    signature = meta.signature_def[SIGNATURE]
    signature.method_name = tf.saved_model.PREDICT_METHOD_NAME
    for tensors, name in ((signature.inputs, taken), (signature.outputs, given)):
        attributes = nodes[name].attr
        tensors[name].name = f"{name}:0"
        tensors[name].dtype = attributes["dtype" if "dtype" in attributes else "T"].type
        tensors[name].tensor_shape.CopyFrom(attributes["_output_shapes"].list.shape[0])
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(saved.SerializeToString(deterministic=True))


def read(folder: str | Path) -> Any:
    """Reads the ``MetaGraphDef`` of a local SavedModel and checks that it only computes.

    Raises:
        UnusableModel: the file is missing or cut short, or contains something that must not run:
            file access, code, state, an operation not known to be pure, or a product that would
            crash the process.
    """
    try:
        saved = _message().FromString((Path(folder) / FILE).read_bytes())
    except OSError as error:
        raise UnusableModel(f"{FILE} cannot be read ({error.strerror}); copy it again") from None
    except DecodeError:
        raise UnusableModel(f"{FILE} is truncated or no SavedModel; copy it again") from None
    serving = [
        meta for meta in saved.meta_graphs if tf.saved_model.SERVING in meta.meta_info_def.tags
    ]
    if len(serving) != 1 or SIGNATURE not in serving[0].signature_def:
        raise UnusableModel(f"{FILE} has no signature {SIGNATURE!r}; save it with one")
    check(serving[0])
    return serving[0]


def check(meta: Any) -> None:
    """Checks the operations that a ``MetaGraphDef`` would run when loaded and called.

    Raises:
        UnusableModel: as :func:`read`.
    """
    if meta.asset_file_def or "asset_filepaths" in meta.collection_def:
        raise UnusableModel("it holds files of its own (assets); save it without them")
    for item in meta.object_graph_def.nodes:
        kind = item.WhichOneof("kind")
        if kind in ("asset", "resource"):
            raise UnusableModel(f"it holds state other than variables ({kind}); save it without")
    functions = {f.signature.name: f for f in meta.graph_def.library.function}
    for nodes in _called(meta, functions):
        for node in nodes:
            if node.op not in _COMPUTES:
                raise UnusableModel(
                    f"it holds the operation {node.op} ({node.name}), which is not known to only "
                    "compute; save it without that"
                )
        _check_products(nodes)


def _called(meta: Any, functions: Mapping[str, Any]) -> Iterator[Iterable[Any]]:
    """Yields the nodes of a signature in the main graph and in each function that it calls.

    The functions that save and restore a SavedModel's variables are left out: TensorFlow's loader
    reads the variables itself and does not call them.
    """
    graph = {node.name: node for node in meta.graph_def.node}
    if meta.HasField("object_graph_def"):
        outputs = meta.signature_def[SIGNATURE].outputs.values()
        nodes = [graph[name] for name in ancestors(graph, (output.name for output in outputs))]
    else:  # the form of TensorFlow 1, whose loader imports the whole graph
        nodes = list(graph.values())
    seen: set[str] = set()
    left = [nodes]
    while left:
        nodes = left.pop()
        yield nodes
        for node in nodes:
            for value in node.attr.values():
                for function in (value.func, *value.list.func):
                    if function.name in functions and function.name not in seen:
                        seen.add(function.name)
                        left.append(_nodes_of(functions[function.name]))


def _nodes_of(function: Any) -> list[Any]:
    """Returns the nodes of a ``FunctionDef``, with its arguments as placeholders."""
    arguments = [
        tf.compat.v1.NodeDef(
            name=argument.name, op="Placeholder", attr=function.arg_attr[index].attr
        )
        for index, argument in enumerate(function.signature.input_arg)
        if index in function.arg_attr
    ]
    return [*arguments, *function.node_def]


def ancestors(graph: dict[str, Any], tensors: Iterable[str], given: Iterable[str] = ()) -> set[str]:
    """Returns the names of all nodes that tensors depend on, including their own.

    Args:
        graph: nodes of a flat ``GraphDef`` by name.
        tensors: by name, ``"node"``, ``"node:1"``, or ``"^node"`` for a control input.
        given: names of nodes that count as already computed.

    Raises:
        KeyError: an input is not a node.
    """
    stop, found = set(given), set()
    left = [node_of(tensor) for tensor in tensors]
    while left:
        name = left.pop()
        if name not in found and name not in stop:
            found.add(name)
            left += map(node_of, graph[name].input)
    return found


def node_of(tensor: str) -> str:
    """Returns the name of the node that outputs a tensor."""
    return tensor.removeprefix("^").partition(":")[0]


def _check_products(nodes: Iterable[Any]) -> None:
    """Refuses products of rank 4 × rank 2, as far as the file states ranks.

    They crash the process under oneDNN (https://github.com/tensorflow/tensorflow/issues/117700).
    """
    ranks = {}
    for node in nodes:
        shapes = node.attr["_output_shapes"].list.shape if "_output_shapes" in node.attr else ()
        for index, shape in enumerate(shapes):
            if not shape.unknown_rank:
                ranks[node.name, index] = len(shape.dim)
    for node in nodes:
        if node.op in _PRODUCTS:
            first, second = (_output(tensor) for tensor in node.input[:2])
            if (ranks.get(first), ranks.get(second)) == (4, 2):
                raise UnusableModel(
                    f"it holds a product of rank 4 × rank 2 ({node.name}), which ends the process "
                    "with TensorFlow 2.21; reshape to rank 2 first"
                )


def _output(tensor: str) -> tuple[str, int]:
    """Splits the name of a tensor, ``node:1`` or in a function ``node:output:1``."""
    name, *rest = tensor.split(":")
    return name, int(rest[-1]) if rest else 0
