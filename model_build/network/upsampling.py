"""Layers that upsample scores to the size of the image, learned or fixed."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf


def bilinear_kernel(
    in_channels: int, out_channels: int, kernel_size: int, shift: float = 0.0
) -> np.ndarray:
    """Returns the kernel with which a transposed convolution interpolates bilinearly.

    With stride ``s`` and kernel ``2s`` every channel is upsampled separately (section 3.3 of the
    paper; "Transposed Convolution" in Dive into Deep Learning).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; channel i is input i, further ones are zero.
        kernel_size: odd or even, at least 1.
        shift: moves the result down and right by this many output pixels, at most 0.5.

    Returns:
        float32 ``[kernel_size, kernel_size, out_channels, in_channels]``, as
        ``keras.layers.Conv2DTranspose`` lays it out.
    """
    factor = (kernel_size + 1) // 2
    center = (factor - 1 if kernel_size % 2 else factor - 0.5) + shift
    ramp = np.maximum(0, 1 - np.abs(np.arange(kernel_size) - center) / factor)
    kernel = np.zeros((kernel_size, kernel_size, out_channels, in_channels), np.float32)
    for channel in range(min(in_channels, out_channels)):
        kernel[:, :, channel, channel] = np.outer(ramp, ramp)
    return kernel


@keras.saving.register_keras_serializable("fcn_beam")
class Upsampling(keras.layers.Layer):
    """A transposed convolution, kernel twice its stride, that starts as bilinear interpolation.

    It is ``Conv2DTranspose(filters, 2 * stride, stride, "same", use_bias=False)`` of an input
    extended by repeating its border. It runs as a 2×2 convolution to ``stride²·filters`` channels,
    depth-to-space and a crop: the same sums as dense matrix products, whereas XLA on a CPU runs
    strided transposed convolutions naively.

    Args:
        filters: int, number of output channels.
        stride: int, the factor.
        shift: offset, in output pixels down and right, of the input's grid from the centres of
            cells of size ``stride``.

    Example:

    >>> Upsampling(21, 32)(np.zeros((1, 10, 15, 21), "float32")).shape
    TensorShape([1, 320, 480, 21])
    """

    def __init__(self, filters: int, stride: int, shift: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.stride = stride
        self.shift = shift
        # For odd strides the kernel's centre is half a pixel off the cells' centres.
        offset = shift - stride % 2 / 2
        # Whole pixels shift the crop, the fraction shifts the kernel.
        whole = round(offset)
        self._rest = offset - whole
        start = stride // 2 - whole
        self._frame = max(math.ceil(1 - start / stride), math.ceil(start / stride), 1)
        self._start = start + (self._frame - 1) * stride

    def build(self, input_shape):
        size, rest = 2 * self.stride, self._rest
        self.kernel = self.add_weight(
            name="kernel",
            shape=(size, size, self.filters, input_shape[-1]),
            initializer=lambda shape, dtype: bilinear_kernel(shape[3], shape[2], shape[0], rest),
        )

    def call(self, inputs):
        s, channels = self.stride, self.kernel.shape[3]
        height, width = tf.shape(inputs)[1] * s, tf.shape(inputs)[2] * s
        framed = inputs
        for _ in range(self._frame):
            framed = tf.pad(framed, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        # Output pixel j·s + r is x[j]·K[r] + x[j-1]·K[s+r]; the convolution sees x[j-1] first.
        taps = tf.reshape(self.kernel, (2, s, 2, s, self.filters, channels))
        taps = tf.transpose(taps[::-1, :, ::-1], (0, 2, 5, 1, 3, 4))
        taps = tf.reshape(taps, (2, 2, channels, s * s * self.filters))
        blocks = tf.nn.conv2d(framed, taps, 1, "VALID")
        pixels = tf.nn.depth_to_space(blocks, s) if s > 1 else blocks
        start = self._start
        outputs = pixels[:, start : start + height, start : start + width]
        outputs.set_shape(self.compute_output_shape(inputs.shape))
        return outputs

    def compute_output_shape(self, input_shape):
        return (*_enlarged(input_shape, self.stride), self.filters)

    def get_config(self):
        own = {"filters": self.filters, "stride": self.stride, "shift": self.shift}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("fcn_beam")
class Interpolation(keras.layers.Layer):
    """Bilinear interpolation of each channel, the initial state of :class:`Upsampling`.

    It has no weights and multiplies by two matrices of the tent function: at 21 channels an order
    of magnitude less work than the transposed convolution.

    Args:
        stride: int, the factor.
        shift: as in :class:`Upsampling`.

    Example:

    >>> Interpolation(2)(np.array([0.0, 1.0], "float32").reshape(1, 1, 2, 1))[0, 0, :, 0].numpy()
    array([0.  , 0.25, 0.75, 1.  ], dtype=float32)
    """

    def __init__(self, stride: int, shift: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.stride = stride
        self.shift = shift

    def call(self, inputs):
        batch, height, width, channels = (tf.shape(inputs)[axis] for axis in range(4))
        rows = tf.linalg.matmul(self._tents(width), inputs)
        flat = tf.reshape(rows, (batch, height, width * self.stride * channels))
        pixels = tf.linalg.matmul(self._tents(height), flat)
        shape = (batch, height * self.stride, width * self.stride, channels)
        outputs = tf.reshape(pixels, shape)
        outputs.set_shape(self.compute_output_shape(inputs.shape))
        return outputs

    def _tents(self, cells: tf.Tensor) -> tf.Tensor:
        """Returns the weight of each cell in each pixel, ``[cells * stride, cells]``."""
        grid = tf.cast(tf.range(cells), self.compute_dtype)
        pixels = tf.cast(tf.range(cells * self.stride), self.compute_dtype)
        where = (pixels - self.shift - (self.stride - 1) / 2) / self.stride
        where = tf.clip_by_value(where, grid[0], grid[-1])
        return tf.maximum(1 - tf.abs(where[:, None] - grid), 0)

    def compute_output_shape(self, input_shape):
        return (*_enlarged(input_shape, self.stride), input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "stride": self.stride, "shift": self.shift}


def _enlarged(shape: tuple, factor: int) -> tuple:
    batch, height, width, _ = shape
    return (batch, *(side and side * factor for side in (height, width)))
