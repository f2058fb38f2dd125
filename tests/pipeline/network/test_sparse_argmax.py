"""Classes by cells: the same as from all logits at once."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from model_build.network.upsampling import Interpolation
from pipeline.network import sparse_argmax
from pipeline.network.sparse_argmax import axis, sparse_argmax_of

STRIDES = [(32, 15.5), (32, 0.0), (16, 7.5), (8, -3.5), (8, 4.0), (5, 0.5), (4, 0.0), (3, 0.0)]
SIZES = [(1, 1), (2, 3), (1, 7), (9, 4), (13, 20)]
CHANNELS = 6


def spec(batch=1, channels=CHANNELS):
    return tf.TensorSpec([batch, None, None, channels], tf.float32)


def plain(layer):
    """The classes of all logits at once."""

    @tf.function(autograph=False)
    def classes(scores):
        return [tf.cast(tf.argmax(layer(scores), axis=-1), tf.uint8)]

    return classes


def smooth(*shape):
    """Scores in which one class leads in most places, as in photos, and in places nearly ties."""
    coarse = np.random.default_rng(0).normal(size=(shape[0], 3, 3, shape[3]))
    return tf.image.resize(coarse, shape[1:3], "bicubic").numpy()


def noise(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def ties(*shape):
    return np.random.default_rng(2).integers(0, 2, shape).astype(np.float32)


@pytest.mark.parametrize(("stride", "shift"), [*STRIDES, (1, 0.0), (2, 1.0)])
def test_an_axis_gives_the_matrix_of_any_number_of_cells(stride, shift):
    found = axis(stride, shift)
    assert found.weights.shape == (stride, 2)
    for count in (1, 2, 3, 7, 40):
        matrix = np.zeros(((count + 1) * stride, count))
        for block in range(count + 1):
            pixels = matrix[block * stride : (block + 1) * stride]
            pixels[:, max(block - 1, 0)] += found.weights[:, 0]
            pixels[:, min(block, count - 1)] += found.weights[:, 1]
        row = np.eye(count, dtype=np.float32)[None, None]  # each cell by itself, along one row
        expected = Interpolation(stride, shift)(row)[0, 0]
        inside = matrix[found.start : found.start + count * stride]
        np.testing.assert_allclose(inside, expected, atol=1e-5)


# Classes


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("stride", "shift"), STRIDES)
def test_classes_are_those_of_all_logits(stride, shift, batch):
    expected = plain(Interpolation(stride, shift))
    run = sparse_argmax_of(axis(stride, shift), spec(batch))
    for scores in (smooth, noise):
        for size in SIZES:
            given = tf.constant(scores(batch, *size, CHANNELS))
            np.testing.assert_array_equal(run(given)[0], expected(given)[0])


def test_nothing_is_traced_for_other_sizes(monkeypatch):
    traced = []
    for name in ("argmax", "unanimous_corners"):
        function = getattr(sparse_argmax, name)
        monkeypatch.setattr(
            sparse_argmax, name, lambda *given, f=function: traced.append(f.__name__) or f(*given)
        )
    run = sparse_argmax_of(axis(8, 0.0), spec())
    for size in SIZES:
        run(tf.constant(noise(1, *size, CHANNELS)))
    assert sorted(traced) == ["argmax", "unanimous_corners"]


def test_of_classes_that_tie_the_first_one_counts():
    expected = plain(Interpolation(8))  # whose weights are sixteenths: sums are exact
    run = sparse_argmax_of(axis(8, 0.0), spec())
    for size in SIZES:
        given = tf.constant(ties(1, *size, CHANNELS))
        np.testing.assert_array_equal(run(given)[0], expected(given)[0])
        np.testing.assert_array_equal(run(0 * given)[0], 0)


@pytest.fixture(scope="module")
def of_three():
    return sparse_argmax_of(axis(4, 0.0), spec(channels=3))


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.just(1), st.integers(1, 5), st.integers(1, 5), st.just(3)),
        elements=st.integers(-3, 3) | st.sampled_from([1 + 2**-20, 1e6, -1e6]),
    )
)
def test_no_other_class_has_a_larger_logit_except_by_rounding(of_three, scores):
    logits = Interpolation(4)(scores).numpy()
    classes = of_three(tf.constant(scores))[0].numpy()
    found = np.take_along_axis(logits, classes[..., None].astype(int), axis=-1)[..., 0]
    assert (found >= logits.max(axis=-1) - 1e-6 * np.abs(scores).max()).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_spoil_no_other_image(bad):
    run = sparse_argmax_of(axis(8, 0.0), spec(2))
    scores = smooth(2, 5, 5, CHANNELS)
    expected = plain(Interpolation(8))(tf.constant(scores))[0].numpy()
    scores[0, 2, 2, 1] = bad
    found = run(tf.constant(scores))[0].numpy()
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found[1], expected[1])


def test_where_one_class_leads_no_logit_is_computed(monkeypatch):
    """Computed classes are replaced by wrong ones, which appear only where two classes meet."""

    def wrong(corners, weights):
        return tf.fill([tf.shape(corners)[0], weights.shape[1]], np.uint8(5))

    monkeypatch.setattr(sparse_argmax, "argmax", wrong)
    run = sparse_argmax_of(axis(8, 0.0), spec())
    scores = np.zeros((1, 6, 8, CHANNELS), np.float32)
    scores[:, :, :4, 1] = scores[:, :, 4:, 2] = 1
    expected = np.full((1, 48, 64), 1, np.uint8)
    expected[:, :, 28:36] = 5
    expected[:, :, 36:] = 2
    np.testing.assert_array_equal(run(tf.constant(scores))[0], expected)
