import keras
import numpy as np
import pytest

from model_build import artifact
from model_build.network import fcn  # noqa: F401  (registers the upsampling layer)
from pipeline.network import ENGINES
from pipeline.network.segmenter import Segmenter


@pytest.fixture(scope="module")
def network(tiny_model):
    return artifact.load(tiny_model)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 255, (5, 8, 12, 3), np.uint8)
    return np.kron(coarse, np.ones((1, 8, 8, 1), np.uint8))  # 64×96


@pytest.mark.parametrize("engine", ENGINES)
def test_class_map_is_the_argmax_of_the_keras_models_prediction(
    network, tiny_model, images, engine
):
    model = keras.models.load_model(f"{tiny_model}/model.keras")
    expected = [np.argmax(model.predict(image[None], verbose=0)[0], axis=-1) for image in images]
    segmenter = Segmenter(network, engine)
    got = [segmenter(image[None])[0] for image in images]
    assert len(np.unique(expected)) > 2
    np.testing.assert_array_equal(got, expected)
    assert got[0].dtype == np.uint8


@pytest.mark.parametrize("engine", ["auto", "graph"])
def test_class_map_does_not_depend_on_batch_mates(network, images, engine):
    segmenter = Segmenter(network, engine, batch_size=4)
    alone = segmenter(images[:1])[0]
    np.testing.assert_array_equal(segmenter(images[:4])[0], alone)
    np.testing.assert_array_equal(segmenter(images[[3, 0]])[1], alone)


def test_takes_any_multiple_of_the_stride(network):
    segmenter = Segmenter(network)
    for size in [(32, 32), (96, 32), (64, 160)]:
        assert segmenter(np.zeros((1, *size, 3), np.uint8)).shape == (1, *size)


def test_says_what_the_rule_picked(network):
    assert Segmenter(network, "xla").description == "XLA"
    assert Segmenter(network, "graph").description == "graph"
    assert Segmenter(network, "auto").description == "graph"  # no accelerator


def test_a_batch_is_one_image_on_a_cpu_unless_told_otherwise(network):
    assert Segmenter(network).batch_size == 1
    assert Segmenter(network, batch_size=5).batch_size == 5
