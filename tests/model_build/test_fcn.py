import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from model_build.fcn import LOGITS, SCORES, Upsampling, bilinear_kernel, fcn


@pytest.fixture(scope="module")
def mobilenet_fcn():
    return fcn(3, "mobilenet_v2")


@pytest.fixture(scope="module")
def resnet_fcn():
    return fcn(3, "resnet18")


def transposed(filters, stride, channels, kernel):
    size = kernel.shape[0]
    layer = keras.layers.Conv2DTranspose(filters, size, stride, padding="same", use_bias=False)
    layer.build((None, None, None, channels))
    layer.set_weights([kernel])
    return layer


def upsampling(filters, stride, channels, kernel=None):
    layer = Upsampling(filters, stride)
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
    height=st.integers(3, 12),
    width=st.integers(3, 12),
    seed=st.integers(0, 2**16),
    custom=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_doubling_equals_bilinear_resizing_away_from_the_border(height, width, seed, custom):
    image = np.random.default_rng(seed).random((1, height, width, 3)).astype(np.float32)
    layer = upsampling(3, 2, 3) if custom else transposed(3, 2, 3, kernel=bilinear_kernel(3, 3, 4))
    resized = tf.image.resize(image, (2 * height, 2 * width), "bilinear")
    np.testing.assert_allclose(
        np.array(layer(image))[:, 1:-1, 1:-1], resized[:, 1:-1, 1:-1], atol=1e-5
    )


def test_upsampling_by_32_starts_as_bilinear_resizing():
    image = np.random.default_rng(0).random((1, 4, 3, 2)).astype(np.float32)
    resized = tf.image.resize(image, (128, 96), "bilinear")
    doubled = np.array(upsampling(2, 32, 2)(image))
    np.testing.assert_allclose(doubled[:, 16:-16, 16:-16], resized[:, 16:-16, 16:-16], atol=1e-5)


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
    np.testing.assert_allclose(outputs, transposed(3, stride, 2, kernel)(inputs), atol=1e-5)


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
    expected = transposed(filters, stride, channels, kernel)(inputs)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_upsampling_has_the_gradient_of_conv2d_transpose():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(8, 8, 3, 2)).astype(np.float32)
    inputs = tf.constant(rng.normal(size=(1, 3, 4, 2)).astype(np.float32))
    target = rng.normal(size=(1, 12, 16, 3)).astype(np.float32)
    gradients = []
    for layer in (upsampling(3, 4, 2, kernel), transposed(3, 4, 2, kernel)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(inputs) * target)
        gradients.append(tape.gradient(loss, layer.trainable_variables[0].value))
    np.testing.assert_allclose(*gradients, atol=1e-4)


def test_upsampling_is_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(0)
    inputs = keras.Input((None, None, 2))
    layer = Upsampling(3, 4, name="up")
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([rng.normal(size=(8, 8, 3, 2))])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.get_layer("up"), Upsampling)
    image = rng.normal(size=(1, 5, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(loaded(image), model(image), atol=1e-6)


@pytest.mark.parametrize("network", ["mobilenet_fcn", "resnet_fcn"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 96)])
def test_logits_have_the_size_of_an_image_with_sides_divisible_by_32(
    request, network, height, width
):
    model, _ = request.getfixturevalue(network)
    logits = model(np.zeros((2, height, width, 3), np.uint8))
    assert logits.shape == (2, height, width, 3)
    assert logits.dtype == tf.float32


@pytest.mark.parametrize("network", ["mobilenet_fcn", "resnet_fcn"])
@pytest.mark.parametrize(("side", "size"), [(20, 32), (33, 64), (50, 64), (63, 64), (65, 96)])
def test_other_sides_are_rounded_up_to_the_next_multiple_of_32(request, network, side, size):
    model, _ = request.getfixturevalue(network)
    assert model(np.zeros((1, side, 64, 3), np.uint8)).shape == (1, size, 64, 3)


def test_the_network_takes_uint8(mobilenet_fcn):
    model, _ = mobilenet_fcn
    assert model.input.dtype == "uint8"
    assert model.input.shape == (None, None, None, 3)


def test_normalisation_is_part_of_the_graph(mobilenet_fcn):
    model, _ = mobilenet_fcn
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    normalised = keras.Model(model.input, model.get_layer("normalise").output)(image)
    expected = keras.applications.mobilenet_v2.preprocess_input(image.astype(np.float32))
    np.testing.assert_allclose(normalised, expected, atol=1e-5)


def test_a_bgr_normalisation_is_part_of_the_graph(monkeypatch, use_tiny_backbone):
    from model_build import backbones

    _, bgr = backbones._find("resnet50")
    use_tiny_backbone(monkeypatch)
    tiny = backbones._find("tiny")[0]
    monkeypatch.setattr(backbones, "_find", lambda name: (tiny, bgr))
    model, normalisation = fcn(3, "resnet50")
    assert normalisation == bgr
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    normalised = keras.Model(model.input, model.get_layer("normalise").output)(image)
    expected = keras.applications.resnet50.preprocess_input(image.astype(np.float32))
    np.testing.assert_allclose(normalised, expected, atol=1e-3)


def test_the_head_is_a_1x1_convolution_and_a_bilinear_upsampling_by_32(mobilenet_fcn):
    model, _ = mobilenet_fcn
    kernel, bias = model.get_layer(SCORES).get_weights()
    assert kernel.shape == (1, 1, 1280, 3)
    assert np.abs(kernel).max() <= np.sqrt(6 / (1280 + 3))
    assert not bias.any()
    (upsampling_kernel,) = model.get_layer(LOGITS).get_weights()
    np.testing.assert_array_equal(upsampling_kernel, bilinear_kernel(3, 3, 64))
