import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from model_build import artifact
from model_build.errors import UserError
from model_build.network.fcn import SCORES, fcn

VARIABLES = "saved_model/variables/variables.data-00000-of-00001"


@pytest.fixture(scope="module")
def network():
    """A MobileNetV2 FCN whose statistics and biases are not at their initial values."""
    keras.utils.set_random_seed(0)
    model, normalisation = fcn(3, "mobilenet_v2")
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return model, normalisation


@pytest.fixture(scope="module")
def description(network, toy_labels):
    return artifact.Description(
        backbone="mobilenet_v2",
        labels=toy_labels,
        normalisation=network[1].to_json(),
        stride=32,
        long_side=96,
        parameters=0,
        training={"val_miou": 0.5},
        architecture={"backbone_name": "mobilenet_v2"},
    )


@pytest.fixture(scope="module")
def saved(network, description, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "full"
    return SimpleNamespace(folder=folder, written=artifact.save(folder, network[0], description))


@pytest.fixture(scope="module")
def halved(network, description, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "half"
    artifact.save(folder, network[0], description, half=True)
    return folder


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)


@pytest.fixture
def copied(saved, tmp_path):
    return Path(shutil.copytree(saved.folder, tmp_path / "copy"))


def edit(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder, load=artifact.load):
    with pytest.raises(UserError) as caught:
        load(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(folder))
    return message


def test_body_and_head_equal_the_keras_model(saved, network, images):
    loaded = artifact.load(str(saved.folder))
    model, _ = network
    scores = loaded.body(images)
    assert scores.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(
        scores, keras.Model(model.input, model.get_layer(SCORES).output)(images), atol=1e-5
    )
    logits = loaded.head(scores)
    expected = model(images)
    assert logits.dtype == "float32"
    assert np.std(expected) > 1e-2
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_array_equal(np.argmax(logits, -1), np.argmax(expected, -1))


@pytest.mark.slow
def test_the_loaded_network_takes_images_of_any_size(saved):
    loaded = artifact.load(str(saved.folder))
    for height, width in ((32, 32), (96, 64)):
        logits = loaded.head(loaded.body(np.zeros((1, height, width, 3), np.uint8)))
        assert logits.shape == (1, height, width, 3)


@pytest.mark.slow
def test_the_serving_signature_gives_logits(saved, network, images):
    import tensorflow as tf

    module = tf.saved_model.load(str(saved.folder / "saved_model"))
    outputs = module.signatures["serving_default"](images=tf.constant(images))
    np.testing.assert_allclose(outputs["logits"], network[0](images), atol=1e-5)


@pytest.mark.slow
def test_half_is_half_the_size_and_close(saved, halved, network, images):
    assert (halved / VARIABLES).stat().st_size / (saved.folder / VARIABLES).stat().st_size > 0.45
    assert (halved / VARIABLES).stat().st_size < 0.6 * (saved.folder / VARIABLES).stat().st_size
    loaded = artifact.load(str(halved))
    logits, expected = loaded.head(loaded.body(images)).numpy(), network[0](images).numpy()
    assert logits.dtype == np.float32
    assert not np.array_equal(logits, expected)
    assert np.abs(logits - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.slow
def test_half_equals_the_network_with_rounded_kernels(halved, network, images):
    rounded = keras.models.clone_model(network[0])
    rounded.set_weights(
        [w.astype(np.float16) if w.ndim > 1 else w for w in network[0].get_weights()]
    )
    loaded = artifact.load(str(halved))
    np.testing.assert_allclose(loaded.head(loaded.body(images)), rounded(images), atol=1e-5)


def test_model_json_is_read_back(saved, network, description):
    read = artifact.describe(str(saved.folder))
    assert read == dataclasses.replace(
        description,
        parameters=network[0].count_params(),
        fingerprint=artifact.fingerprint(saved.folder),
        normalisation=json.loads(json.dumps(description.normalisation)),
    )
    assert saved.written.fingerprint == read.fingerprint
    assert saved.written.parameters == read.parameters


def test_model_json_holds_what_other_programs_need(saved, toy_labels):
    value = json.loads((saved.folder / "model.json").read_text())
    assert value["format"] == 1
    assert value["ignore_index"] == 255
    assert value["labels"][1] == {"name": "box", "color": [250, 0, 0]}
    assert value["palette"] == [list(color) for color in toy_labels.colors]
    assert value["normalisation"]["channels"] == "RGB"
    assert (value["stride"], value["long_side"]) == (32, 96)


def test_the_saved_folder_is_as_readable_as_its_parent(saved):
    umask = os.umask(0)
    os.umask(umask)
    for path in (saved.folder, *saved.folder.rglob("*")):
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert path.stat().st_mode & 0o777 == expected, path


@pytest.mark.slow
def test_saving_again_replaces_the_model_and_leaves_other_files(copied, network, description):
    (copied / "history.csv").write_text("epoch\n")
    (copied / "saved_model" / "stale").write_text("old")
    artifact.save(copied, network[0], description)
    assert sorted(path.name for path in copied.iterdir()) == [
        "history.csv",
        "model.json",
        "saved_model",
    ]
    assert not (copied / "saved_model" / "stale").exists()
    artifact.load(str(copied))


def test_the_fingerprint_survives_copying(saved, copied):
    assert artifact.fingerprint(copied) == saved.written.fingerprint
    assert len(saved.written.fingerprint) == 64


def test_the_fingerprint_depends_on_names_and_bytes(copied, saved):
    seen = {saved.written.fingerprint}
    path = copied / "saved_model" / "extra"
    for name, content in (("a", b""), ("b", b""), ("b", b"1")):
        path = copied / "saved_model" / name
        path.write_bytes(content)
        seen.add(artifact.fingerprint(copied))
        path.unlink()
    assert len(seen) == 4


def test_describing_imports_nothing_heavy(saved):
    code = (
        "import sys; from model_build.artifact import describe; "
        f"print(len(describe({str(saved.folder)!r}).labels)); "
        "print([m for m in ('tensorflow', 'keras', 'apache_beam', 'numpy') if m in sys.modules])"
    )
    root = Path(artifact.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["3", "[]"]


def test_the_default_model_is_whole():
    description = artifact.describe(artifact.DEFAULT_MODEL)
    assert description.fingerprint == artifact.fingerprint(artifact.DEFAULT_MODEL)
    assert len(description.labels) == 21


def test_a_description_is_parsed_from_bytes(saved):
    data = (saved.folder / "model.json").read_bytes()
    assert artifact.parse_description(data, "there") == artifact.describe(str(saved.folder))
    with pytest.raises(UserError, match=r"^gs://b/model\.json: is not valid JSON"):
        artifact.parse_description(data[:-9], "gs://b/model.json")


@pytest.mark.slow
def test_messages_call_a_copied_model_as_they_are_told(copied, tmp_path):
    def told(folder, load=artifact.load):
        with pytest.raises(UserError) as caught:
            load(str(folder), name="gs://b/model/")
        return str(caught.value)

    assert told(tmp_path / "missing", artifact.describe).startswith("gs://b/model/: not a saved")
    edit(copied, labels=json.loads((copied / "model.json").read_text())["labels"][:2])
    assert told(copied).startswith("gs://b/model/model.json: has 2 labels")
    (copied / VARIABLES).unlink()
    assert told(copied).startswith("gs://b/model/saved_model: does not match model.json")
    edit(copied, fingerprint=artifact.fingerprint(copied))
    assert told(copied).startswith("gs://b/model/saved_model: TensorFlow cannot load it")


@pytest.mark.parametrize("load", [artifact.describe, artifact.load])
def test_a_folder_without_a_model_is_refused(tmp_path, load):
    for folder in (tmp_path, tmp_path / "missing"):
        assert "not a saved model: cannot read model.json" in refused(folder, load)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00"])
def test_invalid_json_is_refused(tmp_path, content):
    (tmp_path / "model.json").write_bytes(content)
    assert "not valid JSON" in refused(tmp_path, artifact.describe)


@pytest.mark.slow
def test_a_folder_of_an_earlier_version_has_no_architecture_and_loads(copied):
    path = copied / "model.json"
    value = json.loads(path.read_text())
    del value["architecture"]
    path.write_text(json.dumps(value))
    assert artifact.load(str(copied)).description.architecture == {}


@pytest.mark.parametrize("architecture", [None, 5, "text", [1]])
def test_an_architecture_that_is_no_object_is_refused(copied, architecture):
    edit(copied, architecture=architecture)
    assert "not a model description" in refused(copied, artifact.describe)


def test_another_format_is_refused(copied):
    edit(copied, format=2)
    assert "has format 2, but this version reads 1" in refused(copied, artifact.describe)


@pytest.mark.parametrize(
    "key", ["format", "backbone", "stride", "long_side", "normalisation", "training", "fingerprint"]
)
def test_a_description_with_a_missing_key_is_refused(copied, key):
    path = copied / "model.json"
    value = json.loads(path.read_text())
    del value[key]
    path.write_text(json.dumps(value))
    message = refused(copied, artifact.describe)
    assert "not a model description" in message
    assert key in message


@pytest.mark.parametrize("content", ["[]", "null", "5", '"text"'])
def test_json_of_another_shape_is_refused(tmp_path, content):
    (tmp_path / "model.json").write_text(content)
    assert "not a model description" in refused(tmp_path, artifact.describe)


def test_broken_labels_are_refused_with_the_file_name(copied):
    edit(copied, labels=[{"name": "a", "color": [0, 0, 0]}, {"name": "a", "color": [1, 0, 0]}])
    message = refused(copied, artifact.describe)
    assert message.startswith(f"{copied}/model.json: ")
    assert "'a' is used twice" in message


@pytest.mark.slow
def test_a_label_count_that_is_not_the_channel_count_is_refused(copied):
    edit(copied, labels=json.loads((copied / "model.json").read_text())["labels"][:2])
    assert "has 2 labels, but the network has 3 output channels" in refused(copied)


def test_a_truncated_file_is_refused(copied):
    path = copied / VARIABLES
    path.write_bytes(path.read_bytes()[:1000])
    assert "a file is truncated, changed or missing" in refused(copied)


def test_a_changed_file_is_refused(copied):
    path = copied / VARIABLES
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    assert "a file is truncated, changed or missing" in refused(copied)


@pytest.mark.parametrize("name", [VARIABLES, "saved_model/saved_model.pb", "saved_model"])
def test_a_missing_file_is_refused(copied, name):
    path = copied / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "a file is truncated, changed or missing" in refused(copied)


@pytest.mark.parametrize("name", [VARIABLES, "saved_model/saved_model.pb"])
def test_what_tensorflow_cannot_load_is_refused(copied, name):
    path = copied / name
    path.write_bytes(path.read_bytes()[:1000])
    edit(copied, fingerprint=artifact.fingerprint(copied))
    assert "TensorFlow cannot load it" in refused(copied)


def test_a_foreign_saved_model_is_refused(copied):
    import tensorflow as tf

    shutil.rmtree(copied / "saved_model")
    tf.saved_model.save(tf.Module(), str(copied / "saved_model"))
    edit(copied, fingerprint=artifact.fingerprint(copied))
    assert "TensorFlow cannot load it" in refused(copied)


@pytest.mark.parametrize(
    "name", [".DS_Store", "._saved_model.pb", "variables/._a", "Thumbs.db", "Desktop.ini"]
)
def test_what_file_managers_leave_does_not_change_a_model(copied, saved, name):
    (copied / artifact.NETWORK / name).write_bytes(b"left by a file manager")
    assert artifact.fingerprint(copied) == saved.written.fingerprint
