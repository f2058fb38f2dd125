"""Finds the receptive field of a cell by following its gradient back to the pixels.

For that a network is made linear and positive: boxes for kernels, no activation, mean for maximum.
The pixels that a cell sees then weigh in as in its receptive field, which is symmetric.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from model_build.common.errors import UserError
from model_build.network import backbones, strides
from model_build.network.backbones import backbone, pyramid
from model_build.network.fcn import LOGITS, SCORES, fcn

WIDTH = 1024  # wider than any receptive field here; the height does not matter


@functools.cache
def plain(name):
    return backbone(name)[0]


@functools.cache
def linear(name):
    """A backbone with its geometry, but linear and positive."""
    return linearised(plain(name))


def linearised(model):
    def changed(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.ReLU):
            return keras.layers.Activation("linear", name=layer.name)
        if isinstance(layer, keras.layers.MaxPooling2D):
            return keras.layers.AveragePooling2D.from_config(config)
        if "activation" in config:
            config["activation"] = "linear"
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=changed)
    for layer in copy.layers:
        if isinstance(layer, (keras.layers.BatchNormalization, keras.layers.Normalization)):
            continue
        # Squeeze and excitation looks at the whole image: its factor is made a constant one.
        # Xception's branches differ in their centres: the shorter ones, without names, are closed.
        closed = "se_expand" in layer.name or layer.name.startswith("conv2d")
        layer.set_weights([box(weight, closed) for weight in layer.get_weights()])
    return copy


def box(weight, closed):
    if weight.ndim == 1:
        return np.full(weight.shape, float(closed))
    depthwise = weight.shape[-1] == 1
    return np.full(
        weight.shape, 0 if closed else 1 / np.prod(weight.shape[: 2 if depthwise else 3])
    )


def seen(features, cell):
    """How much each column of pixels has to do with one cell: ``[WIDTH]``."""
    image = tf.ones((1, 32, WIDTH, 3))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(image)
        value = tf.reduce_sum(features(image)[0, :, cell])
    profile = tf.reduce_sum(tape.gradient(value, image), axis=(0, 1, 3)).numpy()
    assert profile.min() >= 0 < profile.max()
    return profile / profile.sum()


def center(profile):
    return float(np.arange(WIDTH) @ profile)


def part(model, layer):
    outputs = {operation.name: operation.output for operation in model.operations}
    return keras.Model(model.input, outputs[layer])


# Grids


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("mobilenet_v2", {8: 7, 16: 15, 32: 31}),
        ("efficientnet_b0", {8: 7, 16: 15, 32: 31}),
        ("resnet18", {8: 0, 16: 0, 32: 0}),
        ("resnet50", {8: 0, 16: 0, 32: 0}),
        ("resnet50_v2", {8: 0, 16: 0, 32: 0}),
        ("vgg16", {8: 3.5, 16: 7.5, 32: 15.5}),
        ("xception", {8: 3, 16: 11, 32: 27}),
    ],
)
def test_cells_are_centred_at_grid_centers(name, first):
    model = linear(name)
    layers, centers = strides.feature_layers(model), strides.grid_centers(model)
    for stride in (8, 16, 32):
        cell = WIDTH // 2 // stride
        found = center(seen(part(model, layers[stride]), cell))
        assert centers[layers[stride]] == first[stride]
        assert found == pytest.approx(first[stride] + stride * cell, abs=0.02), stride


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("mobilenet_v2", 16),
        ("mobilenet_v2", 8),
        ("efficientnet_b0", 16),
        ("resnet18", 8),
        ("resnet50", 16),
        ("vgg16", 8),
    ],
)
def test_cells_of_a_dilated_backbone_are_centred_at_grid_centers(name, output_stride):
    model = strides.dilate(linear(name), output_stride)
    first = strides.grid_centers(model)[model.layers[-1].name]
    cell = WIDTH // 2 // output_stride
    found = center(seen(model, cell))
    assert found == pytest.approx(first + output_stride * cell, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "last"),
    [("convnext_tiny", 15.5), ("mobilenet_v3_small", 31)],
)
def test_centers_where_layers_are_joined_by_plain_sums_and_products(name, last):
    model = plain(name)
    centers = strides.grid_centers(model)
    assert centers[model.layers[-1].name] == last


def test_means_over_the_image_have_no_center():
    centers = strides.grid_centers(plain("mobilenet_v3_small"))
    assert not [layer for layer in centers if "squeeze_excite" in layer and "mul" not in layer]
    assert centers["expanded_conv_squeeze_excite_mul"] == 3


def body(*downs):
    """Convolutions (kernel, stride) or poolings in a row, padded as TensorFlow does."""
    x = inputs = keras.Input((None, None, 3))
    for index, (kind, size, stride) in enumerate(downs):
        layer = keras.layers.Conv2D if kind == "conv" else keras.layers.AveragePooling2D
        arguments = (4, size, stride) if kind == "conv" else (size, stride)
        x = layer(*arguments, padding="same", name=f"{kind}{index}")(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    ("downs", "first"),
    [
        ([("conv", 16, 16), ("conv", 2, 2)], 15.5),
        ([("conv", 4, 4), ("pool", 8, 8)], 15.5),
        ([("conv", 4, 4), ("conv", 3, 1), ("pool", 2, 2), ("conv", 3, 1), ("conv", 4, 4)], 15.5),
        ([("conv", 3, 2)] * 5, 31),
        ([("conv", 5, 2)] * 5, 31),
        ([("pool", 1, 2)] * 5, 0),
        ([("pool", 3, 2), ("conv", 7, 2), ("conv", 2, 2), ("pool", 1, 4)], 1 + 2 + 2),
    ],
)
def test_kernels_as_wide_as_their_stride_are_centred_and_others_are_not(downs, first):
    model = linearised(body(*downs))
    assert strides.grid_centers(model)[model.layers[-1].name] == first
    assert center(seen(model, 16)) == pytest.approx(first + 32 * 16, abs=0.01)


# Feature layers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenet_v2", {8: "block_6_expand_relu", 16: "block_13_expand_relu", 32: "out_relu"}),
        ("resnet50", {8: "conv3_block4_out", 16: "conv4_block6_out", 32: "conv5_block3_out"}),
        ("resnet18", {8: "layer2_1_out", 16: "layer3_1_out", 32: "layer4_1_out"}),
        ("vgg16", {8: "block4_conv3", 16: "block5_conv3", 32: "block5_pool"}),
        ("efficientnet_b0", {8: "block4a_expand_activation", 16: "block6a_expand_activation"}),
    ],
)
def test_features_are_the_inputs_of_the_next_stage(name, expected):
    layers = strides.feature_layers(plain(name))
    assert sorted(layers) == [2, 4, 8, 16, 32]
    assert {stride: layers[stride] for stride in expected} == expected


def test_features_of_a_residual_network_are_sums_even_where_those_are_no_layers():
    model = plain("convnext_tiny")
    layers = strides.feature_layers(model)
    last = {operation.name: operation for operation in model.operations}[layers[16]]
    assert len(keras.tree.flatten(last.input)) == 2


def test_strides_with_odd_sizes_are_not_offered():
    assert sorted(strides.feature_layers(plain("xception"))) == [8, 16, 32]


# Dilation


def randomise(model):
    """Weights that keep activations at about one, and statistics that differ by channel."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        for weight in layer.weights:
            if len(weight.shape) > 1:
                fan_in = np.prod(weight.shape[: 2 if depthwise else -1])
                weight.assign(rng.normal(size=weight.shape) * np.sqrt(2 / fan_in))
            elif weight.path.endswith(("gamma", "variance")):
                weight.assign(rng.uniform(0.7, 1.3, weight.shape))
            else:
                weight.assign(rng.normal(size=weight.shape) * 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "resnet50", "efficientnet_b0"])
