"""SavedModel files are written reproducibly, and checked before anything in them runs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model_build import saved_model
from model_build.program import IMAGES, LOGITS
from model_build.saved_model import FILE, UnusableModel, read
from tests.programs import program


def graph(body=lambda images: tf.cast(images, tf.float32)):
    return program(body).graph


def written(folder, of=None):
    saved_model.write(folder, of or graph(), IMAGES, LOGITS)
    return folder


def saved(folder, function, **objects):
    """A function saved as TensorFlow 2 saves it."""
    module = tf.Module()
    for name, value in objects.items():
        setattr(module, name, value)
    images = tf.TensorSpec([None, None, None, 3], tf.float32, "images")
    module.call = tf.function(function, [images])
    tf.saved_model.save(module, str(folder), module.call.get_concrete_function())
    return folder


def refused(folder):
    with pytest.raises(UnusableModel) as raised:
        read(folder)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_equal_graphs_give_equal_files_that_tensorflow_reads(tmp_path):
    one, other = written(tmp_path / "one"), written(tmp_path / "other")
    assert (one / FILE).read_bytes() == (other / FILE).read_bytes()
    assert [path.name for path in one.iterdir()] == [FILE]
    assert read(one).graph_def == graph()
    serve = tf.saved_model.load(str(one)).signatures[saved_model.SIGNATURE]
    images = np.random.default_rng(0).integers(0, 255, (2, 4, 6, 3), np.uint8)
    np.testing.assert_array_equal(serve(images=tf.constant(images))["logits"], images)


def test_a_keras_export_is_accepted(tmp_path):
    images = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(4, 3, padding="same")(images)
    features = keras.layers.BatchNormalization()(features)
    enlarged = keras.layers.Conv2DTranspose(4, 4, 2, padding="same")(features)
    keras.Model(images, keras.layers.Softmax()(enlarged)).export(tmp_path / "m", verbose=False)
    assert read(tmp_path / "m").graph_def.library.function


def test_a_missing_truncated_or_different_file_is_refused(tmp_path):
    assert "cannot be read" in refused(tmp_path)
    path = written(tmp_path / "m") / FILE
    data = path.read_bytes()
    for damaged in (data[:-100], b"", b"notes", data[: len(data) // 2]):
        path.write_bytes(damaged)
        message = refused(tmp_path / "m")
        assert "truncated or no SavedModel" in message or "no signature" in message


def with_operation(name):
    changed = graph()
    changed.node.add(op=name, name="extra")
    return changed


@pytest.mark.parametrize(
    "name",
    ["ReadFile", "WriteFile", "PyFunc", "EagerPyFunc", "MyOwnOp", "LoadLibrary", "RestoreV2"]
    + ["RandomUniform", "HashTableV2", "Send", "DecodeJpeg", "AssignVariableOp", "XlaLaunch"],
)
def test_an_operation_not_known_to_be_pure_is_named(tmp_path, name):
    message = refused(written(tmp_path / "m", with_operation(name)))
    assert message.startswith(f"it holds the operation {name} (extra), which is not known to")


def length(number):
    """Reads a number from a file."""
    return tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32) + number


HOLDING = {
    "a file that is read": lambda x: x + length(0.0),
    "python": lambda x: tf.py_function(lambda y: y, [x], tf.float32),
    "chance": lambda x: x + tf.random.uniform([]),
    "a file that is read in a loop": lambda x: x * tf.while_loop(lambda y: y < 2, length, [0.0])[0],
}


@pytest.mark.parametrize("what", HOLDING)
def test_functions_that_are_called_are_looked_through(tmp_path, what):
    assert refused(saved(tmp_path / "m", HOLDING[what])).startswith("it holds the operation ")


def test_state_and_files_of_its_own_are_refused(tmp_path):
    names = tf.lookup.KeyValueTensorInitializer(["a"], [1.0])
    table = tf.lookup.StaticHashTable(names, 0.0)
    message = refused(saved(tmp_path / "m", lambda x: x, table=table))
    assert message.startswith("it holds state other than variables (")
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    asset = tf.saved_model.Asset(str(notes))
    assert "files of its own" in refused(saved(tmp_path / "n", lambda x: x, asset=asset))


def product(x):
    return tf.raw_ops.BatchMatMulV2(x=x, y=tf.ones([3, 4]))


def test_a_product_that_crashes_tensorflow_is_refused_in_either_form(tmp_path):
    for folder in (
        written(tmp_path / "one", graph(lambda images: product(tf.cast(images, tf.float32)))),
        saved(tmp_path / "two", product),
    ):
        message = refused(folder)
        assert message.startswith("it holds a product of rank 4 × rank 2 (")
        assert "reshape" in message
    fine = saved(tmp_path / "fine", lambda x: tf.tensordot(x, tf.ones([3, 4]), 1))
    assert read(fine)
