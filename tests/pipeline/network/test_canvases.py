"""Few shapes for XLA, and masks that do not show them."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from model_build.network.upsampling import Upsampling
from model_build.program import Program
from pipeline.network import models
from pipeline.network.canvases import LENGTHS_PER_AXIS, canvas_size, ignore_padding, run_on_canvas
from pipeline.network.segmenter import Segmenter
from pipeline.storage import Files
from tests.programs import average, network, program

ENGINES = ["graph", "xla"]
sides = st.integers(1, 3000)
multiples = st.sampled_from([8, 32, 64])


@given(sides, sides, sides, multiples)
def test_a_canvas_is_at_least_as_large_as_its_image(height, width, longest, multiple):
    found = canvas_size((height, width), longest, multiple)
    if found is None:
        assert max(height, width) > longest
    else:
        assert found[0] >= height
        assert found[1] >= width
        assert not any(side % multiple for side in found)


@given(sides, multiples)
def test_there_are_16_canvases_at_most(longest, multiple):
    found = {canvas_size((side, side), longest, multiple) for side in range(1, longest + 1)}
    assert None not in found
    assert len(found) <= LENGTHS_PER_AXIS  # of each of height and width


@given(sides, sides, sides, sides, multiples)
def test_canvas_sides_are_independent_and_monotonic(height, width, more, longest, multiple):
    place = partial(canvas_size, longest=longest, multiple=multiple)
    found, larger = place((height, width)), place((height + more, width))
    if found is not None and larger is not None:
        assert larger[0] >= found[0]
        assert larger[1] == found[1]
    assert place((width, height)) == (found if found is None else found[::-1])


def test_padding_is_passed_with_the_size_and_cut_off_the_result():
    seen = []

    def function(images, scale, part):
        seen.append((images.shape, part.tolist()))
        return images[..., 0] * scale, images[:, ::2, ::2], images.max(axis=(1, 2, 3))

    images = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    call = run_on_canvas(function, lambda images, scale: ["larger"], lambda size: (8, 8))
    full, half, largest = call(images, 5)
    assert seen == [((2, 8, 8, 3), [4, 6])]
    np.testing.assert_array_equal(full, images[..., 0] * 5)
    np.testing.assert_array_equal(half, images[:, ::2, ::2])
    np.testing.assert_array_equal(largest, images.max(axis=(1, 2, 3)))  # the edge is repeated
    no_progress = run_on_canvas(function, lambda images, scale: ["larger"], lambda size: None)
    assert no_progress(images, 5) == ["larger"]


# With a network


def mix():
    """Images of many sizes in no order: with a long side of 256, of four canvases and of none."""
    rng = np.random.default_rng(2)
    sides = (96, 128, 224, 256, 288)
    sizes = rng.permutation([(height, width) for height in sides for width in sides])
    return [rng.integers(0, 255, (1, *size, 3), np.uint8) for size in sizes]


def by_average():
    """Whose classes hang on the mean of the image: is a cell brighter than it?"""

    def body(images):
        cells = tf.nn.avg_pool2d(tf.cast(images[..., :1], tf.float32), 8, 8, "VALID")
        return tf.concat([average(cells) + 0 * cells, cells], axis=-1)

    return network(body, head=enlarged, averages=1)


def enlarged(scores):
    return tf.repeat(tf.repeat(scores, 8, axis=1), 8, axis=2)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_traced_again_after_one_image_on_a_canvas_and_one_without(engine, monkeypatch):
    traced = []

    def counted(name):
        function = getattr(Program, name)

        def count(*given, **options):
            traced.append(name)
            return function(*given, **options)

        return count

    for name in ("scores", "logits"):
        monkeypatch.setattr(Program, name, counted(name))
    segmenter = Segmenter(by_average(), engine, long_side=256)
    for height in (96, 288):
        segmenter(np.zeros((1, height, 96, 3), np.uint8))
    before = list(traced)
    for images in mix():
        segmenter(images)
    assert traced == before


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_masks_do_not_depend_on_the_order(engine):
    one, other = (Segmenter(by_average(), engine, long_side=256) for _ in range(2))
    images = mix()
    forwards = [one(image)[0] for image in images]
    backwards = [other(image)[0] for image in reversed(images)]
    for found, expected in zip(forwards, reversed(backwards), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_padding_is_kept_out_of_averages():
    """An image whose edge is bright: repeated, it would shift the mean."""
    images = np.full((1, 96, 160, 3), 10, np.uint8)
    images[:, :, -8:] = 250
    images[:, :8] = 40
    expected = Segmenter(by_average())(images)[0]
    assert set(np.unique(expected)) == {0, 1}
    found = Segmenter(by_average(), "xla", long_side=512)(images)[0]
    np.testing.assert_array_equal(found, expected)


def learned():
    """Whose head has weights of its own: no interpolation, so it goes on a canvas as a whole."""
    head = Upsampling(3, 8)
    head.build((None, None, None, 3))
    noise = np.random.default_rng(3).normal(size=head.kernel.shape)
    kernel = np.asarray(head.kernel) + 0.05 * noise

    def enlarge(scores):
        with keras.StatelessScope([(head.kernel, tf.constant(kernel, tf.float32))]):
            return head(scores)

    def body(images):
        return tf.nn.avg_pool2d(tf.cast(images, tf.float32), 8, 8, "VALID")

    return network(body, head=enlarge)


@pytest.fixture(scope="module", params=["interpolation", "learned"])
def either(request, tiny_model):
    return models.load(tiny_model, Files()) if request.param == "interpolation" else learned()


@pytest.mark.parametrize("long_side", [256, 512])  # of the first the larger image has no canvas
@pytest.mark.parametrize("engine", ENGINES)
def test_classes_on_a_canvas_are_those_of_graph_mode(engine, either, long_side):
    coarse = np.random.default_rng(1).integers(0, 255, (1, 20, 20, 3), np.uint8)
    image = np.kron(coarse, np.ones((1, 16, 16, 1), np.uint8))
    one, other = Segmenter(either), Segmenter(either, engine, long_side=long_side)
    for images in (image[:, :96, :160], image[:, :288]):
        expected = one(images)[0]
        assert len(np.unique(expected)) > 2
        assert (other(images)[0] == expected).mean() > 0.999  # there may be ties


# A part


def images(height=4, width=6):
    return np.random.default_rng(0).integers(0, 255, (2, height, width, 3), np.uint8)


def of_a_part(whole, padded, size):
    run = tf.function(
        lambda given, part: whole.scores(given, change=ignore_padding(given, part)), autograph=False
    )
    return run(tf.constant(padded), tf.constant(size)).numpy()


@pytest.mark.parametrize("keepdims", [True, False])
def test_a_part_is_averaged_as_if_it_were_the_whole(keepdims):
    def body(images):
        features = tf.cast(images, tf.float32)
        mean = average(features, keepdims=keepdims)
        return features * tf.reshape(tf.sigmoid(mean / 100), (-1, 1, 1, 3))

    whole = program(body, averages=1)
    expected = tf.function(whole.scores, autograph=False)(tf.constant(images()))
    padded = np.pad(images(), [(0, 0), (0, 3), (0, 5), (0, 0)], constant_values=255)
    found = of_a_part(whole, padded, [4, 6])
    np.testing.assert_allclose(found[:, :4, :6], expected, rtol=1e-6)


def test_padding_that_is_not_finite_is_kept_out_of_averages():
    whole = program(lambda images: average(1 / (tf.cast(images, tf.float32) - 255)), averages=1)
    padded = np.pad(images(), [(0, 0), (0, 3), (0, 5), (0, 0)], constant_values=255)
    expected = (1 / (images().astype(np.float32) - 255)).mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(of_a_part(whole, padded, [4, 6]), expected, rtol=1e-5)


def kernel(side, *channels):
    return tf.constant(np.random.default_rng(1).normal(size=(side, side, *channels)), tf.float32)


# Operations that reach over the border of features, each in its own way.
LOOKING = {
    "a convolution": lambda x: tf.nn.conv2d(x, kernel(3, 3, 4), 1, "SAME"),
    "one with a stride": lambda x: tf.nn.conv2d(x, kernel(5, 3, 4), 2, "SAME"),
    "one that is dilated": lambda x: tf.nn.conv2d(x, kernel(3, 3, 4), 1, "SAME", dilations=2),
    "one that is padded by itself": lambda x: tf.nn.conv2d(
        tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), kernel(3, 3, 4), 2, "VALID"
    ),
    "a depthwise convolution": lambda x: tf.nn.depthwise_conv2d(
        x, kernel(3, 3, 1), [1, 2, 2, 1], "SAME"
    ),
    "a dilated depthwise one": lambda x: tf.raw_ops.DepthwiseConv2dNative(
        input=x,
        filter=kernel(3, 3, 1),
        strides=[1, 1, 1, 1],
        padding="SAME",
        dilations=[1, 2, 2, 1],
    ),
    "one that is padded explicitly": lambda x: tf.nn.conv2d(
        x, kernel(3, 3, 4), 2, [[0, 0], [1, 1], [1, 1], [0, 0]]
    ),
    "pooling": lambda x: tf.nn.max_pool2d(x - 300, 3, 2, "SAME"),
    "upsampling": lambda x: tf.nn.conv2d(
        tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC"), kernel(2, 3, 4), 1, "VALID"
    )[:, 1:, 1:],
}


@pytest.mark.parametrize("looking", LOOKING)
def test_a_part_is_padded_like_an_image(looking):
    def body(images):
        features = LOOKING[looking](tf.cast(images, tf.float32))
        return tf.nn.relu(tf.nn.conv2d(features, kernel(3, features.shape[3], 2), 1, "SAME"))

    whole = program(body)
    run = tf.function(whole.scores, autograph=False)
    seen = images(8, 12)
    expected = run(tf.constant(seen))
    padded = np.pad(seen, [(0, 0), (0, 8), (0, 4), (0, 0)], mode="edge")
    plain = run(tf.constant(padded))
    found = of_a_part(whole, padded, [8, 12])
    height, width = expected.shape[1:3]
    assert not np.allclose(plain[:, :height, :width], expected, rtol=1e-3)
    np.testing.assert_allclose(found[:, :height, :width], expected, rtol=1e-4, atol=0.1)


def test_features_that_pooling_and_a_convolution_look_at_are_filled_for_each():
    def body(images):
        features = tf.cast(images, tf.float32) - 300
        pooled = tf.nn.max_pool2d(features, 3, 1, "SAME")
        return pooled + tf.nn.conv2d(features, kernel(3, 3, 3), 1, "SAME")

    whole = program(body)
    expected = tf.function(whole.scores, autograph=False)(tf.constant(images(8, 12)))
    padded = np.pad(images(8, 12), [(0, 0), (0, 8), (0, 4), (0, 0)])
    found = of_a_part(whole, padded, [8, 12])
    np.testing.assert_allclose(found[:, :8, :12], expected, rtol=1e-4, atol=0.01)