def test_a_dilated_backbone_equals_the_plain_one_at_common_cells(name):
    model = keras.models.clone_model(plain(name))
    randomise(model)
    image = np.random.default_rng(1).normal(size=(1, 128, 160, 3)).astype(np.float32)
    expected = np.array(model(image))
    magnitude = np.abs(expected).max()
    assert magnitude > 1e-3
    first = strides.grid_centers(model)[model.layers[-1].name]
    for output_stride in (16, 8):
        dilated = strides.dilate(model, output_stride)
        features = np.array(dilated(image))
        assert features.shape[1:3] == (128 // output_stride, 160 // output_stride)
        own = strides.grid_centers(dilated)[dilated.layers[-1].name]
        start, every = int(first - own) // output_stride, 32 // output_stride
        common = features[:, start::every, start::every]
        if name == "efficientnet_b0":
            # Its gates are means over all cells, and there are more of these now.
            assert np.corrcoef(common.ravel(), expected.ravel())[0, 1] > 0.9
        else:
            np.testing.assert_allclose(common / magnitude, expected / magnitude, atol=1e-5)
        others = features[:, (start + 1) % every :: every, start::every]
        assert np.abs(others - expected).max() > 0.01 * magnitude


@pytest.mark.slow
def test_a_dilated_backbone_keeps_names_weights_and_trainable_flags():
    model = keras.models.clone_model(plain("mobilenet_v2"))
    model.get_layer("block_3_expand").trainable = False
    dilated = strides.dilate(model, 8)
    assert dilated.name == model.name
    assert [layer.name for layer in dilated.layers] == [layer.name for layer in model.layers]
    assert [layer.trainable for layer in dilated.layers] == [
        layer.trainable for layer in model.layers
    ]
    assert sum(not layer.trainable for layer in dilated.layers) == 1
    for ours, theirs in zip(dilated.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert model.get_layer("block_6_depthwise").strides == (2, 2)


def test_layers_before_the_output_stride_are_left_as_they_are():
    model = plain("mobilenet_v2")
    dilated = strides.dilate(model, 16)
    changed = [
        layer.name
        for layer, copy in zip(model.layers[1:], dilated.layers[1:], strict=True)
        if layer.get_config() != copy.get_config()
    ]
    assert changed == ["block_13_pad", "block_13_depthwise"] + [
        f"block_{block}_depthwise" for block in (14, 15, 16)
    ]
    assert strides.dilate(model, 32) is model


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenet_v2", "block_16_project_BN"),
        ("efficientnet_b0", "block7a_project_bn"),
        ("resnet18", "layer4_1_out"),
        ("convnext_tiny", "layer_normalization"),
    ],
)
def test_the_classifiers_expansion_is_found_if_there_is_one(name, expected):
    assert strides.before_expansion(plain(name)).startswith(expected)


