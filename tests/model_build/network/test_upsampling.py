import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from model_build.network.upsampling import Interpolation, Upsampling, bilinear_kernel


def transposed(filters, stride, channels, kernel):
    """Keras's transposed convolution of an input that goes on beyond its border."""
    size = kernel.shape[0]
    layer = keras.layers.Conv2DTranspose(filters, size, stride, padding="same", use_bias=False)
    layer.build((None, None, None, channels))
    layer.set_weights([kernel])

    def call(inputs):
        padded = tf.pad(inputs, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        return layer(padded)[:, stride:-stride, stride:-stride]

    return call, layer


def upsampling(filters, stride, channels, kernel=None, shift=0.0):
    layer = Upsampling(filters, stride, shift)
    layer.build((None, None, None, channels))
    if kernel is not None:
        layer.set_weights([kernel])
    return layer


@pytest.mark.parametrize(
    ("size", "ramp"),
    [
        (1, [1]),
        (2, [0.5, 0.5]),
        (3, [0.5, 1, 0.5]),
        (4, [0.25, 0.75, 0.75, 0.25]),
        (5, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]),
    ],
)
def test_bilinear_kernel_is_an_outer_product_of_ramps(size, ramp):
    kernel = bilinear_kernel(1, 1, size)
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel[:, :, 0, 0], np.outer(ramp, ramp), rtol=1e-6)


def test_bilinear_kernel_is_laid_out_height_width_out_in():
    kernel = bilinear_kernel(2, 3, 4)
    assert kernel.shape == (4, 4, 3, 2)
    used = kernel.any(axis=(0, 1))
    assert used.tolist() == [[True, False], [False, True], [False, False]]


@given(stride=st.integers(1, 16), odd=st.booleans())
@settings(deadline=None)
def test_bilinear_kernel_keeps_a_constant_image(stride, odd):
    """The taps that meet in an output pixel add up to one for kernels 2s and 2s - 1."""
    kernel = bilinear_kernel(1, 1, 2 * stride - odd)[:, :, 0, 0]
    padded = np.pad(kernel, ((0, odd), (0, odd)))
    sums = padded.reshape(2, stride, 2, stride).sum(axis=(0, 2))
    np.testing.assert_allclose(sums, 1, rtol=1e-5)


@given(size=st.integers(1, 20))
@settings(deadline=None)
def test_bilinear_kernel_is_symmetric(size):
    kernel = bilinear_kernel(1, 1, size)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], rtol=1e-5)
    np.testing.assert_allclose(kernel, kernel.transpose(1, 0, 2, 3), rtol=1e-5)


