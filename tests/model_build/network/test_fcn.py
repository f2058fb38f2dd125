import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from model_build.common.errors import UserError
from model_build.network import backbones
from model_build.network.fcn import BACKBONE, LOGITS, SCORES, Architecture, fcn, scoring_layers
from model_build.network.upsampling import Interpolation


@pytest.fixture(scope="module")
def mobilenet_fcn():
    return fcn(3, "mobilenet_v2")


@pytest.fixture(scope="module")
def resnet_fcn():
    return fcn(3, "resnet18")


@pytest.mark.slow
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


def test_the_head_is_a_1x1_convolution_and_an_interpolation_by_32(mobilenet_fcn):
    model, _ = mobilenet_fcn
    kernel, bias = model.get_layer(SCORES).get_weights()
    assert kernel.shape == (1, 1, 1280, 3)
    assert np.abs(kernel).max() <= np.sqrt(6 / (1280 + 3))
    assert not bias.any()
    enlarge = model.get_layer(LOGITS)
    assert isinstance(enlarge, Interpolation)
    assert (enlarge.stride, enlarge.shift, enlarge.get_weights()) == (32, 15.5, [])


# Strides and skips


def small(include_top, weights, input_shape):
    """A backbone with features at every stride, and with a shift of its own at each."""
    layers = keras.layers
    x = inputs = keras.Input(input_shape)
    for stage, kernel in enumerate((3, 3, 5, 2, 3)):
        x = layers.Conv2D(4 + stage, kernel, 2, padding="same", name=f"down{stage}")(x)
        x = layers.BatchNormalization(name=f"bn{stage}")(x)
        x = layers.ReLU(name=f"relu{stage}")(x)
        x = layers.Conv2D(4 + stage, 3, padding="same", activation="relu", name=f"conv{stage}")(x)
    return keras.Model(inputs, x, name="small")


@pytest.fixture
def small_backbone(monkeypatch):
    normalisation = backbones.Normalisation("RGB", (1 / 128,) * 3, (-1.0,) * 3)
    monkeypatch.setattr(backbones, "_find", lambda name: (small, normalisation))


@pytest.mark.parametrize("learn_upsampling", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize(
    ("output_stride", "skips"), [(32, 32), (32, 16), (32, 8), (16, 32), (16, 8), (8, 32)]
)
def test_every_stride_and_skip_gives_logits_of_the_images_size(
    small_backbone, skips, output_stride, learn_upsampling
):
    model, _ = fcn(
        3, "small", skips=skips, output_stride=output_stride, learn_upsampling=learn_upsampling
    )
    assert model(np.zeros((2, 33, 71, 3), np.uint8)).shape == (2, 64, 96, 3)
    names = {layer.name for layer in model.layers}
    scored = [stride for stride in (16, 8) if skips <= stride < output_stride]
    for stride in (16, 8):
        assert (f"scores{stride}" in names) == (stride in scored)
    finest = min(skips, output_stride)
    enlarge = model.get_layer(LOGITS)
    assert enlarge.stride == finest
    assert len(enlarge.get_weights()) == learn_upsampling


@pytest.mark.parametrize(("output_stride", "skips"), [(16, 16), (8, 16), (8, 8)])
def test_skips_that_add_nothing_are_refused(small_backbone, output_stride, skips):
    with pytest.raises(UserError, match=f"--skips {skips}s: adds nothing"):
        fcn(3, "small", skips=skips, output_stride=output_stride)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"skips": 8, "learn_upsampling": True},
        {"skips": 8, "output_stride": 16},
        {"output_stride": 8, "context": True},
    ],
    ids=lambda options: "-".join(f"{key}={value}" for key, value in options.items()) or "plain",
)
def test_a_network_is_saved_and_loaded(small_backbone, tmp_path, options):
    model, _ = fcn(3, "small", **options)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.1, 0.5, weight.shape) for weight in model.get_weights()])
    image = rng.integers(0, 256, (1, 50, 70, 3), np.uint8)
    logits = np.array(model(image))
    assert logits.std() > 0
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(image), logits, rtol=1e-4)


