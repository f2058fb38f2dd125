"""Few shapes for XLA, and masks that do not show them."""

import types
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

# No public name lists the functions that TensorFlow has traced.
from tensorflow.python.eager import context

from model_build import artifact
from model_build.network.upsampling import Upsampling
from pipeline.network.canvases import SIDES, canvas, on_canvas
from pipeline.network.segmenter import Segmenter

ENGINES = ["graph", "xla", "xla-head"]
sides = st.integers(1, 3000)
multiples = st.sampled_from([8, 32, 64])


@given(sides, sides, sides, multiples)
def test_a_canvas_holds_its_image_or_there_is_none(height, width, longest, multiple):
    found = canvas((height, width), longest, multiple)
    if found is None:
        assert max(height, width) > longest
    else:
        assert found[0] >= height
        assert found[1] >= width
        assert not any(side % multiple for side in found)


@given(sides, multiples)
def test_there_are_16_canvases_at_most(longest, multiple):
    found = {canvas((side, side), longest, multiple) for side in range(1, longest + 1)}
    assert None not in found
    assert len(found) <= SIDES  # of each of height and width


@given(sides, sides, sides, sides, multiples)
def test_height_and_width_go_by_themselves_and_a_larger_image_has_no_smaller_canvas(
    height, width, more, longest, multiple
):
    place = partial(canvas, longest=longest, multiple=multiple)
    found, larger = place((height, width)), place((height + more, width))
    if found is not None and larger is not None:
        assert larger[0] >= found[0]
        assert larger[1] == found[1]
    assert place((width, height)) == (found if found is None else found[::-1])


def test_padding_goes_in_with_the_size_of_the_rest_and_does_not_come_back():
    seen = []

    def function(images, scale, part):
        seen.append((images.shape, part.tolist()))
        return images[..., 0] * scale, images[:, ::2, ::2], images.max(axis=(1, 2, 3))

    images = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    call = on_canvas(function, lambda images, scale: ["larger"], lambda size: (8, 8))
    full, half, largest = call(images, 5)
    assert seen == [((2, 8, 8, 3), [4, 6])]
    np.testing.assert_array_equal(full, images[..., 0] * 5)
    np.testing.assert_array_equal(half, images[:, ::2, ::2])
    np.testing.assert_array_equal(largest, images.max(axis=(1, 2, 3)))  # the edge is repeated
    nowhere = on_canvas(function, lambda images, scale: ["larger"], lambda size: None)
    assert nowhere(images, 5) == ["larger"]


# With a network


def mix():
    """Images of many sizes in no order: with a long side of 256, of four canvases and of none."""
    rng = np.random.default_rng(2)
    sides = (96, 128, 224, 256, 288)
    sizes = rng.permutation([(height, width) for height in sides for width in sides])
    return [rng.integers(0, 255, (1, *size, 3), np.uint8) for size in sizes]


def by_average(height=8):
    """Whose classes hang on the mean of the image: is a cell brighter than it?"""

    def body(images):
        cells = tf.nn.avg_pool2d(tf.cast(images[..., :1], tf.float32), height, height, "VALID")
        mean = tf.reduce_mean(cells, axis=[1, 2], keepdims=True)
        return tf.concat([mean + 0 * cells, cells], axis=-1)

    return types.SimpleNamespace(
        description=types.SimpleNamespace(stride=32, long_side=256),
        body=body,
        head=lambda scores: tf.repeat(tf.repeat(scores, height, axis=1), height, axis=2),
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_traced_once_there_was_an_image_on_a_canvas_and_one_on_none(engine):
    segmenter = Segmenter(by_average(), engine, long_side=256)
    for height in (96, 288):
        segmenter(np.zeros((1, height, 96, 3), np.uint8))
    before = context.context().list_function_names()
    for images in mix():
        segmenter(images)
    assert set(context.context().list_function_names()) == set(before)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["xla", "xla-head"])
def test_masks_do_not_depend_on_the_order(engine):
    one, other = (Segmenter(by_average(), engine, long_side=256) for _ in range(2))
    images = mix()
    forwards = [one(image)[0] for image in images]
    backwards = [other(image)[0] for image in reversed(images)]
    for found, expected in zip(forwards, reversed(backwards), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("engine", ["xla", "xla-head"])
def test_padding_is_kept_out_of_averages(engine):
    """An image whose edge is bright: repeated, it would shift the mean."""
    images = np.full((1, 96, 160, 3), 10, np.uint8)
    images[:, :, -8:] = 250
    images[:, :8] = 40
    expected = Segmenter(by_average())(images)[0]
    assert set(np.unique(expected)) == {0, 1}
    found = Segmenter(by_average(), engine, long_side=512)(images)[0]
    np.testing.assert_array_equal(found, expected)


def learned():
    """Whose head has weights of its own: no interpolation, so it goes on a canvas as a whole."""
    head = Upsampling(3, 8)
    head.build((None, None, None, 3))
    noise = np.random.default_rng(3).normal(size=head.kernel.shape)
    head.kernel.assign(head.kernel + 0.05 * noise)

    def body(images):
        return tf.nn.avg_pool2d(tf.cast(images, tf.float32), 8, 8, "VALID")

    return types.SimpleNamespace(
        description=types.SimpleNamespace(stride=32, long_side=256), body=body, head=head
    )


@pytest.fixture(scope="module", params=["interpolation", "learned"])
def network(request, tiny_model):
    return artifact.load(tiny_model) if request.param == "interpolation" else learned()


@pytest.mark.parametrize("long_side", [256, 512])  # of the first the larger image has no canvas
@pytest.mark.parametrize("engine", ["xla", "xla-head"])
def test_classes_on_a_canvas_are_those_of_graph_mode(engine, network, long_side):
    coarse = np.random.default_rng(1).integers(0, 255, (1, 20, 20, 3), np.uint8)
    image = np.kron(coarse, np.ones((1, 16, 16, 1), np.uint8))
    one, other = Segmenter(network), Segmenter(network, engine, long_side=long_side)
    for images in (image[:, :96, :160], image[:, :288]):
        expected = one(images)[0]
        assert len(np.unique(expected)) > 2
        assert (other(images)[0] == expected).mean() > 0.999  # there may be ties
