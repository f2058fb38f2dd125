"""Classes by cells: the same as from all logits at once."""

import types

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

# No public name lists the functions that TensorFlow has traced.
from tensorflow.python.eager import context

from model_build.network.upsampling import Interpolation, Upsampling
from pipeline.network.cells import axes_of, axis_of, by_cells
from pipeline.network.segmenter import classes_of, freeze

STRIDES = [(32, 15.5), (32, 0.0), (16, 7.5), (8, -3.5), (8, 4.0), (5, 0.5), (4, 0.0), (3, 0.0)]
SIZES = [(1, 1), (2, 3), (1, 7), (9, 4), (13, 20)]
CHANNELS = 6


def spec(batch=1, channels=CHANNELS):
    return tf.TensorSpec([batch, None, None, channels], tf.float32)


def frozen(layer, batch=1, channels=CHANNELS):
    return freeze(classes_of(types.SimpleNamespace(head=layer)), spec(batch, channels))


def of_one_size(scores):
    """40×56 pixels of however many cells, by two products."""

    def matrix(pixels, cells):
        where = tf.cast(tf.range(pixels) * cells // pixels, tf.int32)
        return tf.one_hot(where, cells)

    height, width = tf.shape(scores)[1], tf.shape(scores)[2]
    wide = tf.reshape(tf.linalg.matmul(matrix(56, width), scores), [1, height, 56 * CHANNELS])
    return tf.reshape(tf.linalg.matmul(matrix(40, height), wide), [1, 40, 56, CHANNELS])


def smooth(*shape):
    """Scores in which one class leads in most places, as in photos, and in places nearly ties."""
    coarse = np.random.default_rng(0).normal(size=(shape[0], 3, 3, shape[3]))
    return tf.image.resize(coarse, shape[1:3], "bicubic").numpy()


def noise(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def ties(*shape):
    return np.random.default_rng(2).integers(0, 2, shape).astype(np.float32)


# Axes


@pytest.mark.parametrize(("stride", "shift"), [*STRIDES, (1, 0.0), (2, 1.0)])
def test_an_axis_gives_the_matrix_of_any_number_of_cells(stride, shift):
    def matrix(cells):
        return Interpolation(stride, shift)._tents(tf.constant(cells)).numpy()

    axis = axis_of(matrix(5))
    assert axis.weights.shape == (stride, 2)
    for cells in (1, 2, 3, 7, 40):
        np.testing.assert_allclose(axis.matrix(cells), matrix(cells), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m - 0.2,  # a negative weight: a class that leads around a pixel may lose there
        lambda m: m[::-1],
        lambda m: m[:-1],
        lambda m: m * np.linspace(1, 2, len(m))[:, None],
        lambda m: np.roll(m, 9, axis=0),
        np.zeros_like,
    ],
)
def test_no_axis_has_another_matrix(change):
    matrix = Interpolation(8)._tents(tf.constant(5)).numpy()
    assert axis_of(matrix) is not None
    assert axis_of(change(matrix)) is None


def test_weights_need_not_add_up_to_one():
    matrix = 3 * Interpolation(8)._tents(tf.constant(5)).numpy()
    np.testing.assert_allclose(axis_of(matrix).matrix(5), matrix)


@pytest.mark.parametrize("channels", [2, 6, 40])
@pytest.mark.parametrize(("stride", "shift"), STRIDES)
def test_an_interpolation_has_axes(stride, shift, channels):
    axes = axes_of(frozen(Interpolation(stride, shift), channels=channels))
    for axis in axes:
        assert len(axis.weights) == stride


@pytest.mark.parametrize(
    "layer",
    [
        Upsampling(CHANNELS, 8),  # whose weights are learned
        lambda x: x,
        lambda x: tf.repeat(tf.repeat(x, 4, axis=1), 4, axis=2),
        lambda x: Interpolation(8)(x) + tf.range(6, dtype=tf.float32),
        lambda x: Interpolation(8)(x**2),
        lambda x: -Interpolation(8)(x),
        lambda x: Interpolation(8)(tf.clip_by_value(x, -6, 6)),
        lambda x: Interpolation(8)(x)[:, :, ::-1],
        lambda x: tf.transpose(Interpolation(8)(x), [0, 2, 1, 3]),
        lambda x: tf.image.resize(x, [40, 56]),
        # A product of scores with each other.
        lambda x: Interpolation(8)(tf.matmul(x, x, transpose_b=True)[..., :1] * x),
        # Always of one size.
        lambda x: tf.image.resize(Interpolation(8)(x), [40, 56]),
        of_one_size,
    ],
)
def test_another_head_has_none(layer):
    assert axes_of(frozen(layer)) is None


def test_a_head_of_one_class_has_none():
    assert axes_of(frozen(Interpolation(8), channels=1)) is None


def unlike(scores):
    """An interpolation of another stride and shift along rows than along columns."""
    rows, columns = Interpolation(5, 0.5), Interpolation(2, 1.0)
    height, width = tf.shape(scores)[1], tf.shape(scores)[2]
    wide = tf.linalg.matmul(columns._tents(width), scores)
    flat = tf.reshape(wide, [tf.shape(scores)[0], height, 2 * width * CHANNELS])
    pixels = tf.linalg.matmul(rows._tents(height), flat)
    return tf.reshape(pixels, [tf.shape(scores)[0], 5 * height, 2 * width, CHANNELS])


def test_rows_and_columns_have_axes_of_their_own():
    rows, columns = axes_of(frozen(unlike))
    assert (len(rows.weights), len(columns.weights)) == (5, 2)


# Classes


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("stride", "shift"), STRIDES)
def test_classes_are_those_of_all_logits(stride, shift, batch, compiled):
    plain = frozen(Interpolation(stride, shift), batch)
    run = by_cells(axes_of(plain), spec(batch), compiled)
    for scores in (smooth, noise):
        for size in SIZES:
            given = tf.constant(scores(batch, *size, CHANNELS))
            np.testing.assert_array_equal(run(given)[0], plain(given)[0])


