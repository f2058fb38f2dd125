"""Argmax by bands: the same classes as from all logits at once."""

import numpy as np
import pytest
import tensorflow as tf

from model_build.network.upsampling import Interpolation
from pipeline.network import folding
from pipeline.network.graphs import Graph
from pipeline.network.segmenter import freeze


def head(layer, axis=-1):
    def classes(scores):
        return tf.cast(tf.argmax(layer(scores), axis, output_type=tf.int32), tf.uint8)

    return classes


def scores(*shape):
    return tf.constant(np.random.default_rng(0).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("stride", "shift"), [(32, 15.5), (8, -3.5), (4, 0.0), (1, 0.0)])
def test_classes_are_those_of_all_logits_at_once(batch, stride, shift):
    spec = tf.TensorSpec([batch, None, None, 6], tf.float32)
    plain = freeze(head(Interpolation(stride, shift)), spec)
    folded = folding.fold(plain)
    assert Graph(folded).operations()["ArgMax"] > 1
    for size in [(1, 1), (2, 3), (1, 7), (9, 4), (13, 20)]:
        given = scores(batch, *size, 6)
        np.testing.assert_array_equal(folded(given)[0], plain(given)[0])


def test_xla_gets_no_sizes_that_are_found_in_a_call():
    spec = tf.TensorSpec([1, None, None, 6], tf.float32)
    plain = freeze(head(Interpolation(8)), spec)
    folded = folding.fold(plain, compiled=True)
    assert Graph(folded).operations()["ArgMax"] == 1
    compiled = tf.function(folded, [spec], jit_compile=True)
    np.testing.assert_array_equal(compiled(scores(1, 4, 5, 6))[0], plain(scores(1, 4, 5, 6))[0])


def test_another_head_stays_as_it_is():
    spec = tf.TensorSpec([1, None, None, 6], tf.float32)
    for layer in (
        lambda x: x,
        lambda x: tf.image.resize(x, [32, 32]),
        # A product of scores with each other: no matrix of sizes alone.
        lambda x: tf.reshape(tf.matmul(x[0, :, :, 0], x[:, :, :, 1]), [1, 4, 2, 2]),
    ):
        plain = freeze(head(layer), spec)
        folded = folding.fold(plain)
        assert Graph(folded).operations()["ArgMax"] == 1
        np.testing.assert_array_equal(folded(scores(1, 4, 4, 6))[0], plain(scores(1, 4, 4, 6))[0])