# The pyramid and the whole network


@pytest.mark.slow
@pytest.mark.parametrize(
    ("finest", "coarsest", "expected"),
    [
        (32, 32, [(4, 1280)]),
        (8, 32, [(4, 1280), (8, 576), (16, 192)]),
        (8, 16, [(8, 1280), (16, 192)]),
        (16, 16, [(8, 1280)]),
        (8, 8, [(16, 1280)]),
    ],
)
def test_a_pyramid_has_features_of_each_stride_coarsest_first(finest, coarsest, expected):
    model, centers, _ = pyramid("mobilenet_v2", finest=finest, coarsest=coarsest)
    features = keras.tree.flatten(model(np.zeros((1, 128, 128, 3), np.float32)))
    assert [tuple(feature.shape[2:]) for feature in features] == expected
    assert centers == {128 // cells: 128 // cells - 1 for cells, _ in expected}


def test_a_pyramid_of_one_step_is_a_list():
    model, _, _ = pyramid("resnet18")
    assert [feature.shape[-1] for feature in model.outputs] == [512]


def test_a_backbone_that_cannot_be_dilated_is_refused(monkeypatch):
    model = plain("convnext_tiny")
    same = backbones.Normalisation("RGB", (1.0,) * 3, (0.0,) * 3)
    monkeypatch.setattr(backbones, "_find", lambda _: (lambda **_: model, same))
    with pytest.raises(UserError) as caught:
        pyramid("convnext_tiny", coarsest=16)
    message = str(caught.value)
    assert message.startswith("backbone convnext_tiny: it cannot be dilated to stride 16")
    assert "--output-stride 32" in message
    assert "\n" not in message


def test_a_stride_without_features_is_refused_with_the_possible_ones(tiny_backbone):
    with pytest.raises(UserError) as caught:
        pyramid("tiny", finest=16)
    message = str(caught.value)
    assert message.startswith("backbone tiny: it has no features at stride 16; it offers 8, 32")
    assert "--skips" in message
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobilenet_v2", {"skips": 32}),
        ("mobilenet_v2", {"skips": 8, "learn_upsampling": True}),
        ("mobilenet_v2", {"output_stride": 8}),
        ("resnet18", {"skips": 32, "learn_upsampling": True}),
        ("resnet18", {"skips": 8, "output_stride": 16}),
        ("vgg16", {"output_stride": 8, "learn_upsampling": True}),
    ],
)
def test_the_receptive_field_of_a_pixel_is_centred_on_it(monkeypatch, name, options):
    def constructor(**_):
        return keras.models.clone_model(linear(name))

    model = linear(name)
    same = backbones.Normalisation("RGB", (1.0,) * 3, (0.0,) * 3)
    monkeypatch.setattr(backbones, "_find", lambda _: (constructor, same))
    network, _ = fcn(1, name, **options)
    network.get_layer("backbone").set_weights(model.get_weights())
    for layer in network.layers:
        if layer.name.startswith(SCORES):
            kernel, bias = layer.get_weights()
            layer.set_weights([np.full_like(kernel, 1 / kernel.size), bias])
    part = keras.Model(network.get_layer("normalise").output, network.get_layer(LOGITS).output)
    for pixel in (WIDTH // 2, WIDTH // 2 + 13):
        assert center(seen(part, pixel)) == pytest.approx(pixel, abs=0.02)