@pytest.mark.parametrize("compiled", [False, True])
def test_rows_and_columns_are_not_mixed_up(compiled):
    plain = frozen(unlike)
    run = by_cells(axes_of(plain), spec(), compiled)
    for size in SIZES:
        given = tf.constant(smooth(1, *size, CHANNELS))
        np.testing.assert_array_equal(run(given)[0], plain(given)[0])


def test_nothing_is_traced_for_other_sizes():
    run = by_cells(axes_of(frozen(Interpolation(8))), spec(), compiled=True)
    run(tf.constant(noise(1, 5, 5, CHANNELS)))
    before = context.context().list_function_names()
    for size in SIZES:
        run(tf.constant(noise(1, *size, CHANNELS)))
    assert set(context.context().list_function_names()) == set(before)


@pytest.mark.parametrize("compiled", [False, True])
def test_of_classes_that_tie_the_first_one_counts(compiled):
    plain = frozen(Interpolation(8))  # whose weights are sixteenths: sums are exact
    run = by_cells(axes_of(plain), spec(), compiled)
    for size in SIZES:
        given = tf.constant(ties(1, *size, CHANNELS))
        np.testing.assert_array_equal(run(given)[0], plain(given)[0])
        np.testing.assert_array_equal(run(0 * given)[0], 0)


@pytest.fixture(scope="module", params=[False, True])
def of_three(request):
    axes = axes_of(frozen(Interpolation(4), channels=3))
    return by_cells(axes, spec(channels=3), compiled=request.param)


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.just(1), st.integers(1, 5), st.integers(1, 5), st.just(3)),
        elements=st.integers(-3, 3) | st.sampled_from([1 + 2**-20, 1e6, -1e6]),
    )
)
def test_no_other_class_has_a_larger_logit_but_by_rounding(of_three, scores):
    logits = Interpolation(4)(scores).numpy()
    classes = of_three(tf.constant(scores))[0].numpy()
    found = np.take_along_axis(logits, classes[..., None].astype(int), axis=-1)[..., 0]
    assert (found >= logits.max(axis=-1) - 1e-6 * np.abs(scores).max()).all()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_spoil_no_other_image(bad, compiled):
    plain = frozen(Interpolation(8), 2)
    run = by_cells(axes_of(plain), spec(2), compiled)
    scores = smooth(2, 5, 5, CHANNELS)
    expected = plain(tf.constant(scores))[0].numpy()
    scores[0, 2, 2, 1] = bad
    found = run(tf.constant(scores))[0].numpy()
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found[1], expected[1])


def test_where_one_class_leads_no_logit_is_computed(monkeypatch):
    """What would be computed is made wrong, and shows where two classes meet alone."""
    from pipeline.network import cells

    def wrong(corners, weights):
        return tf.fill([tf.shape(corners)[0], weights.shape[1]], np.uint8(5))

    monkeypatch.setattr(cells, "largest", wrong)
    run = by_cells(axes_of(frozen(Interpolation(8))), spec(), compiled=False)
    scores = np.zeros((1, 6, 8, CHANNELS), np.float32)
    scores[:, :, :4, 1] = scores[:, :, 4:, 2] = 1
    expected = np.full((1, 48, 64), 1, np.uint8)
    expected[:, :, 28:36] = 5
    expected[:, :, 36:] = 2
    np.testing.assert_array_equal(run(tf.constant(scores))[0], expected)
