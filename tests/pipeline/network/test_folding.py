"""Folding: the same numbers from fewer operations, for each pattern and for whole backbones."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.network import folding
from pipeline.network.graphs import Graph
from pipeline.network.segmenter import freeze

layers = keras.layers
FLOATS = tf.TensorSpec([None, None, None, 3], tf.float32)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(5)


def statistics(model, seed=0):
    """Gives the batch norms of a model weights as training leaves them."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights(
                [
                    rng.uniform(0.5, 1.5, value.shape)
                    if "variance" in weight.path or "gamma" in weight.path
                    else rng.normal(0, 0.3, value.shape)
                    for weight, value in zip(layer.weights, layer.get_weights(), strict=True)
                ]
            )
    return model


def trained_on(model, images):
    """Gives the batch norms of a model the statistics of a batch, so that its features differ."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)


def frozen(model, spec=FLOATS):
    return freeze(lambda x: model(tf.cast(x, tf.float32), training=False), spec)


def small(*stack, channels=3):
    inputs = keras.Input((None, None, channels))
    x = inputs
    for layer in stack:
        x = layer(x)
    return statistics(keras.Model(inputs, x))


def operations(function):
    return Graph(function).operations()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_alike(plain, folded, images):
    for one, other in zip(plain(tf.constant(images)), folded(tf.constant(images)), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=1e-4 * max(1, np.abs(one).max()), rtol=0)


SIZES = [(8, 12), (7, 9), (16, 5), (33, 32)]
STACKS = {
    "without bias": [layers.Conv2D(6, 3, use_bias=False), layers.BatchNormalization()],
    "with bias": [layers.Conv2D(6, 3, padding="same"), layers.BatchNormalization()],
    "activated": [
        layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
    ],
    "not scaled": [layers.Conv2D(6, 1), layers.BatchNormalization(scale=False)],
    "not centred": [layers.Conv2D(6, 1), layers.BatchNormalization(center=False)],
    "depthwise": [
        layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        layers.BatchNormalization(),
    ],
    "depthwise with a multiplier": [
        layers.DepthwiseConv2D(3, padding="same", depth_multiplier=4),
        layers.BatchNormalization(),
    ],
    "grouped": [layers.Conv2D(6, 3, groups=3, use_bias=False), layers.BatchNormalization()],
    "dilated": [
        layers.Conv2D(4, 3, dilation_rate=2, padding="same", use_bias=False),
        layers.BatchNormalization(),
    ],
    "dilated depthwise": [
        layers.DepthwiseConv2D(3, dilation_rate=2, padding="same", use_bias=False),
        layers.BatchNormalization(),
    ],
    "dilated depthwise, large": [
        layers.DepthwiseConv2D(5, dilation_rate=3, padding="same"),
        layers.BatchNormalization(),
    ],
    "dilated depthwise without padding": [layers.DepthwiseConv2D(3, dilation_rate=2)],
    "padded": [
        layers.ZeroPadding2D(3),
        layers.Conv2D(6, 7, strides=2, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
    ],
    "padded unevenly": [
        layers.ZeroPadding2D(((0, 1), (0, 1))),
        layers.Conv2D(6, 3, strides=2),
        layers.BatchNormalization(),
    ],
    "padded depthwise": [
        layers.ZeroPadding2D(((0, 1), (0, 1))),
        layers.DepthwiseConv2D(3, strides=2, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
    ],
    "padded depthwise, no stride": [layers.ZeroPadding2D(1), layers.DepthwiseConv2D(3)],
    "normalised": [
        layers.Rescaling(1 / 127.5, -1.0),
        layers.Conv2D(6, 3, padding="same"),
    ],
    "normalised by channel": [
        layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[0.5, 1.0, 4.0]),
        layers.ZeroPadding2D(1),
        layers.Conv2D(6, 3, strides=2),
    ],
    "normalised and scaled": [
        layers.Rescaling(1 / 255),
        layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[0.5, 1.0, 4.0]),
        layers.Conv2D(6, 3, padding="same"),
        layers.BatchNormalization(),
    ],
    "swish": [
        layers.Conv2D(6, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.Activation("swish"),
    ],
    "twice": [
        layers.Conv2D(6, 3),
        layers.BatchNormalization(),
        layers.Conv2D(4, 1),
        layers.BatchNormalization(),
    ],
}


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("stack", STACKS)
def test_gives_the_same_numbers(stack, batch):
    plain = frozen(small(*STACKS[stack]))
    folded = folding.fold(plain)
    for size in SIZES:
        assert_alike(plain, folded, noise(batch, *size, 3))


def knows_dilated_depthwise():
    """Whether TensorFlow has such a kernel here: oneDNN's, which it uses on some CPUs only."""
    try:
        tf.raw_ops.DepthwiseConv2dNative(
            input=tf.zeros([1, 9, 9, 1]),
            filter=tf.zeros([3, 3, 1, 1]),
            strides=[1, 1, 1, 1],
            padding="SAME",
            dilations=[1, 2, 2, 1],
        )
    except tf.errors.OpError:
        return False
    return True


