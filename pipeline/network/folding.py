"""A frozen graph with its batch norms folded and its convolutions made ready to be fused.

Keras writes a batch norm as multiply and add, a dilated depthwise convolution as a rearrangement
around a dense one, and padding of its own as an operation of its own. TensorFlow's optimizer fuses
a convolution with the bias and the activation that follow it, but with none of these, so each costs
its own pass over the features. Here they go into the convolution's kernel, bias, ``dilations`` and
``padding``. What they do is worked out once, in float64, so that results differ from the plain
graph's by rounding alone.

Batch norms that no convolution comes before, as those of pre-activation networks, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.network.graphs import Graph, set_attribute

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
# Multiples of a dilation, one more and one less: (height, width) as such a multiple and a rest.
TRIAL_SIZES = (((3, 0), (4, 1)), ((4, -1), (3, 0)))
TOLERANCE = 1e-5  # of the largest value


def fold(function: Any, multiple: int = 1) -> Any:
    """Rewrites a frozen function.

    Args:
        function: a concrete function without variables.
        multiple: the sides of its images, ``[n, h, w, c]``, are multiples of that.

    Returns:
        A concrete function that takes the same and gives the same, but for rounding; the function
        itself where it has state or control flow.
    """
    try:
        graph = Graph(function)
    except ValueError:
        return function
    rewrite(graph, multiple)
    return graph.function()


def rewrite(graph: Graph, multiple: int = 1) -> None:
    """All of it, in place."""
    for step in (drop_neutral, dilate_natively, partial(pad_within, multiple=multiple)):
        step(graph)
        graph.prune()  # or what is left over would count as a user of its inputs
    keep_sizes(graph)
    fold_arithmetic(graph, multiple)
    graph.prune()


def drop_neutral(graph: Graph) -> None:
    """Takes out factors of one and summands of zero, such as the beta of a swish.

    The optimizer keeps them where it cannot tell the shape, and with one between them a product
    with a sigmoid is no swish to it.
    """
    for node in list(graph.nodes.values()):
        neutral = {"Mul": 1, "AddV2": 0, "Add": 0}.get(node.op)
        if neutral is None:
            continue
        for tensor, other in zip(node.input, reversed(node.input), strict=True):
            value = graph.constant(other)
            if value is not None and value.ndim == 0 and value == neutral:
                graph.replace(node.name, tensor)
                break


def dilate_natively(graph: Graph) -> None:
    """Gives a convolution that is dilated by rearranging its input the dilation itself.

    SpaceToBatchND, a convolution and BatchToSpaceND become one operation where a trial shows that
    this machine's kernel knows dilations and that the results are the same: the rearrangement's
    paddings are computed from the input's size, so what they amount to is seen by trying. (The
    kernels of oneDNN know dilations; TensorFlow's own depthwise one does not.)
    """
    users = graph.users()
    for after in list(graph.nodes.values()):
        convolution = graph.nodes.get(after.input[0]) if after.op == "BatchToSpaceND" else None
        if convolution is None or not _is_plain(convolution):
            continue
        before = graph.nodes.get(convolution.input[0])
        kernel, block = graph.constant(convolution.input[1]), graph.constant(after.input[1])
        if (
            before is None
            or before.op != "SpaceToBatchND"
            or kernel is None
            or block is None
            or block.shape != (2,)
            or block.tolist() != _listed(graph.constant(before.input[1]))
            or len(users[convolution.name]) != 1
            or _list(convolution, "strides") != [1, 1, 1, 1]
            or _list(convolution, "dilations") != [1, 1, 1, 1]
            or _text(convolution, "padding") != "VALID"
        ):
            continue
        for padding in ("SAME", "VALID"):
            changes = {"dilations": [1, *map(int, block), 1], "padding": padding}
            candidate = _changed(convolution, before.input[0], changes)
            if _are_equal(graph, after.name, candidate, before.input[0]):
                candidate.name = after.name
                graph.nodes[after.name] = candidate
                break


def pad_within(graph: Graph, multiple: int = 1) -> None:
    """Gives a convolution the zeros that an operation before it puts around its input.

    As ``SAME`` where that means the same for all images; else explicitly, where a trial shows that
    this machine's kernel knows that. A depthwise convolution gets no explicit padding: the
    optimizer loses it when it fuses the convolution with its bias, and ends the process
    (``_FusedDepthwiseConv2dNative`` of TensorFlow 2.21 has no ``explicit_paddings``).
    """
    padded = {}
    for convolution in graph.nodes.values():
        if _is_plain(convolution) and _text(convolution, "padding") == "VALID":
            before = graph.nodes.get(convolution.input[0])
            paddings = None if before is None else _zeros_around(graph, before)
            if (
                before is not None
                and paddings is not None
                and graph.constant(convolution.input[1]) is not None
            ):
                padded[convolution.name] = (before.input[0], paddings)
    steps = _steps(graph, [source for source, _ in padded.values()], multiple)
    for name, (source, paddings) in padded.items():
        convolution = graph.nodes[name]
        if _is_same(graph, convolution, paddings, steps.get(source)):
            graph.nodes[name] = _changed(convolution, source, {"padding": "SAME"}, name)
        elif convolution.op == "Conv2D":
            sides = [int(side) for side in paddings.ravel()]
            changes = {"padding": "EXPLICIT", "explicit_paddings": sides}
            if _are_equal(graph, name, _changed(convolution, source, changes), source):
                graph.nodes[name] = _changed(convolution, source, changes, name)


def keep_sizes(graph: Graph) -> None:
    """Calls a 1×1 convolution without strides ``SAME``, which to it means what ``VALID`` does.

    Of the one the optimizer knows that features keep their size, of the other it computes a size
    that may be another; and it fuses no addition of features whose sizes it does not know to be
    equal, such as that of a residual.
    """
    for node in graph.nodes.values():
        if _is_plain(node) and _text(node, "padding") == "VALID":
            kernel = graph.constant(node.input[1])
            small = kernel is not None and kernel.shape[:2] == (1, 1)
            if small and _list(node, "strides") == [1, 1, 1, 1]:
                set_attribute(node, "padding", "SAME")


def _zeros_around(graph: Graph, node: Any) -> np.ndarray | None:
    """``[4, 2]``: how many zeros an operation puts around images; None if it does anything else."""
    if node.op not in ("Pad", "PadV2"):
        return None
    paddings = graph.constant(node.input[1])
    value = graph.constant(node.input[2]) if node.op == "PadV2" else np.zeros(())
    if paddings is None or paddings.shape != (4, 2) or paddings[[0, 3]].any():
        return None
    return paddings if value is not None and value == 0 else None


def _is_same(
    graph: Graph, convolution: Any, paddings: np.ndarray, steps: tuple[int, int] | None
) -> bool:
    """Whether ``SAME`` pads as given, whatever the image's size.

    Args:
        steps: the sides of the input are multiples of these; None where nothing is known of them.
    """
    kernel = graph.constant(convolution.input[1])
    assert kernel is not None
    for axis, step in enumerate(steps or (1, 1)):
        stride = _list(convolution, "strides")[1 + axis]
        reach = (kernel.shape[axis] - 1) * _list(convolution, "dilations")[1 + axis] + 1
        # Of a side that the stride divides (TensorFlow, "Notes on padding" in tf.nn).
        total = max(reach - stride, 0)
        if step % stride or list(paddings[1 + axis]) != [total // 2, total - total // 2]:
            return False
    return True


def _steps(graph: Graph, tensors: list[str], multiple: int) -> dict[str, tuple[int, int]]:
    """What the height and the width of tensors are multiples of, where that can be told.

    A side is a linear function of the image's, if strides divide what they meet; so four images
    tell it.
    """
    if len(graph.inputs) != 1 or not tensors:
        return {}
    found: list[list[Any]] = []
    try:
        for count in (2, 3, 4, 5):
            found.append(graph.shapes(tensors, count * multiple))
    except ValueError:  # too small an image for this network, or no image at all
        return {}
    steps = {}
    for tensor, *shapes in zip(tensors, *found, strict=True):
        sides = np.array([shape[1:3] if shape else (None, None) for shape in shapes])
        if None in sides:
            continue
        growth = np.diff(sides.astype(int), axis=0)
        if (growth == growth[0]).all():
            height, width = np.gcd(growth[0], sides[0].astype(int))
            steps[tensor] = (int(height), int(width))
    return steps


def fold_arithmetic(graph: Graph, multiple: int = 1) -> None:
    """Folds what multiplies or shifts the channels of a convolution into its kernel and bias."""
    for convolution in list(graph.nodes.values()):
        if _is_plain(convolution):
            kernel = graph.constant(convolution.input[1])
            if kernel is not None and kernel.dtype == np.float32:
                _fold_after(graph, convolution, _fold_before(graph, convolution, kernel, multiple))


def _channels(graph: Graph, tensor: str, multiple: int) -> int | None:
    """How many channels a tensor has, where that can be told."""
    # Padding that depends on the image's size hides it, unless the size is known.
    for sides in (None, 4 * multiple):
        try:
            (shape,) = graph.shapes([tensor], sides)
        except ValueError:  # too small an image for this network
            return None
        if shape and shape[-1] is not None:
            return shape[-1]
    return None


def _fold_after(graph: Graph, convolution: Any, kernel: np.ndarray) -> None:
    depthwise = convolution.op == "DepthwiseConv2dNative"
    channels = kernel.shape[2] * kernel.shape[3] if depthwise else kernel.shape[3]
    scale, shift = np.ones(channels), np.zeros(channels)
    users = graph.users()
    source = tail = last = convolution
    folded: list[str] = []
    while len(users[tail.name]) == 1:
        (user,) = users[tail.name]
        if user is None:
            break
        if user.op == "BatchToSpaceND" and user.input[0] == tail.name and not folded:
            source = tail = user  # which only moves and crops cells: arithmetic may come before it
            continue
        step = _arithmetic(graph, user, tail.name, channels)
        if step is None:
            break
        scale, shift = scale * step[0], shift * step[0] + step[1]
        folded.append(user.op)
        tail = last = user
    name = f"{convolution.name}/folded"
    scaled = kernel * scale.reshape(kernel.shape[2:] if depthwise else (channels,))
    convolution.input[1] = graph.add_constant(f"{name}_kernel", scaled.astype(np.float32))
    if not folded or folded == ["BiasAdd"]:
        return
    bias = graph.add_constant(f"{name}_bias", shift.astype(np.float32))
    types = {"T": np.dtype(np.float32), "data_format": "NHWC"}
    graph.add("BiasAdd", last.name, [source.name, bias], **types)


def _fold_before(graph: Graph, convolution: Any, kernel: np.ndarray, multiple: int) -> np.ndarray:
    """Folds what multiplies the channels that a convolution gets into its kernel.

    What is added to them cannot go into the bias where the convolution pads with zeros. But
    ``factor · x + summand`` is ``factor · (x + summand / factor)``, and the factor commutes with
    the padding, so one addition is left of any number of operations: of a normalisation, mostly.

    Returns:
        The kernel.
    """
    channels = kernel.shape[2]
    factor, summand = np.ones(channels), np.zeros(channels)
    users = graph.users()
    source = convolution.input[0]
    folded: list[Any] = []
    while len(users[source]) == 1 and (node := graph.nodes.get(source)) is not None:
        first = next((x for x in node.input if graph.constant(x) is None), None)
        step = None if first is None else _arithmetic(graph, node, first, channels)
        if step is None or first is None:
            break
        factor, summand = factor * step[0], summand + factor * step[1]
        folded.append(node)
        source = first
    if not any(node.op in ("Mul", "RealDiv") for node in folded) or not factor.all():
        return kernel
    if _channels(graph, source, multiple) != channels:  # a factor may also make many of one
        return kernel
    if summand.any():
        name = f"{convolution.name}/shifted"
        by = (summand / factor).astype(np.float32)
        if (by == by[0]).all():  # TensorFlow adds one number far faster than one a channel
            by = by[0]
        shift = graph.add_constant(f"{name}_by", np.asarray(by))
        source = graph.add("AddV2", name, [source, shift], T=np.dtype(np.float32))
    convolution.input[0] = source
    graph.prune()
    return kernel * factor[:, None]


def _arithmetic(
    graph: Graph, node: Any, tensor: str, channels: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """(factor, summand), one a channel each or one for all, by which a node changes a tensor.

    None for what does anything else.
    """
    steps: dict[str, Callable] = {
        "BiasAdd": lambda c: (1, c),
        "Mul": lambda c: (c, 0),
        "RealDiv": lambda c: (1 / c, 0),
        "AddV2": lambda c: (1, c),
        "Add": lambda c: (1, c),
        "Sub": lambda c: (1, -c),
    }
    if node.op not in steps or (node.op == "BiasAdd" and _text(node, "data_format") == "NCHW"):
        return None
    first, second = node.input
    if second == tensor and node.op in ("Mul", "AddV2", "Add"):
        first, second = second, first
    value = graph.constant(second)
    if first != tensor or value is None or value.ndim > 4 or value.size not in (1, channels):
        return None
    if value.ndim and value.shape[-1] != value.size:  # not along the channels
        return None
    factor, summand = steps[node.op](value.ravel().astype(np.float64))
    return np.asarray(factor), np.asarray(summand)


def _is_plain(node: Any) -> bool:
    """Whether it is a convolution whose last axis is the channels."""
    return node.op in CONVOLUTIONS and _text(node, "data_format") != "NCHW"


def _changed(convolution: Any, source: str, changes: dict[str, Any], name: str = "") -> Any:
    """A copy with another input and other attributes; under a name of its own if none is given."""
    copy = tf.compat.v1.NodeDef()
    copy.CopyFrom(convolution)
    copy.name = name or f"{convolution.name}/trial"
    copy.input[0] = source
    for key, value in changes.items():
        set_attribute(copy, key, value)
    return copy


def _are_equal(graph: Graph, tensor: str, candidate: Any, source: str) -> bool:
    """Whether a candidate computes of a source what a tensor is, as far as this machine shows.

    Args:
        graph: what the tensor is computed in; of its nodes no placeholder may be needed.
        candidate: a convolution.
    """
    kernel = graph.constant(candidate.input[1])
    assert kernel is not None
    rng = np.random.default_rng(0)
    graph.nodes[candidate.name] = candidate
    try:
        if any(graph.nodes[name].op == "Placeholder" for name in graph.above([tensor], [source])):
            return False
        spread = max(_list(candidate, "dilations")) + kernel.shape[0]
        for size in TRIAL_SIZES:
            height, width = (count * spread + rest for count, rest in size)
            shape = (1, height, width, kernel.shape[2])
            value = rng.standard_normal(shape).astype(kernel.dtype)
            plain, other = graph.run([tensor, candidate.name], {source: value})
            if plain.shape != other.shape:
                return False
            if np.abs(plain - other).max(initial=0) > TOLERANCE * np.abs(plain).max(initial=1):
                return False
    except (tf.errors.OpError, ValueError):  # this machine has no such kernel
        return False
    finally:
        del graph.nodes[candidate.name]
    return True


def _list(node: Any, key: str) -> list[int]:
    return list(node.attr[key].list.i)


def _listed(value: np.ndarray | None) -> list[int] | None:
    return None if value is None else value.tolist()


def _text(node: Any, key: str) -> str:
    return node.attr[key].s.decode()
