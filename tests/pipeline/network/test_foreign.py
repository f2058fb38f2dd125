"""Networks of other people's: SavedModels that no program is."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from model_build import artifact
from model_build.artifact import Description, Scores
from model_build.common.errors import UserError
from model_build.data.labels import VOC
from model_build.network.upsampling import Interpolation
from pipeline.network import models
from pipeline.network.precision import BFLOAT16, supports_bfloat16
from pipeline.network.segmenter import Segmenter
from pipeline.storage import Files

CLASSES = len(VOC)


def described(folder, stride=1, shift=None, labels=VOC):
    description = Description(
        backbone="mine",
        labels=labels,
        normalisation={},
        stride=32,
        long_side=128,
        parameters=0,
        scores=Scores(stride, shift),
    )
    artifact.write_description(folder, description)
    return str(folder)


def keras_network(folder, stride, dtype="float32"):
    """A network as a stranger has it: saved by Keras, with variables and batch norms."""
    keras.utils.set_random_seed(1)
    images = keras.Input((None, None, 3), dtype=dtype)
    values = keras.layers.Rescaling(1 / 127.5, -1.0)(images)
    for _ in range(stride.bit_length() - 1):
        values = keras.layers.Conv2D(8, 3, 2, padding="same", activation="relu")(values)
        values = keras.layers.BatchNormalization()(values)
    model = keras.Model(images, keras.layers.Conv2D(CLASSES, 1)(values))
    model.export(folder / "saved_model", verbose=False)
    return model


def pictures(count, height, width):
    coarse = np.random.default_rng(1).integers(
        0, 255, (count, height // 8, width // 8, 3), np.uint8
    )
    return np.kron(coarse, np.ones((1, 8, 8, 1), np.uint8))


@pytest.mark.parametrize("engine", ["graph", "xla"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_classes_are_those_of_its_logits(tmp_path, engine, dtype):
    model = keras_network(tmp_path, 1, dtype)
    segmenter = Segmenter(models.load(described(tmp_path), Files()), engine, batch_size=2)
    images = pictures(2, 64, 96)
    expected = np.argmax(model(images), axis=-1)
    assert len(np.unique(expected)) > 2
    found, finite = segmenter(images)
    assert finite.all()
    assert (found == expected).mean() > 0.9999
    np.testing.assert_array_equal(segmenter(images[1:])[0][0], found[1])


def test_coarse_scores_are_interpolated(tmp_path):
    model = keras_network(tmp_path, 8)
    network = models.load(described(tmp_path, 8, -3.5), Files())
    images = pictures(1, 96, 64)
    expected = np.argmax(Interpolation(8, -3.5)(model(images)), axis=-1)
    assert len(np.unique(expected)) > 2
    assert (Segmenter(network)(images)[0] == expected).mean() > 0.9999


def test_any_savedmodel_segments_large_images_in_tiles(tmp_path):
    model = keras_network(tmp_path, 8)
    segmenter = Segmenter(models.load(described(tmp_path, 8, 0.0), Files()), tile=128)
    pixels = pictures(1, 200, 240)[0]
    found, finite = segmenter.tiled(pixels)
    assert finite
    expected = np.argmax(Interpolation(8)(model(pixels[None])), axis=-1)[0]
    assert (found == expected).mean() > 0.95  # but for padding beside the borders of tiles


@pytest.mark.skipif(not supports_bfloat16(), reason="the CPU has no bfloat16")
def test_it_runs_in_bfloat16(tmp_path):
    keras_network(tmp_path, 8)
    network = models.load(described(tmp_path, 8, 0.0), Files())
    images = pictures(1, 96, 64)
    half, full = (Segmenter(network, precision=name)(images)[0] for name in (BFLOAT16, "float32"))
    assert (half == full).mean() > 0.95


def refused(folder):
    with pytest.raises(UserError) as raised:
        models.load(folder, Files())
    message = str(raised.value)
    assert message.startswith(f"{folder}/")
    assert "\n" not in message
    return message


def save(folder, function, *inputs):
    module = tf.Module()
    module.call = tf.function(function, list(inputs))
    tf.saved_model.save(module, f"{folder}/saved_model", module.call.get_concrete_function())
    return described(folder)


def images(*shape, dtype=tf.float32, name="images"):
    return tf.TensorSpec(shape or [None, None, None, 3], dtype, name)


def logits(x):
    return tf.repeat(tf.cast(x[..., :1], tf.float32), CLASSES, axis=-1)


@pytest.mark.parametrize(
    ("function", "inputs", "message"),
    [
        (lambda x, y: logits(x + y), [images(), images(name="more")], "2 inputs and 1 outputs"),
        (lambda x: [logits(x), x], [images()], "1 inputs and 2 outputs"),
        (logits, [images(None, 3, None, None)], r"its input is float32 \(None, 3, None, None\)"),
        (logits, [images(dtype=tf.int32)], "its input is int32"),
        (logits, [images(None, 64, 64, 3)], "save it for images of any size"),
        (lambda x: logits(x)[:, ::2], [images()], "of 64×96 pixels it gives .* stride 1"),
        (lambda x: logits(x)[..., 0], [images()], "it gives"),
        (lambda x: tf.py_function(logits, [x], tf.float32), [images()], "operation EagerPyFunc"),
        (lambda x: logits(x)[..., 1:], [images()], "has 21 labels, but the network has 20"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_in_one_line(tmp_path, function, inputs, message):
    assert re.search(message, refused(save(tmp_path, function, *inputs)))


def test_a_description_of_another_stride_is_refused(tmp_path):
    keras_network(tmp_path, 8)
    assert "model.json says scores of stride 16" in refused(described(tmp_path, 16, 0.0))