# Keras has XLA compile a grouped convolution by itself, in a call that is left alone.
@pytest.mark.parametrize("stack", [stack for stack in STACKS if stack != "grouped"])
def test_leaves_no_arithmetic_beside_the_bias(stack):
    if stack.startswith("dilated depthwise") and not knows_dilated_depthwise():
        pytest.skip("TensorFlow has no kernel for dilated depthwise convolutions on this CPU")
    left = operations(folding.fold(frozen(small(*STACKS[stack]))))
    own = {"Mul": 1, "Sigmoid": 1} if stack == "swish" else {}
    # One addition is what a normalisation comes down to.
    own |= {"AddV2": 1} if stack.startswith("normalised") else {}
    assert {op: left[op] for op in ("Mul", "Sub", "AddV2", "RealDiv", "Sigmoid") if left[op]} == own
    assert left["SpaceToBatchND"] == left["BatchToSpaceND"] == left["Rsqrt"] == 0


@pytest.mark.parametrize("stack", ["padded", "padded unevenly", "padded depthwise, no stride"])
def test_padding_goes_into_the_convolution(stack):
    assert operations(folding.fold(frozen(small(*STACKS[stack]))))["Pad"] == 0


def test_padding_of_a_strided_depthwise_convolution_goes_into_it_where_sizes_are_even():
    plain = frozen(small(*STACKS["padded depthwise"]))
    assert operations(folding.fold(plain))["Pad"] == 1  # SAME is another padding for odd sizes
    folded = folding.fold(plain, multiple=2)
    assert operations(folded)["Pad"] == 0
    for size in [(8, 12), (2, 6), (34, 32)]:
        assert_alike(plain, folded, noise(2, *size, 3))


def test_a_machine_whose_kernel_knows_no_dilation_keeps_the_rearrangement(monkeypatch):
    def refuse(*_):
        raise tf.errors.UnimplementedError(None, None, "no dilation here")

    plain = frozen(small(*STACKS["dilated depthwise"]))
    graph = Graph(plain)
    monkeypatch.setattr(graph, "run", refuse)
    folding.rewrite(graph)
    monkeypatch.undo()
    left = graph.operations()
    assert (left["SpaceToBatchND"], left["BatchToSpaceND"], left["BiasAdd"]) == (1, 1, 1)
    assert left["Mul"] == 0  # the batch norm is folded all the same
    assert_alike(plain, graph.function(), noise(2, 12, 9, 3))


def test_what_has_no_such_pattern_stays_as_it_is():
    pre_activation = small(
        layers.BatchNormalization(), layers.ReLU(), layers.Conv2D(4, 3), layers.MaxPool2D()
    )
    plain = frozen(pre_activation)
    folded = folding.fold(plain)
    assert operations(folded) == operations(plain)
    images = tf.constant(noise(1, 9, 9, 3))
    np.testing.assert_array_equal(folded(images)[0], plain(images)[0])


def test_a_convolution_that_several_take_is_not_changed_for_one_of_them():
    inputs = keras.Input((None, None, 3))
    shared = layers.Conv2D(4, 3, use_bias=False)(inputs)
    normed = layers.BatchNormalization()(shared)
    plain = frozen(statistics(keras.Model(inputs, layers.Concatenate()([shared, normed]))))
    folded = folding.fold(plain)
    assert operations(folded)["Mul"] == 1
    assert_alike(plain, folded, noise(2, 9, 9, 3))


