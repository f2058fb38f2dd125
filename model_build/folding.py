"""Writes a Keras network as the TensorFlow operations that its inference needs.

Batch norms and the normalisation of the input are folded into the kernels and biases of adjacent
convolutions, computed in float64; dilation and separate padding become attributes of the
convolution. TensorFlow fuses a convolution with the bias and activation that follow it, but not as
Keras writes them: each would cost a separate pass over the features.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from model_build.network.fcn import LOGITS, PadToStride
from model_build.program import FEATURES, MEAN, SCORES


@dataclass(frozen=True)
class _Convolution:
    """A convolution, which may be written again with another factor and bias.

    Attributes:
        source: its input tensor.
        kernel: as trained, float32 ``[h, w, in, out]``; depthwise ``[h, w, in, multiplier]``.
        factor: multiplies the kernel, float64, for its last two axes.
        bias: one per output channel, or one for all.
        depthwise: whether each channel is convolved separately.
        strides, dilations: (height, width).
        padding: ``"SAME"``, ``"VALID"``, or zeros as in :class:`_Padded`.
    """

    source: Any
    kernel: np.ndarray
    factor: np.ndarray
    bias: np.ndarray
    depthwise: bool
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: Any

    def then(self, scale: np.ndarray, shift: np.ndarray) -> _Convolution:
        """Returns it followed by ``x · scale + shift``, one of each per output channel."""
        shape = self.kernel.shape[2:] if self.depthwise else (1, -1)
        factor = self.factor * scale.reshape(shape)
        return replace(self, factor=factor, bias=self.bias * scale + shift)


class _Padded(NamedTuple):
    """A tensor padded with zeros; their number is ``[4, 2]``, before and after on each axis."""

    source: Any
    paddings: np.ndarray


class _Scaled(NamedTuple):
    """``source · scale + offset``, one of each per channel."""

    source: Any
    scale: np.ndarray
    offset: np.ndarray


class _Written(keras.Operation):
    """Replaces an operation in a copy of a network; writes that operation when called."""

    def __init__(self, operation: keras.Operation, write: Callable[..., Any]):
        super().__init__(name=operation.name)
        self._write = functools.partial(write, operation)
        self._shown = keras.tree.map_structure(
            lambda tensor: keras.KerasTensor(tensor.shape, tensor.dtype), operation.output
        )

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self._write(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self._shown


class Writer:
    """Writes a network into the graph that TensorFlow is building.

    Nodes are never changed once written. A batch norm writes the convolution before it again with
    another kernel; nodes that turn out unused are removed at the end.

    Args:
        weights: values by the ``id`` of the Keras variable.
        half: store kernels as float16.
        same_padded: the ``id`` of each layer whose padding is known to equal ``SAME`` padding.

    Attributes:
        same_padded: those for which this was found while writing, as sides were known.
        averages: number of averages over whole images written.
    """

    def __init__(self, weights: dict[int, np.ndarray], half: bool, same_padded: set[int]):
        self.weights, self.half, self.known = weights, half, same_padded
        self.same_padded: set[int] = set()
        self.averages = 0
        self._made: dict[Any, _Convolution | _Padded | _Scaled] = {}

    def network(self, model: keras.Model, images: Any) -> Any:
        """Writes a whole network."""
        with tf.name_scope("layers"):
            return tf.identity(self.run(model, images), f"{LOGITS}/")

    def run(self, model: keras.Model, *inputs: Any) -> Any:
        """Writes a model."""
        if isinstance(model, keras.Sequential):
            (values,) = inputs
            for layer in model.layers:
                values = self.write(layer, values)
            return values
        copy = keras.models.clone_model(
            model, clone_function=lambda operation: _Written(operation, self.write)
        )
        return copy(*inputs)

    def write(self, operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        """Writes an operation with the arguments that the network calls it with."""
        if isinstance(operation, keras.Model):
            return self.run(operation, *args)
        if operation.name == LOGITS:
            args = (tf.identity(args[0], f"{SCORES}/"),)
        rule = _RULES.get(type(operation))
        if rule is None or getattr(operation, "data_format", "") == "channels_first":
            return self.by_keras(operation, *args, **kwargs)
        with tf.name_scope(operation.name):
            return rule(self, operation, *args)

    def by_keras(self, operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        """Writes any other operation with Keras' own code, with its weights as constants."""
        variables = operation.weights if isinstance(operation, keras.layers.Layer) else ()
        with keras.StatelessScope([(one, self._weight(self.value(one))) for one in variables]):
            return operation(*args, **kwargs)

    def value(self, variable: keras.Variable) -> np.ndarray:
        """Returns the value of a variable."""
        return self.weights[id(variable)]

    def convolution(self, layer: Any, images: Any) -> Any:
        """Writes ``Conv2D`` or ``DepthwiseConv2D``."""
        if getattr(layer, "groups", 1) > 1:
            return self.by_keras(layer, images)
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        bias = self.value(layer.bias) if layer.use_bias else np.zeros(1)
        return self.activate(layer, self._convolve(layer, images, layer.kernel, bias, depthwise))

    def separable(self, layer: Any, images: Any) -> Any:
        """Writes ``SeparableConv2D``: a depthwise convolution and a 1×1 one."""
        apart = self._convolve(layer, images, layer.depthwise_kernel, np.zeros(1), True)
        made = _Convolution(
            apart,
            self.value(layer.pointwise_kernel),
            np.ones((1, 1)),
            self.value(layer.bias) if layer.use_bias else np.zeros(1),
            depthwise=False,
            strides=(1, 1),
            dilations=(1, 1),
            padding="SAME",
        )
        return self.activate(layer, self._put(made))

    def batch_norm(self, layer: Any, features: Any) -> Any:
        """Writes ``BatchNormalization``, folded into a convolution before it if there is one."""
        if layer.axis not in (-1, len(features.shape) - 1):
            return self.by_keras(layer, features)
        variance = self.value(layer.moving_variance).astype(np.float64)
        scale = 1 / np.sqrt(variance + layer.epsilon)
        if layer.scale:
            scale = scale * self.value(layer.gamma)
        shift = -scale * self.value(layer.moving_mean)
        if layer.center:
            shift = shift + self.value(layer.beta)
        made = self._made.get(features.ref())
        if isinstance(made, _Convolution):
            return self._put(made.then(scale, shift))
        return features * _constant(scale) + _constant(shift)

    def rescaling(self, layer: Any, images: Any) -> Any:
        """Writes ``Rescaling``."""
        return self._scale(images, np.asarray(layer.scale), np.asarray(layer.offset))

    def normalization(self, layer: Any, images: Any) -> Any:
        """Writes ``Normalization`` with the layer's mean and variance."""
        if layer.invert:
            return self.by_keras(layer, images)
        mean, variance = (np.asarray(tensor, np.float64) for tensor in (layer.mean, layer.variance))
        scale = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
        return self._scale(images, scale, -mean * scale)

    def zero_padding(self, layer: Any, features: Any) -> Any:
        """Writes ``ZeroPadding2D``."""
        paddings = np.array([(0, 0), *layer.padding, (0, 0)])
        padded = tf.pad(features, paddings)
        self._made[padded.ref()] = _Padded(features, paddings)
        return padded

    def average(self, layer: Any, features: Any) -> Any:
        """Writes ``GlobalAveragePooling2D``, named so that tiles can get their image's average."""
        number, self.averages = self.averages, self.averages + 1
        features = tf.identity(features, f"{FEATURES.format(number)}/")
        mean = tf.reduce_mean(features, [1, 2], keepdims=True, name=f"{MEAN.format(number)}/")
        return mean if layer.keepdims else tf.squeeze(mean, [1, 2])

    def activate(self, layer: Any, features: Any) -> Any:
        """Writes ``Activation``, or the activation of a convolution.

        Keras' silu has a custom gradient, which hides from the optimizer that it is a product.
        """
        if layer.activation is keras.activations.silu:
            return features * tf.sigmoid(features)
        return layer.activation(features)

    def pass_on(self, layer: Any, images: Any) -> Any:
        """Skips ``PadToStride``: the job pads images itself."""
        return images

    def _scale(self, images: Any, scale: np.ndarray, offset: np.ndarray) -> Any:
        images = tf.cast(images, tf.float32)
        ones = np.ones(images.shape[-1])
        made = _Scaled(images, scale.ravel() * ones, offset.ravel() * ones)
        before = self._made.get(images.ref())
        if isinstance(before, _Scaled):
            scale = before.scale * made.scale
            made = _Scaled(before.source, scale, before.offset * made.scale + made.offset)
        scaled = made.source * _constant(made.scale) + _constant(made.offset)
        self._made[scaled.ref()] = made
        return scaled

    def _convolve(
        self, layer: Any, source: Any, kernel: keras.Variable, bias: np.ndarray, depthwise: bool
    ) -> Any:
        padding: Any = layer.padding.upper()
        made, around = self._made.get(source.ref()), None
        if isinstance(made, _Padded) and padding == "VALID":
            source, around = made
            made = self._made.get(source.ref())
        factor = np.ones((1, 1))
        if isinstance(made, _Scaled) and made.scale.all():
            # The offset cannot be folded in: the convolution pads with zeros after it is added.
            source, factor, by = made.source, made.scale[:, None], made.offset / made.scale
            if by.any():  # TensorFlow adds one number far faster than one per channel
                source = source + _constant(by[0] if (by == by[0]).all() else by)
        size = self.value(kernel).shape[:2]
        if around is not None:
            if id(layer) in self.known or _is_same(source.shape, layer, size, around):
                self.same_padded.add(id(layer))
                padding = "SAME"
            elif depthwise:  # with explicit padding TensorFlow crashes when it fuses this
                source = tf.pad(source, around)
            else:
                padding = around.tolist()
        elif size == (1, 1) and tuple(layer.strides) == (1, 1):
            padding = "SAME"  # the optimizer knows that this keeps sizes
        made = _Convolution(
            source,
            self.value(kernel),
            factor,
            bias,
            depthwise,
            tuple(layer.strides),
            tuple(layer.dilation_rate),
            padding,
        )
        return self._put(made)

    def _weight(self, value: np.ndarray) -> Any:
        """Writes a weight as it was trained."""
        if self.half and value.ndim > 1 and value.dtype == np.float32:
            return tf.cast(tf.constant(value.astype(np.float16)), tf.float32)
        return tf.constant(value)

    def _put(self, made: _Convolution) -> Any:
        if self.half:
            kernel = self._weight(made.kernel)
            if (made.factor != 1).any():
                kernel = kernel * _constant(made.factor)
        else:
            kernel = _constant(made.kernel * made.factor)
        strides, dilations = ([1, *pair, 1] for pair in (made.strides, made.dilations))
        if made.depthwise:  # tf.nn would rearrange a dilated one
            found = tf.raw_ops.DepthwiseConv2dNative(
                input=made.source,
                filter=kernel,
                strides=strides,
                padding=made.padding,
                dilations=dilations,
            )
        else:
            found = tf.nn.conv2d(made.source, kernel, strides, made.padding, dilations=dilations)
        if made.bias.any():
            found = tf.nn.bias_add(found, _constant(made.bias + np.zeros(found.shape[-1])))
        self._made[found.ref()] = made
        return found


