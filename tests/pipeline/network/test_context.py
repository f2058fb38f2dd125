"""What a network averages over a whole image: cut off, or of a part alone."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.network.context import means, of_part, split
from pipeline.network.graphs import Graph
from pipeline.network.segmenter import freeze

IMAGES = tf.TensorSpec([2, None, None, 3], tf.uint8)


def images(height=4, width=6):
    return np.random.default_rng(0).integers(0, 255, (2, height, width, 3), np.uint8)


def gated(keepdims):
    """An image weighed by a gate that its mean decides, and then once more."""

    def network(images):
        features = tf.cast(images, tf.float32)
        for _ in range(2):
            mean = tf.reduce_mean(features, axis=[1, 2], keepdims=keepdims)
            features = features * tf.reshape(tf.sigmoid(mean / 100), (-1, 1, 1, 3))
        return features, tf.reduce_all(tf.math.is_finite(features), axis=[1, 2, 3])

    return network


@pytest.mark.parametrize("keepdims", [True, False])
def test_both_parts_together_are_the_network(keepdims):
    whole = freeze(gated(keepdims), IMAGES)
    averaged, rest = split(whole)
    features = averaged(tf.constant(images()))
    assert [feature.shape for feature in features] == [(2, 4, 6, 3)] * 2
    given = [tf.reduce_mean(feature, axis=[1, 2], keepdims=True) for feature in features]
    for found, expected in zip(
        rest(tf.constant(images()), *given), whole(tf.constant(images())), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_rest_takes_the_averages_that_it_is_given():
    _, rest = split(freeze(gated(True), IMAGES))
    ones, hundreds = np.ones((2, 1, 1, 3), np.float32), np.full((2, 1, 1, 3), 100, np.float32)
    low = rest(tf.constant(images()), ones, ones)[0]
    high = rest(tf.constant(images()), hundreds, ones)[0]
    factor = (1 / (1 + np.exp(-1))) / (1 / (1 + np.exp(-0.01)))
    np.testing.assert_allclose(high, factor * low, rtol=1e-5)


def test_what_averages_nothing_stays_whole():
    plain = freeze(lambda images: tf.cast(images, tf.float32) / 2, IMAGES)
    assert split(plain) == (None, plain)


def test_other_means_are_none():
    def network(images):
        features = tf.cast(images, tf.float32)
        features -= tf.reduce_mean(features, axis=-1, keepdims=True)
        return features * tf.reduce_mean(features, axis=[0, 1, 2, 3])

    assert means(Graph(freeze(network, IMAGES))) == []


def test_what_cannot_be_cut_stays_whole():
    def network(images):
        noise = tf.random.uniform([])
        return tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2]) + noise

    stateful = freeze(network, IMAGES)
    assert split(stateful) == (None, stateful)


@pytest.mark.parametrize("keepdims", [True, False])
def test_a_part_is_averaged_as_if_it_were_the_whole(keepdims):
    whole = freeze(gated(keepdims), IMAGES)
    expected, _ = whole(tf.constant(images()))
    padded = np.pad(images(), [(0, 0), (0, 3), (0, 5), (0, 0)], constant_values=255)
    found, finite = of_part(whole)(tf.constant(padded), tf.constant([4, 6]))
    np.testing.assert_allclose(found[:, :4, :6], expected, rtol=1e-6)
    assert finite.numpy().tolist() == [True, True]


def test_padding_that_is_not_finite_is_kept_out_of_averages():
    def network(images):
        features = 1 / (tf.cast(images, tf.float32) - 255)
        return tf.reduce_mean(features, axis=[1, 2])

    padded = np.pad(images(), [(0, 0), (0, 3), (0, 5), (0, 0)], constant_values=255)
    (found,) = of_part(freeze(network, IMAGES))(tf.constant(padded), tf.constant([4, 6]))
    expected = (1 / (images().astype(np.float32) - 255)).mean(axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def kernel(side, *channels):
    return tf.constant(np.random.default_rng(1).normal(size=(side, side, *channels)), tf.float32)


# What looks over the border of features, each in its own way.
LOOKING = {
    "a convolution": lambda x: tf.nn.conv2d(x, kernel(3, 3, 4), 1, "SAME"),
    "one with a stride": lambda x: tf.nn.conv2d(x, kernel(5, 3, 4), 2, "SAME"),
    "one that is dilated": lambda x: tf.nn.conv2d(x, kernel(3, 3, 4), 1, "SAME", dilations=2),
    "one that is padded explicitly": lambda x: tf.nn.conv2d(
        tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), kernel(3, 3, 4), 2, "VALID"
    ),
    "a depthwise convolution": lambda x: tf.nn.depthwise_conv2d(
        x, kernel(3, 3, 1), [1, 2, 2, 1], "SAME"
    ),
    "a dilated depthwise one": lambda x: tf.nn.depthwise_conv2d(
        x, kernel(3, 3, 1), [1, 1, 1, 1], "SAME", dilations=[2, 2]
    ),
    "pooling": lambda x: tf.nn.max_pool2d(x - 300, 3, 2, "SAME"),
    "upsampling": lambda x: tf.nn.conv2d(
        tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC"), kernel(2, 3, 4), 1, "VALID"
    )[:, 1:, 1:],
}


@pytest.mark.parametrize("looking", LOOKING)
def test_beyond_a_part_lies_what_lies_beyond_a_border(looking):
    def network(images):
        features = LOOKING[looking](tf.cast(images, tf.float32))
        return tf.nn.relu(tf.nn.conv2d(features, kernel(3, features.shape[3], 2), 1, "SAME"))

    whole = freeze(network, IMAGES)
    seen = images(8, 12)
    (expected,) = whole(tf.constant(seen))
    padded = np.pad(seen, [(0, 0), (0, 8), (0, 4), (0, 0)], mode="edge")
    (plain,) = whole(tf.constant(padded))
    (found,) = of_part(whole)(tf.constant(padded), tf.constant([8, 12]))
    height, width = expected.shape[1:3]
    assert not np.allclose(plain[:, :height, :width], expected, rtol=1e-3)
    np.testing.assert_allclose(found[:, :height, :width], expected, rtol=1e-4, atol=0.1)


def test_what_has_state_averages_as_it_does():
    def network(images):
        noise = tf.random.uniform([], maxval=0.001)
        return tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2]) + noise

    (found,) = of_part(freeze(network, IMAGES))(tf.constant(images()), tf.constant([2, 2]))
    np.testing.assert_allclose(found, images().mean(axis=(1, 2)), atol=0.01)
