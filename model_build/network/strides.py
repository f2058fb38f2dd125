"""The strides and sampling grids of a backbone's features, and dilation in place of stride."""

from __future__ import annotations

import math
from typing import Any

import keras

PROBE = 256  # pixels per side of the image whose shape is traced through a backbone


def feature_layers(model: keras.Model) -> dict[int, str]:
    """Finds the layers whose outputs are used as features, by stride.

    For each stride this is the last layer in the order of computation with that resolution: the
    input of the next stage. A plain ``a + b`` between layers counts as one.

    Args:
        model: a backbone as :mod:`keras.applications` builds it, of any input size.

    Returns:
        stride in pixels → name of the layer.
    """
    layers = {}
    for name, (height, width) in _sizes(model).items():
        if height == width and height in (PROBE // stride for stride in (2, 4, 8, 16, 32)):
            layers[PROBE // height] = name
    return layers


def grid_centers(model: keras.Model) -> dict[str, float]:
    """Finds the position of each layer's first output cell in an image with sides divisible by 32.

    That is the centre of its receptive field, along either axis, as a pixel index. A cell that
    covers the pixels 0 to ``stride - 1`` would have its centre at ``(stride - 1) / 2``; strided
    convolutions with odd kernels are centred on the first or the last of these instead, depending
    on their padding: (1, 1) or, as TensorFlow does on even sizes, (0, 1).

    Returns:
        name of the layer → centre in pixels; layers without a position, such as a mean over the
        image, are left out.
    """
    sizes, sources_of = _sizes(model), _sources(model)
    centers: dict[str, float] = {}
    for layer in model.operations:
        if layer.name not in sizes:
            continue
        sources = [source.name for source in sources_of[layer.name] if source.name in centers]
        if not sources:
            centers[layer.name] = 0.0
            continue
        # Where branches meet, the longest one determines the position.
        source = max(sources, key=lambda name: abs(centers[name]))
        kernel, stride, dilation, padding = _geometry(layer)
        step = _stride(sizes[source])
        if isinstance(layer, keras.layers.ZeroPadding2D):
            cells = -float(layer.padding[0][0])
        elif kernel == 1 and stride == 1:
            # Any other layer that lowers the resolution is assumed to do so evenly.
            cells = (_stride(sizes[layer.name]) / step - 1) / 2
        else:
            reach = (kernel - 1) * dilation
            used = (sizes[layer.name][0] - 1) * stride + reach + 1
            ahead = max(used - sizes[source][0], 0) // 2 if padding == "same" else 0
            cells = reach / 2 - ahead
        centers[layer.name] = centers[source] + step * cells
    return centers


def dilate(model: keras.Model, output_stride: int) -> keras.Model:
    """Copies a model so that its last stages keep a finer resolution and dilate their kernels.

    A layer that would increase the stride beyond ``output_stride`` gets stride 1, and the kernels
    after it are dilated by the omitted factor: every weight is applied to the same pixels as
    before, but at more positions (Chen et al. 2017, "Rethinking Atrous Convolution", section 3.1).

    Args:
        model: a backbone with features at stride 32.
        output_stride: 8, 16 or 32 pixels.

    Returns:
        A model with the same weights. The caller must check its shapes: a backbone with unusual
        pooling or cropping may not end at ``output_stride``.
    """
    if output_stride == 32:
        return model
    sizes, sources_of = _sizes(model), _sources(model)
    strides = {name: _stride(size) for name, size in sizes.items()}
    # New padding of each ZeroPadding2D layer before a "valid" convolution.
    padding: dict[str, int] = {}
    changes: dict[str, dict[str, Any]] = {}
    for layer in model.operations:
        kernel, stride, _, _ = _geometry(layer)
        if kernel == 1 and stride == 1:
            continue
        (source,) = sources_of[layer.name]
        dilation = max(1, strides[source.name] // output_stride)
        keeps = strides[source.name] * stride > output_stride
        if dilation == 1 and not (keeps and stride > 1):
            continue
        change: dict[str, Any] = {"strides": 1} if keeps else {}
        if hasattr(layer, "dilation_rate"):
            change["dilation_rate"] = dilation
        else:
            change["padding"] = "same"  # pooling cannot be dilated, but must keep the size
        changes[layer.name] = change
        if isinstance(source, keras.layers.ZeroPadding2D):
            padding[source.name] = (kernel - 1) * dilation // 2
    for name, width in padding.items():
        changes[name] = {"padding": width}

    def changed(layer: keras.Operation) -> keras.Operation:
        return type(layer).from_config(layer.get_config() | changes.get(layer.name, {}))

    copy = keras.models.clone_model(model, clone_function=changed)
    copy.set_weights(model.get_weights())
    return copy


def before_expansion(model: keras.Model) -> str:
    """Returns the layer before a final expanding 1×1 convolution; the last layer if there is none.

    MobileNets and EfficientNets end with such a convolution, which belongs to the classifier:
    segmentation networks leave it out (Sandler et al. 2018, section 6.3).
    """
    sources_of = _sources(model)
    last = layer = last_operation(model)
    while len(sources_of[layer.name]) == 1:
        (source,) = sources_of[layer.name]
        if isinstance(layer, keras.layers.Conv2D):
            expands = _geometry(layer)[:2] == (1, 1) and layer.filters > source.output.shape[-1]
            return (source if expands else last).name
        layer = source
    return last.name


def last_operation(model: keras.Model) -> keras.Operation:
    """Returns the operation that produces a model's only output."""
    return _made_by(model)[id(model.output)]


def _sizes(model: keras.Model) -> dict[str, tuple[int, int]]:
    """Returns the (height, width) of each spatial output, in the order of computation."""
    layers = [layer for layer in model.operations if len(layer.output.shape) == 4]
    every = keras.Model(model.input, [layer.output for layer in layers])
    shapes = every.compute_output_shape((1, PROBE, PROBE, 3))
    sizes = {layer.name: shape[1:3] for layer, shape in zip(layers, shapes, strict=True)}
    return {name: size for name, size in sizes.items() if size != (1, 1)}


def _stride(size: tuple[int, int]) -> int:
    """Returns the stride of a layer from its output size, tolerating a little padding."""
    return 2 ** round(math.log2(PROBE / size[0]))


def _sources(model: keras.Model) -> dict[str, list[keras.Operation]]:
    """Returns for each operation's name the operations of its inputs, in order."""
    made_by = _made_by(model)
    return {
        layer.name: [made_by[id(tensor)] for tensor in keras.tree.flatten(layer.input)]
        for layer in model.operations
    }


def _made_by(model: keras.Model) -> dict[int, keras.Operation]:
    """Returns the operations by the ``id`` of each output tensor."""
    return {
        id(tensor): layer
        for layer in model.operations
        for tensor in keras.tree.flatten(layer.output)
    }


def _geometry(layer: keras.Operation) -> tuple[int, int, int, str]:
    """Returns (kernel, stride, dilation, padding); (1, 1, 1, "valid") without a kernel."""
    kernel = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    if kernel is None:
        return 1, 1, 1, "valid"
    dilation = getattr(layer, "dilation_rate", (1, 1))
    return kernel[0], layer.strides[0], dilation[0], layer.padding
