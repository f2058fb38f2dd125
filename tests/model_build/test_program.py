"""A program's functions: the same numbers as its graph, whatever takes the place of a tensor."""

import numpy as np
import pytest
import tensorflow as tf

from model_build import program as programs
from model_build.program import Program, with_kernels
from model_build.saved_model import UnusableModel
from tests.programs import average, program


def pixels(batch=2, height=4, width=6):
    return np.random.default_rng(0).integers(0, 255, (batch, height, width, 3), np.uint8)


def gated(keepdims):
    """An image weighed by a gate that its mean decides, and then once more."""

    def body(images):
        features = tf.cast(images, tf.float32)
        for number in range(2):
            mean = average(features, number, keepdims)
            features = features * tf.reshape(tf.sigmoid(mean / 100), (-1, 1, 1, 3))
        return features

    return program(body, averages=2)


def call(function, *given):
    return tf.function(function, autograph=False)(*map(tf.constant, given))


@pytest.mark.parametrize("keepdims", [True, False])
def test_the_averages_of_features_take_the_place_of_an_images_own(keepdims):
    found = gated(keepdims)
    assert (found.channels, found.averaged) == (3, [3, 3])
    features = call(found.features, pixels())
    assert [feature.shape for feature in features] == [(2, 4, 6, 3)] * 2
    given = [np.mean(feature, axis=(1, 2), keepdims=True) for feature in features]
    expected = call(found.scores, pixels())
    np.testing.assert_allclose(call(found.scores, pixels(), *given), expected, rtol=1e-6)
    other = [np.full((2, 1, 1, 3), value, np.float32) for value in (1, 100)]
    gates = [1 / (1 + np.exp(-value / 100)) for value in (1, 100)]
    expected = pixels() * np.float32(gates[0] * gates[1])
    np.testing.assert_allclose(call(found.scores, pixels(), *other), expected, rtol=1e-5)


def test_logits_depend_only_on_scores():
    found = program(lambda images: tf.cast(images, tf.float32), lambda scores: 2 * scores + 1)
    scores = np.ones((1, 2, 3, 3), np.float32)
    np.testing.assert_array_equal(call(found.logits, scores), 3 * scores)


def test_half_kernels_are_worked_out_once():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float16)
    factor = np.linspace(0.5, 2, 4, dtype=np.float32)

    def body(images):
        half = tf.cast(tf.constant(kernel), tf.float32)
        return tf.nn.conv2d(tf.cast(images, tf.float32), half * tf.constant(factor), 1, "SAME")

    found = program(body)
    assert [node.op for node in found.graph.node].count("Cast") == 2
    left = [node.op for node in with_kernels(found.graph.node)]
    assert (left.count("Cast"), left.count("Mul")) == (1, 0)
    images = tf.cast(pixels(), tf.float32)
    expected = tf.nn.conv2d(images, kernel.astype(np.float32) * factor, 1, "SAME")
    np.testing.assert_allclose(call(found.scores, pixels()), expected, rtol=1e-5)


def convolutions(images):
    """A branch before and one around two dilated depthwise convolutions."""
    kernel = tf.constant(np.random.default_rng(1).normal(size=(3, 3, 3, 1)), tf.float32)
    features = tf.cast(images, tf.float32) / 255
    for dilation in (2, 3):
        around = tf.nn.relu(features)
        features = tf.raw_ops.DepthwiseConv2dNative(
            input=around,
            filter=kernel,
            strides=[1, 1, 1, 1],
            padding="SAME",
            dilations=[1, dilation, dilation, 1],
        )
        features = features + around
    return features


def test_a_machine_without_dilated_depthwise_kernels_rearranges(monkeypatch):
    monkeypatch.setattr(programs, "dilates_depthwise", lambda: False)
    images = pixels(1, 12, 15)
    kernel = tf.constant(np.random.default_rng(1).normal(size=(3, 3, 3, 1)), tf.float32)
    expected = tf.cast(images, tf.float32) / 255
    for dilation in (2, 3):
        around = tf.nn.relu(expected)
        dilations = [dilation, dilation]
        expected = around + tf.nn.depthwise_conv2d(
            around, kernel, [1, 1, 1, 1], "SAME", dilations=dilations
        )
    found = program(convolutions)
    np.testing.assert_allclose(call(found.scores, images), expected, atol=1e-5)
    traced = tf.function(found.scores).get_concrete_function(tf.constant(images))
    added = [operation.type for operation in traced.graph.get_operations()]
    assert added.count("SpaceToBatchND") == 2
    assert added.count("Relu") == 2  # nothing is added twice


def test_a_changed_input_of_one_node_does_not_affect_another():
    def body(images):
        features = tf.cast(images, tf.float32)
        return tf.nn.relu(features, name="one") + 10 * tf.nn.relu(features, name="other")

    def change(node, sources):
        assert len(sources) == len(node.input)
        return (lambda features: 2 * features) if node.name == "one" else None

    found = call(lambda images: program(body).scores(images, change=change), pixels())
    np.testing.assert_allclose(found, 12.0 * pixels())


@pytest.mark.parametrize("name", ["images", "features0", "mean0", "scores", "logits"])
def test_a_tensor_that_is_missing_is_named(name):
    graph = tf.compat.v1.GraphDef()
    graph.CopyFrom(
        program(lambda x: tf.cast(x, tf.float32) + average(tf.cast(x, tf.float32))).graph
    )
    for node in graph.node:
        node.name = "other" if node.name == name else node.name
        node.input[:] = ["other" if source == name else source for source in node.input]
    with pytest.raises(UnusableModel, match=f"no tensor '{name}'"):
        Program(graph, 1)


def test_a_graph_that_is_not_whole_or_not_in_order_is_refused():
    graph = program(lambda images: tf.cast(images, tf.float32)).graph
    for nodes in (list(graph.node)[::-1], list(graph.node)[1:]):
        with pytest.raises(UnusableModel, match="not whole or not in order"):
            Program(tf.compat.v1.GraphDef(node=nodes), 0)
