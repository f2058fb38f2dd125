import numpy as np
import pytest
import tensorflow as tf

from pipeline.images.sizes import crop, pad, padded_size
from pipeline.network import models
from pipeline.network.segmenter import Segmenter
from pipeline.network.tiling import Tiling, blend
from pipeline.storage import Files
from tests.programs import average, network

SIDE, STRIDE = 128, 32


def picture(height, width):
    coarse = np.random.default_rng(1).integers(0, 255, (40, 40, 3), np.uint8)
    return np.kron(coarse, np.ones((16, 16, 1), np.uint8))[:height, :width]


def whole(segmenter, pixels):
    class_maps, _ = segmenter(pad(pixels, padded_size(pixels, segmenter.stride))[None])
    return crop(class_maps[0], pixels)


def by_average():
    """A network whose classes hang on the mean of the whole image: is a cell brighter than it?"""

    def body(images):
        cells = tf.nn.avg_pool2d(tf.cast(images[..., :1], tf.float32), 8, 8, "VALID")
        cells = tf.where(tf.reduce_any(images == 255), np.float32("nan"), cells)
        mean = average(tf.cast(images[..., :1], tf.float32))
        return tf.concat([mean + 0 * cells, cells], axis=-1)

    def enlarge(scores):
        return tf.repeat(tf.repeat(scores, 8, axis=1), 8, axis=2)

    return network(body, head=enlarge, averages=1, long_side=SIDE)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("engine", ["graph", "xla"])
@pytest.mark.parametrize("size", [(100, 300), (290, 130), (333, 257)])
def test_tiles_are_as_the_whole_where_averages_are(engine, batch_size, size):
    segmenter = Segmenter(by_average(), engine, batch_size, tile=SIDE)
    pixels = picture(*size)
    found, finite = segmenter.tiled(pixels)
    assert (found.shape, found.dtype, finite) == (size, np.uint8, True)
    expected = whole(segmenter, pixels)
    assert set(np.unique(expected)) == {0, 1}
    np.testing.assert_array_equal(found, expected)


def test_a_networks_tiles_are_nearly_as_the_whole(tiny_model):
    segmenter = Segmenter(models.load(tiny_model, Files()), tile=2 * SIDE)
    pixels = picture(500, 620)
    expected = whole(segmenter, pixels)
    found, _ = segmenter.tiled(pixels)
    assert len(np.unique(expected)) > 3
    assert (found == expected).mean() > 0.99


def test_nonfinite_scores_are_reported():
    segmenter = Segmenter(by_average(), tile=SIDE)
    pixels = np.full((300, 300, 3), 9, np.uint8)
    assert segmenter.tiled(pixels)[1]
    pixels[250, 280] = 255
    assert not segmenter.tiled(pixels)[1]


def test_tiles_are_called_for_in_batches_and_no_larger_than_they_may_be():
    shapes = []

    def score(images):
        shapes.append(images.shape)
        return images[:, ::STRIDE, ::STRIDE].astype(np.float32), np.ones(len(images), bool)

    def classify(scores):
        return (np.zeros((len(scores), *(STRIDE * n for n in scores.shape[1:3])), np.uint8),)

    class_map, _ = Tiling(None, score, classify, SIDE, STRIDE, 2)(picture(200, 400))
    assert class_map.shape == (200, 400)
    assert len(shapes) == 2 * 2  # of two rows of four tiles
    assert {shape[0] for shape in shapes} == {2}
    assert max(max(shape[1:3]) for shape in shapes) <= SIDE


@pytest.mark.parametrize("axis", [0, 1])
def test_neighbours_have_equal_scores_in_their_overlap(axis):
    one, other = np.zeros((8, 8, 2), np.float32), np.ones((8, 8, 2), np.float32)
    blend(one, other, 4, axis)
    if axis:
        one, other = one.swapaxes(0, 1), other.swapaxes(0, 1)
    np.testing.assert_array_equal(one[4:], other[:4])
    assert (np.diff(one[:, 0, 0]) >= 0).all()
    assert (one[0] == 0).all()
    assert (other[4:] == 1).all()
