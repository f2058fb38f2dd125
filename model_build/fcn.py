"""FCN-32s: a fully convolutional network (Long, Shelhamer & Darrell 2015).

An ImageNet backbone without its head, a 1×1 convolution from its features to class scores, and a
transposed convolution, initialised as bilinear interpolation, back to the size of the input.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from model_build.backbones import STRIDE, Normalisation, backbone

BACKBONE, SCORES, LOGITS = "backbone", "scores", "logits"  # names of the network's parts


def bilinear_kernel(in_channels: int, out_channels: int, kernel_size: int) -> np.ndarray:
    """The kernel that makes a transposed convolution interpolate bilinearly.

    With stride ``s`` and kernel ``2s`` every channel is upsampled by itself (section 3.3 of the
    paper; "Transposed Convolution" in Dive into Deep Learning).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; channel i comes from input i, those beyond are zero.
        kernel_size: odd or even, at least 1.

    Returns:
        float32 ``[kernel_size, kernel_size, out_channels, in_channels]``, as
        ``keras.layers.Conv2DTranspose`` lays it out.
    """
    factor = (kernel_size + 1) // 2
    center = factor - 1 if kernel_size % 2 else factor - 0.5
    ramp = 1 - np.abs(np.arange(kernel_size) - center) / factor
    kernel = np.zeros((kernel_size, kernel_size, out_channels, in_channels), np.float32)
    for channel in range(min(in_channels, out_channels)):
        kernel[:, :, channel, channel] = np.outer(ramp, ramp)
    return kernel


@keras.saving.register_keras_serializable("fcn_beam")
class Upsampling(keras.layers.Layer):
    """``Conv2DTranspose(filters, 2 * stride, stride, "same", use_bias=False)``, run another way.

    Its kernel has that layer's shape and meaning, and starts as bilinear interpolation. It runs as
    a 2×2 convolution to ``stride²·filters`` channels, depth-to-space and a crop: the same sums, but
    dense matrix products, where XLA on a CPU runs a strided transposed convolution naively.

    Args:
        filters: int, number of output channels.
        stride: int, the factor.

    Example:

    >>> Upsampling(21, 32)(np.zeros((1, 10, 15, 21), "float32")).shape
    TensorShape([1, 320, 480, 21])
    """

    def __init__(self, filters: int, stride: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.stride = stride

    def build(self, input_shape):
        size = 2 * self.stride
        self.kernel = self.add_weight(
            name="kernel",
            shape=(size, size, self.filters, input_shape[-1]),
            initializer=lambda shape, dtype: bilinear_kernel(shape[3], shape[2], shape[0]),
        )

    def call(self, inputs):
        s, channels = self.stride, self.kernel.shape[3]
        # Output pixel j·s + r is x[j]·K[r] + x[j-1]·K[s+r]; the convolution meets x[j-1] first.
        taps = tf.reshape(self.kernel, (2, s, 2, s, self.filters, channels))
        taps = tf.transpose(taps[::-1, :, ::-1], (0, 2, 5, 1, 3, 4))
        taps = tf.reshape(taps, (2, 2, channels, s * s * self.filters))
        blocks = tf.nn.conv2d(inputs, taps, 1, [[0, 0], [1, 1], [1, 1], [0, 0]])
        pixels = tf.nn.depth_to_space(blocks, s) if s > 1 else blocks
        height, width = tf.shape(inputs)[1] * s, tf.shape(inputs)[2] * s
        start = s // 2
        outputs = pixels[:, start : start + height, start : start + width]
        outputs.set_shape(self.compute_output_shape(inputs.shape))
        return outputs

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        height, width = (side and side * self.stride for side in (height, width))
        return (batch, height, width, self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "stride": self.stride}


@keras.saving.register_keras_serializable("fcn_beam")
class PadToStride(keras.layers.Layer):
    """Pads images at the bottom and right, with zeros, to sides that are multiples of the stride.

    Backbones disagree on what becomes of the odd pixels of other sides.
    """

    def call(self, images):
        height, width = tf.shape(images)[1], tf.shape(images)[2]
        return tf.pad(images, [[0, 0], [0, -height % STRIDE], [0, -width % STRIDE], [0, 0]])

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        height, width = (side and -(-side // STRIDE) * STRIDE for side in (height, width))
        return (batch, height, width, channels)


def fcn(
    num_classes: int, backbone_name: str = "resnet50", backbone_weights: str = "none"
) -> tuple[keras.Model, Normalisation]:
    """Builds an FCN-32s.

    Args:
        num_classes: int, channels of the output.
        backbone_name: see :func:`model_build.backbones.backbone`.
        backbone_weights: ``"none"``, ``"imagenet"`` or a weights file.

    Returns:
        A model from uint8 RGB ``[n, h, w, 3]`` of any size to float32 logits
        ``[n, ⌈h/32⌉·32, ⌈w/32⌉·32, num_classes]``, and the normalisation that is part of it.

    Raises:
        UserError: as :func:`model_build.backbones.backbone` does.

    Example:

    >>> model, _ = fcn(21, "mobilenet_v2")
    >>> model(np.zeros((1, 320, 480, 3), "uint8")).shape
    TensorShape([1, 320, 480, 21])
    """
    features, normalisation = backbone(backbone_name, backbone_weights)
    features.name = BACKBONE
    images = keras.Input((None, None, 3), dtype="uint8", name="images")
    padded = PadToStride(name="pad", dtype="uint8")(images)
    scores = keras.layers.Conv2D(
        num_classes, 1, kernel_initializer="glorot_uniform", dtype="float32", name=SCORES
    )(features(normalisation(padded)))
    logits = Upsampling(num_classes, STRIDE, dtype="float32", name=LOGITS)(scores)
    return keras.Model(images, logits, name=f"fcn32s_{backbone_name}"), normalisation
