import keras
import numpy as np
import pytest
import tensorflow as tf

from model_build.network import fcn  # noqa: F401  (registers the upsampling layer)
from pipeline.network import models
from pipeline.network.segmenter import Segmenter
from pipeline.storage import Files
from tests.programs import network as network_of


@pytest.fixture(scope="module")
def network(tiny_model):
    return models.load(tiny_model, Files())


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 255, (5, 8, 12, 3), np.uint8)
    return np.kron(coarse, np.ones((1, 8, 8, 1), np.uint8))  # 64×96


@pytest.mark.parametrize("engine", ["graph", "xla"])
def test_class_map_is_the_argmax_of_the_keras_models_prediction(
    network, tiny_model, images, engine
):
    model = keras.models.load_model(f"{tiny_model}/model.keras")
    expected = [np.argmax(model.predict(image[None], verbose=0)[0], axis=-1) for image in images]
    segmenter = Segmenter(network, engine, long_side=96)  # one of the canvases is 64×96
    got = [segmenter(image[None]) for image in images]
    assert len(np.unique(expected)) > 2
    np.testing.assert_array_equal([class_maps[0] for class_maps, _ in got], expected)
    assert got[0][0].dtype == np.uint8
    assert [finite.tolist() for _, finite in got] == [[True]] * 5


@pytest.mark.parametrize("engine", ["graph", "xla"])
def test_class_map_does_not_depend_on_batch_mates(network, images, engine):
    segmenter = Segmenter(network, engine, batch_size=4)
    alone = segmenter(images[:1])[0][0]
    np.testing.assert_array_equal(segmenter(images[:4])[0][0], alone)
    np.testing.assert_array_equal(segmenter(images[[3, 0]])[0][1], alone)


def test_takes_any_multiple_of_the_stride(network):
    segmenter = Segmenter(network)
    for size in [(32, 32), (96, 32), (64, 160)]:
        class_maps, finite = segmenter(np.zeros((1, *size, 3), np.uint8))
        assert (class_maps.shape, finite.shape) == ((1, *size), (1,))


def test_a_filled_up_batch_returns_only_its_own_images(network, images):
    class_maps, finite = Segmenter(network, batch_size=4)(images[:3])
    assert (class_maps.shape, finite.shape) == ((3, 64, 96), (3,))


@pytest.mark.parametrize("engine", ["graph", "xla"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nonfinite_scores_are_reported_only_for_their_image(engine, bad):
    def body(images):
        """Scores of two classes at stride 32; bad at the one cell whose pixels are all 255."""
        cells = tf.cast(images[:, ::32, ::32, :2], tf.float32)
        return tf.where(cells == 255, bad, cells)

    network = network_of(body, 32, long_side=96)
    images = np.full((3, 64, 96, 3), 9, np.uint8)
    images[1, 32:, 64:] = 255
    class_maps, finite = Segmenter(network, engine, batch_size=4)(images)
    assert finite.tolist() == [True, False, True]
    assert class_maps.shape == (3, 64, 96)
