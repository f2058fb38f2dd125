"""What tests of both packages need: a small network and small photos."""

import io

import numpy as np
import pytest
from PIL import Image

from model_build.quiet import import_tensorflow
from pipeline.network.threads import set_threads

pytest_plugins = ["tests.servers.fixtures"]

LONGEST = ["test_flink.py", "test_faults.py", "test_calls.py", "test_stores.py"]

import_tensorflow()
# Jobs in this process need TensorFlow with these threads; set before its first operation.
set_threads()


def pytest_collection_modifyitems(items):
    """The longest files come first, so that no worker is left alone with one at the end."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A saved-model folder: random weights and a small body, but a network with every part."""
    import keras

    from model_build import artifact
    from model_build.data.labels import VOC
    from model_build.network import backbones
    from model_build.network.fcn import fcn

    def body(include_top, weights, input_shape):
        layers = keras.layers
        inputs = keras.Input(input_shape)
        x = layers.Conv2D(8, 8, 8, padding="same", activation="relu")(inputs)
        x = layers.DepthwiseConv2D(3, padding="same")(x)
        x = layers.Conv2D(32, 4, 4, padding="same", activation="relu")(x)
        return keras.Model(inputs, layers.BatchNormalization()(x))

    keras.utils.set_random_seed(3)
    normalisation = backbones.Normalisation("RGB", (1 / 64,) * 3, (-2.0,) * 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "_find", lambda name: (body, normalisation))
        model, _ = fcn(len(VOC), "small")
    folder = tmp_path_factory.mktemp("model")
    description = artifact.Description(
        backbone="small",
        labels=VOC,
        normalisation=normalisation.to_json(),
        stride=32,
        long_side=96,
        parameters=0,
    )
    artifact.save(folder, model, description)
    model.save(folder / "model.keras")
    return str(folder)


@pytest.fixture
def photos(tmp_path):
    """A folder of photos of several sizes, in two subfolders."""
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate([(64, 96), (96, 64), (50, 70), (33, 90), (120, 200)]):
        pixels = np.kron(
            rng.integers(0, 255, (10, 10, 3), np.uint8), np.ones((20, 20, 1), np.uint8)
        )
        path = folder / "ab"[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[:height, :width]).save(path)
    return folder


@pytest.fixture
def image_bytes():
    """An image file of random RGB pixels: ``image_bytes("PNG", width=6, height=4, **save)``."""

    def make(kind, width=6, height=4, **options):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **options)
        return buffer.getvalue()

    return make