def test_a_factor_that_makes_many_channels_of_one_is_none_of_the_convolution():
    convolve = layers.Conv2D(4, 3)
    convolve.build((None, None, None, 3))
    spec = tf.TensorSpec([None, None, None, 1], tf.float32)
    plain = freeze(lambda x: convolve(x * tf.constant([1.0, 2.0, 3.0])), spec)
    assert_alike(plain, folding.fold(plain), noise(2, 9, 9, 1))


def test_a_function_with_state_is_left_alone():
    counter = tf.Variable(0.0)
    function = tf.function(lambda x: x + counter.assign_add(1.0)).get_concrete_function(FLOATS)
    assert folding.fold(function) is function


def test_what_is_given_back_may_be_what_came_or_a_constant():
    function = freeze(lambda x, y: [y, tf.zeros(3) + 1, x], FLOATS, FLOATS)
    one, other = noise(1, 2, 2, 3), noise(2, 3, 2, 3)
    found = folding.fold(function)(tf.constant(one), tf.constant(other))
    for got, expected in zip(found, [other, np.ones(3), one], strict=True):
        np.testing.assert_array_equal(got, expected)


@settings(max_examples=25)
@given(
    st.integers(1, 4),  # channels in
    st.integers(1, 5),  # channels out, or the multiplier
    st.sampled_from([1, 2, 3, 5]),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["same", "valid"]),
    st.integers(0, 2**16),
)
def test_any_convolution_and_batch_norm(before, after, kernel, stride, bias, depthwise, pad, seed):
    options = {"strides": stride, "padding": pad, "use_bias": bias, "bias_initializer": "normal"}
    convolution = (
        layers.DepthwiseConv2D(kernel, depth_multiplier=after, **options)
        if depthwise
        else layers.Conv2D(after, kernel, **options)
    )
    model = statistics(small(convolution, layers.BatchNormalization(), channels=before), seed)
    plain = frozen(model, tf.TensorSpec([None, None, None, before], tf.float32))
    folded = folding.fold(plain)
    assert operations(folded)["Mul"] == 0
    assert_alike(plain, folded, noise(2, 8, 11, before, seed=seed))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [("MobileNetV2", {"alpha": 0.35}), ("ResNet50", {})],
    ids=["MobileNetV2", "ResNet50"],
)
def test_backbones_keep_their_logits_and_their_classes(name, options):
    from model_build.network.strides import dilate

    build = getattr(keras.applications, name)
    backbone = build(include_top=False, weights=None, input_shape=(None, None, 3), **options)
    backbone = dilate(backbone, 16)  # the last stage; those before keep their strides
    model = keras.Model(backbone.input, layers.Conv2D(5, 1)(backbone.output))
    coarse = np.random.default_rng(1).integers(0, 255, (4, 12, 20, 3), np.uint8)
    images = np.kron(coarse, np.ones((1, 16, 16, 1), np.uint8))
    trained_on(model, images / np.float32(64) - 2)

    def segment(images):
        logits = model(tf.cast(images, tf.float32) / 64 - 2, training=False)
        return tf.image.resize(logits, tf.shape(images)[1:3])

    plain = freeze(segment, tf.TensorSpec([4, None, None, 3], tf.uint8))
    folded = folding.fold(plain, 32)
    expected, got = plain(tf.constant(images))[0].numpy(), folded(tf.constant(images))[0].numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=0)
    classes = expected.argmax(-1)
    assert len(np.unique(classes)) > 2
    assert (got.argmax(-1) == classes).mean() >= 0.9999
    left = operations(folded)
    if name == "MobileNetV2" and not knows_dilated_depthwise():
        assert left["SpaceToBatchND"]
        return  # the rest of its arithmetic is left alone, too
    assert left["SpaceToBatchND"] == left["Rsqrt"] == 0
    assert left["BiasAdd"] >= left["Conv2D"] + left["DepthwiseConv2dNative"]
    assert left["Pad"] <= 1  # ResNet's before its pooling