@given(
    stride=st.integers(1, 16),
    cells=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    halves=st.integers(-40, 40),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_upsampling_starts_as_interpolation(stride, cells, halves, seed):
    inputs = np.random.default_rng(seed).normal(size=(2, *cells, 2)).astype(np.float32)
    shift = halves / 2
    started = upsampling(2, stride, 2, shift=shift)(inputs)
    interpolated = Interpolation(stride, shift)(inputs)
    assert interpolated.shape == (2, cells[0] * stride, cells[1] * stride, 2)
    np.testing.assert_allclose(started, interpolated, atol=1e-5)


@given(
    stride=st.integers(1, 16),
    cells=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25, deadline=None)
def test_interpolation_is_bilinear_resizing(stride, cells, seed):
    inputs = np.random.default_rng(seed).normal(size=(1, *cells, 3)).astype(np.float32)
    resized = tf.image.resize(inputs, (cells[0] * stride, cells[1] * stride), "bilinear")
    np.testing.assert_allclose(Interpolation(stride)(inputs), resized, atol=1e-4)


@given(
    stride=st.integers(1, 32),
    cells=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    shift=st.floats(-40, 40),
    learned=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_enlarging_keeps_a_constant_up_to_the_borders(stride, cells, shift, learned):
    layer = upsampling(1, stride, 1, shift=shift) if learned else Interpolation(stride, shift)
    outputs = layer(np.full((1, *cells, 1), 3, np.float32))
    np.testing.assert_allclose(outputs, 3, rtol=1e-5)


@pytest.mark.parametrize("learned", [False, True], ids=["interpolation", "upsampling"])
@pytest.mark.parametrize("shift", [0, 0.5, -0.5, 3.5, -3.5, 12, -12])
def test_enlarging_moves_by_the_shift(learned, shift):
    stride = 8
    layer = upsampling(1, stride, 1, shift=shift) if learned else Interpolation(stride, shift)
    impulse = np.zeros((1, 7, 1, 1), np.float32)
    impulse[0, 3] = 1
    column = np.array(layer(impulse))[0, :, 0, 0]
    center = np.arange(7 * stride) @ column / column.sum()
    assert center == pytest.approx(3 * stride + (stride - 1) / 2 + shift, abs=1e-4)


def test_interpolation_is_the_same_compiled_and_in_a_graph():
    inputs = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    layer = Interpolation(32, 15.5)
    for compiled in (False, True):
        call = tf.function(
            layer, jit_compile=compiled, input_signature=[tf.TensorSpec((None, None, None, 5))]
        )
        np.testing.assert_allclose(call(inputs), layer(inputs), atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "xla"])
@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_upsampling_equals_conv2d_transpose(stride, compiled):
    rng = np.random.default_rng(stride)
    kernel = rng.normal(size=(2 * stride, 2 * stride, 3, 2)).astype(np.float32)
    inputs = rng.normal(size=(2, 3, 4, 2)).astype(np.float32)
    layer = upsampling(3, stride, 2, kernel)
    call = tf.function(layer, jit_compile=True) if compiled else layer
    outputs = call(tf.constant(inputs))
    assert outputs.shape == (2, 3 * stride, 4 * stride, 3)
    expected, _ = transposed(3, stride, 2, kernel)
    np.testing.assert_allclose(outputs, expected(inputs), atol=1e-5)


@given(
    stride=st.integers(1, 7),
    filters=st.integers(1, 4),
    channels=st.integers(1, 4),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
)
@settings(max_examples=25, deadline=None)
def test_upsampling_equals_conv2d_transpose_at_any_shape(stride, filters, channels, height, width):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(2 * stride, 2 * stride, filters, channels)).astype(np.float32)
    inputs = rng.normal(size=(1, height, width, channels)).astype(np.float32)
    outputs = upsampling(filters, stride, channels, kernel)(inputs)
    expected, _ = transposed(filters, stride, channels, kernel)
    np.testing.assert_allclose(outputs, expected(inputs), atol=1e-5)


def test_upsampling_has_the_gradient_of_conv2d_transpose():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(8, 8, 3, 2)).astype(np.float32)
    inputs = tf.constant(rng.normal(size=(1, 3, 4, 2)).astype(np.float32))
    target = rng.normal(size=(1, 12, 16, 3)).astype(np.float32)
    gradients = []
    ours = upsampling(3, 4, 2, kernel)
    for call, layer in ((ours, ours), transposed(3, 4, 2, kernel)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(call(inputs) * target)
        gradients.append(tape.gradient(loss, layer.trainable_variables[0].value))
    np.testing.assert_allclose(*gradients, atol=1e-4)


@pytest.mark.parametrize("shift", [0.0, 1.5, -7.0])
@pytest.mark.parametrize("kind", [Upsampling, Interpolation])
def test_layers_that_enlarge_are_saved_and_loaded(tmp_path, kind, shift):
    rng = np.random.default_rng(0)
    inputs = keras.Input((None, None, 2))
    layer = Upsampling(3, 4, shift, name="up") if kind is Upsampling else kind(4, shift, name="up")
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.get_weights()])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.get_layer("up"), kind)
    image = rng.normal(size=(1, 5, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(loaded(image), model(image), atol=1e-6)