_RULES: dict[type, Callable[..., Any]] = {
    keras.layers.Activation: Writer.activate,
    keras.layers.BatchNormalization: Writer.batch_norm,
    keras.layers.Conv2D: Writer.convolution,
    keras.layers.DepthwiseConv2D: Writer.convolution,
    keras.layers.GlobalAveragePooling2D: Writer.average,
    keras.layers.Normalization: Writer.normalization,
    keras.layers.Rescaling: Writer.rescaling,
    keras.layers.SeparableConv2D: Writer.separable,
    keras.layers.ZeroPadding2D: Writer.zero_padding,
    PadToStride: Writer.pass_on,
}


def _is_same(
    shape: tf.TensorShape, layer: Any, kernel: tuple[int, ...], around: np.ndarray
) -> bool:
    """Whether ``SAME`` padding equals the given one (TensorFlow, "Notes on padding" in tf.nn).

    Args:
        shape: of the layer's input, ``[n, h, w, c]``; the result is False if a side is unknown.
    """
    for axis in (0, 1):
        side, stride = shape[1 + axis], layer.strides[axis]
        if side is None:
            return False
        reach = (kernel[axis] - 1) * layer.dilation_rate[axis] + 1
        total = max((-(-side // stride) - 1) * stride + reach - side, 0)
        if list(around[1 + axis]) != [total // 2, total - total // 2]:
            return False
    return True


def _constant(value: Any) -> Any:
    return tf.constant(np.asarray(value, np.float32))