def test_context_scores_each_place_together_with_the_whole_image(small_backbone):
    """By NumPy, as Chen et al. 2017 have it: hidden layers of the features and of their mean,
    stacked and through one more."""
    model, _ = fcn(3, "small", context=True)
    rng = np.random.default_rng(0)
    layers = {layer.name: layer for layer in model.layers}
    for name in ("local", "context", "from_local", "from_context", SCORES):
        weights = layers[name].get_weights()
        layers[name].set_weights([rng.normal(0, 0.3, weight.shape) for weight in weights])
    inner = keras.Model(model.input, [layers["mean"].input, layers[SCORES].output])
    features, scores = map(np.array, inner(rng.integers(0, 256, (2, 64, 96, 3), np.uint8)))

    def dense(name, inputs):
        kernel, bias = layers[name].get_weights()
        return inputs @ kernel[0, 0] + bias

    local = np.maximum(dense("local", features), 0)
    context = np.maximum(dense("context", features.mean((1, 2), keepdims=True)), 0)
    both = np.concatenate([local, np.broadcast_to(context, local.shape)], -1)
    kernel, bias = layers["from_local"].get_weights()
    (context_kernel,) = layers["from_context"].get_weights()
    hidden = np.maximum(both @ np.concatenate([kernel, context_kernel], 2)[0, 0] + bias, 0)
    assert 0.1 < (hidden > 0).mean() < 0.9
    np.testing.assert_allclose(scores, dense(SCORES, hidden), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("skips", [16, 8])
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_skips_start_as_the_fcn_32s(request, name, skips):
    """Scores of finer features start at zero, and a chain of interpolations is one interpolation,
    as the centres of coarse cells are also centres of fine cells."""
    plain, _ = request.getfixturevalue("mobilenet_fcn" if "mobilenet" in name else "resnet_fcn")
    finer, _ = fcn(3, name, skips=skips)
    for layer in (BACKBONE, SCORES):
        finer.get_layer(layer).set_weights(plain.get_layer(layer).get_weights())
    image = np.random.default_rng(0).integers(0, 256, (1, 96, 100, 3), np.uint8)
    expected = np.array(plain(image))
    spread = np.abs(expected).max()
    assert spread > 0
    np.testing.assert_allclose(finer(image) / spread, expected / spread, atol=1e-5)


def test_a_skip_adds_the_scores_of_its_features(small_backbone):
    model, _ = fcn(3, "small", skips=16)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    before = np.array(model(image))
    scores16 = model.get_layer("scores16")
    kernel, bias = scores16.get_weights()
    assert not kernel.any()
    assert not bias.any()
    rng = np.random.default_rng(1)
    scores16.set_weights([rng.normal(size=kernel.shape), bias])
    added = keras.Model(model.input, scores16.output)(image)
    assert added.shape == (1, 4, 6, 3)
    shift = model.get_layer(LOGITS).shift
    expected = before + Interpolation(16, shift)(added)
    np.testing.assert_allclose(model(image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(),
        Architecture("mobilenet_v2", "imagenet", 8, 16, learn_upsampling=True, context=True),
    ],
)
def test_an_architecture_is_read_back_from_json_without_its_weights(architecture):
    value = json.loads(json.dumps(architecture.to_json()))
    assert Architecture.from_json(value) == architecture.without_weights()
    assert "backbone_weights" not in value


def test_scoring_layers_are_those_whose_weights_depend_on_the_classes():
    few, many = (
        fcn(count, "mobilenet_v2", skips=8, context=True, learn_upsampling=True)[0]
        for count in (2, 5)
    )
    names = [
        layer.name
        for layer in few.layers
        if [w.shape for w in layer.weights] != [w.shape for w in many.get_layer(layer.name).weights]
    ]
    assert scoring_layers(few) == names
    assert set(names) == {"scores", "enlarged16", "scores16", "enlarged8", "scores8", "logits"}


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"skips": 8},
        {"output_stride": 16, "context": True},
        {"learn_upsampling": True},
    ],
    ids=str,
)
def test_no_network_multiplies_a_tensor_of_rank_4_by_a_matrix(form):
    """TensorFlow 2.21.0 crashes on that under oneDNN (tensorflow/tensorflow#117700)."""
    model, _ = fcn(21, "mobilenet_v2", **form)
    images = tf.TensorSpec([1, 64, 96, 3], tf.uint8)
    graph = tf.function(model).get_concrete_function(images).graph
    ranks = [
        [tensor.shape.rank for tensor in operation.inputs]
        for function in [graph, *(each.graph for each in graph._functions.values())]
        for operation in function.get_operations()
        if "MatMul" in operation.type
    ]
    assert [4, 2] not in ranks
    assert form.get("learn_upsampling") or [2, 4] in ranks, "its upsampling is found"
