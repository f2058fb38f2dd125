import dataclasses
import hashlib
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
from model_build.artifact import Scores
from model_build.common.errors import JobError, UserError
from model_build.network.fcn import Architecture, fcn
from tests import networks

PROGRAM, WEIGHTS = "saved_model/saved_model.pb", "trained.weights.h5"


@pytest.fixture(scope="module")
def network(use_tiny_backbone):
    """A small FCN with every part, whose statistics and biases are not at their initial values."""
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        model, normalisation = fcn(3, "tiny", context=True)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        value = rng.uniform(0.5, 1.5, weight.shape) if len(weight.shape) == 1 else weight.numpy()
        weight.assign(value.astype(np.float16))  # as kernels are where half of a model is saved
    return model, normalisation


@pytest.fixture(scope="module")
def description(network, toy_labels):
    return artifact.Description(
        backbone="tiny",
        labels=toy_labels,
        normalisation=json.loads(json.dumps(network[1].to_json())),
        stride=32,
        long_side=96,
        parameters=0,
        training={"val_miou": 0.5},
        architecture=Architecture("tiny", context=True).to_json(),
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


@pytest.fixture
def copied(saved, tmp_path):
    return Path(shutil.copytree(saved.folder, tmp_path / "copy"))


def edit(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def check(folder, **options):
    """Reads and checks a folder, as whatever uses one does first."""
    description = artifact.describe(folder, **options)
    artifact.check_files(folder, description, **options)
    return description


def refused(folder, read=artifact.describe):
    with pytest.raises(UserError) as caught:
        read(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300 + len(str(folder))
    assert message.startswith(str(folder))
    return message


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (96, 64)])
def test_the_saved_model_serves_the_networks_logits(saved, network, size):
    images = np.random.default_rng(1).integers(0, 256, (2, *size, 3), np.uint8)
    logits, expected = networks.serve(saved.folder)(images), network[0](images)
    assert (logits.dtype, logits.shape) == ("float32", (2, *size, 3))
    assert np.std(expected) > 1e-2
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_array_equal(np.argmax(logits, -1), np.argmax(expected, -1))


def test_half_is_half_the_size_and_the_same_network(saved, halved, network):
    for name in (PROGRAM, WEIGHTS):
        assert (halved / name).stat().st_size < 0.8 * (saved.folder / name).stat().st_size
    images = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), np.uint8)
    np.testing.assert_allclose(networks.serve(halved)(images), network[0](images), atol=1e-4)


def test_kernels_that_float16_cannot_represent_are_not_saved(network, description, tmp_path):
    model = keras.models.clone_model(network[0])
    model.set_weights([w + np.float32(0.001) * w.std() for w in network[0].get_weights()])
    with pytest.raises(JobError, match="its inference program computes something else") as raised:
        artifact.save(tmp_path / "model", model, description, half=True)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "model").exists()
    artifact.save(tmp_path / "model", model, description)
    assert check(tmp_path / "model").kind == artifact.PROGRAM


@pytest.mark.parametrize("half", [False, True])
def test_keras_reads_the_trained_weights_bit_by_bit(network, saved, halved, half):
    model = keras.models.clone_model(network[0])
    model.set_weights([np.zeros_like(value) for value in network[0].get_weights()])
    model.load_weights((halved if half else saved.folder) / WEIGHTS)
    for value, expected in zip(model.get_weights(), network[0].get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_saving_twice_gives_equal_files(network, description, saved, halved, tmp_path):
    for half, first in ((False, saved.folder), (True, halved)):
        artifact.save(tmp_path, network[0], description, half=half)
        for name in (PROGRAM, WEIGHTS, "model.json"):
            assert (tmp_path / name).read_bytes() == (first / name).read_bytes(), name


def test_a_program_does_not_depend_on_other_networks_of_the_process(
    network, description, saved, use_tiny_backbone, tmp_path
):
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        again, _ = fcn(3, "tiny", context=True)
    first, other = (model.get_layer("backbone").layers[-1].name for model in (network[0], again))
    assert first != other  # Keras numbers those without a name of their own
    again.set_weights(network[0].get_weights())
    written = artifact.save(tmp_path, again, description)
    # Keras' own file holds the names.
    assert written == dataclasses.replace(saved.written, weights=written.weights)


def test_model_json_is_read_back(saved, network, description):
    read = artifact.describe(str(saved.folder))
    assert read == dataclasses.replace(
        description,
        parameters=network[0].count_params(),
        fingerprint=artifact.fingerprint(saved.folder, saved.written),
        weights=hashlib.sha256((saved.folder / artifact.WEIGHTS).read_bytes()).hexdigest(),
        kind=artifact.PROGRAM,
        scores=Scores(32, network[0].get_layer("logits").shift, averages=1),
    )
    assert saved.written.fingerprint == read.fingerprint
    assert saved.written.parameters == read.parameters


def test_model_json_has_the_fields_that_other_programs_need(saved, toy_labels):
    value = json.loads((saved.folder / "model.json").read_text())
    assert (value["format"], value["kind"]) == (2, "program")
    assert value["scores"] == {"stride": 32, "shift": saved.written.scores.shift, "averages": 1}
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


def test_saving_again_replaces_the_model_and_leaves_other_files(copied, network, description):
    (copied / "history.csv").write_text("epoch\n")
    (copied / "saved_model" / "stale").write_text("old")
    artifact.save(copied, network[0], description)
    assert sorted(path.name for path in copied.iterdir()) == [
        "history.csv",
        "model.json",
        "saved_model",
        "trained.weights.h5",
    ]
    assert [path.name for path in (copied / "saved_model").iterdir()] == ["saved_model.pb"]
    check(copied)


# The fingerprint


def test_the_fingerprint_survives_copying(saved, copied):
    assert artifact.fingerprint(copied, artifact.describe(copied)) == saved.written.fingerprint
    assert len(saved.written.fingerprint) == 64


def test_the_fingerprint_depends_on_names_and_bytes(copied, saved):
    seen = {saved.written.fingerprint}
    for name, content in (("a", b""), ("b", b""), ("b", b"1")):
        path = copied / "saved_model" / name
        path.write_bytes(content)
        seen.add(artifact.fingerprint(copied, saved.written))
        path.unlink()
    assert len(seen) == 4


@pytest.mark.parametrize("name", sorted(networks.DECIDING))
def test_a_field_that_reaches_a_pixel_changes_the_fingerprint(copied, saved, name):
    changed = networks.DECIDING[name](saved.written)
    assert changed != saved.written
    edit(copied, **{**changed.to_json(), "fingerprint": saved.written.fingerprint})
    assert "saved_model: does not match model.json" in refused(copied, check)
    written = artifact.write_description(copied, changed)
    assert written.fingerprint != saved.written.fingerprint
    assert check(copied) == written


def test_fields_that_affect_pixels_are_listed_explicitly(saved):
    """Whoever adds a field says whether it reaches a pixel."""
    changed = {name.split()[0] for name in networks.DECIDING}
    assert changed | {"ignore_index"} == saved.written.decides().keys()  # which is always 255
    told = {"backbone", "normalisation", "parameters", "training", "fingerprint", "architecture"}
    told |= {"weights"}
    known = saved.written.decides().keys() | told | {"format"}
    assert saved.written.to_json().keys() == known


def test_informative_fields_do_not_change_the_fingerprint(copied, saved):
    told = dataclasses.replace(
        saved.written,
        backbone="another",
        normalisation={},
        parameters=1,
        training={"val_miou": 0.9},
        architecture={},
    )
    assert artifact.write_description(copied, told).fingerprint == saved.written.fingerprint
    check(copied)


def test_the_keras_weights_do_not_count_in_the_fingerprint(copied, saved):
    (copied / WEIGHTS).unlink()
    assert check(copied) == saved.written


@pytest.mark.parametrize("name", [PROGRAM, "saved_model"])
def test_a_missing_file_is_refused(copied, name):
    path = copied / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "a file is truncated, changed or missing" in refused(copied, check)


def test_a_truncated_file_is_refused(copied):
    path = copied / PROGRAM
    path.write_bytes(path.read_bytes()[:1000])
    assert "a file is truncated, changed or missing" in refused(copied, check)


def test_a_changed_file_is_refused(copied):
    path = copied / PROGRAM
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    assert "a file is truncated, changed or missing" in refused(copied, check)


@pytest.mark.parametrize(
    "name", [".DS_Store", "._saved_model.pb", "variables/._a", "Thumbs.db", "Desktop.ini"]
)
def test_files_of_file_managers_do_not_change_a_model(copied, name):
    path = copied / artifact.NETWORK / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"left by a file manager")
    check(copied)


def test_messages_name_a_copied_model_by_its_original_path(copied, tmp_path):
    def describe_error(folder):
        with pytest.raises(UserError) as caught:
            check(str(folder), name="gs://b/model/")
        return str(caught.value)

    assert describe_error(tmp_path / "missing").startswith("gs://b/model/: not a saved")
    (copied / PROGRAM).unlink()
    assert describe_error(copied).startswith("gs://b/model/saved_model: does not match model.json")


# model.json


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
    description = check(artifact.DEFAULT_MODEL)
    assert (description.format, description.kind) == (2, artifact.PROGRAM)
    assert len(description.labels) == 21
    assert Path(artifact.DEFAULT_MODEL, WEIGHTS).is_file()


def test_a_description_is_parsed_from_bytes(saved):
    data = (saved.folder / "model.json").read_bytes()
    assert artifact.parse_description(data, "there") == artifact.describe(str(saved.folder))
    with pytest.raises(UserError, match=r"^gs://b/model\.json: is not valid JSON"):
        artifact.parse_description(data[:-9], "gs://b/model.json")


def test_a_folder_without_a_model_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        assert "not a saved model: cannot read model.json" in refused(folder)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00"])
def test_invalid_json_is_refused(tmp_path, content):
    (tmp_path / "model.json").write_bytes(content)
    assert "not valid JSON" in refused(tmp_path)


def without(folder, key):
    path = folder / "model.json"
    value = json.loads(path.read_text())
    del value[key]
    path.write_text(json.dumps(value))


def test_a_description_may_lack_the_architecture(copied):
    without(copied, "architecture")
    assert check(copied).architecture == {}


@pytest.mark.parametrize("architecture", [None, 5, "text", [1]])
def test_an_architecture_that_is_no_object_is_refused(copied, architecture):
    edit(copied, architecture=architecture)
    assert "not a model description" in refused(copied)


@pytest.mark.parametrize("number", [3, 0, -1, "2", None, [2], {}])
def test_another_format_is_refused(copied, number):
    edit(copied, format=number)
    message = refused(copied)
    assert f"has format {number}, but this version reads 2 and 1" in message


@pytest.mark.parametrize("number", [True, 2.0])
def test_a_similar_header_is_not_a_known_format(copied, number):
    edit(copied, format=number)
    assert f"has format {number}, but this version reads 2 and 1" in refused(copied)


@pytest.mark.parametrize(
    "key",
    ["format", "backbone", "stride", "long_side", "normalisation", "training", "fingerprint"]
    + ["labels", "parameters"],
)
def test_a_description_with_a_missing_key_is_refused(copied, key):
    without(copied, key)
    message = refused(copied)
    assert "not a model description" in message or "not a label set" in message
    assert key in message


@pytest.mark.parametrize("value", [0, -32, 32.5, "32", None, True, [32], 10**12])
def test_an_impossible_stride_is_refused(copied, value):
    edit(copied, stride=value)
    assert f"not a model description (ValueError('stride is {value}')" in refused(copied)


@pytest.mark.parametrize("key", ["sigmoid", "x" * 1000, "", "\n"])
def test_an_unknown_field_is_one_of_a_later_version(copied, key):
    edit(copied, **{key: 1})
    message = refused(copied)
    assert f"has the unknown field {key[:40]!r}: it was saved by a later version" in message


@pytest.mark.parametrize("kind", ["onnx", "", "PROGRAM", None, 5, ["program"], {}, "x" * 1000])
def test_an_unknown_kind_is_refused(copied, kind):
    edit(copied, kind=kind)
    message = refused(copied)
    assert "its kind is " in message
    assert message.endswith("use program or saved_model")


@pytest.mark.parametrize(
    "scores",
    [
        None,
        5,
        "text",
        [],
        {"stride": 16, "shift": "7", "averages": 0},
        {"stride": 16, "shift": [7], "averages": 0},
        {"stride": 16, "shift": float("nan"), "averages": 0},
        {"stride": 16, "shift": -8.5, "averages": 0},
        {"stride": 16, "shift": 8.6, "averages": 0},
        {"stride": 16, "shift": True, "averages": 0},
        {"stride": 0, "shift": None, "averages": 0},
        {"stride": -16, "shift": None, "averages": 0},
        {"stride": "16", "shift": None, "averages": 0},
        {"stride": 16.5, "shift": None, "averages": 0},
        {"stride": True, "shift": None, "averages": 0},
        {"stride": 24, "shift": None, "averages": 0},
        {"stride": 64, "shift": None, "averages": 0},
        {"stride": 16, "shift": None, "averages": -1},
        {"stride": 16, "shift": None, "averages": "1"},
        {"stride": 16, "shift": None, "averages": 10**9},
        {"stride": 16, "shift": None, "averages": 0, "sigmoid": True},
    ],
    ids=json.dumps,
)
def test_an_impossible_grid_of_scores_is_refused(copied, scores):
    edit(copied, scores=scores)
    message = refused(copied)
    assert message.startswith(f"{copied}/model.json: ")


def test_scores_have_the_images_size_by_default(copied):
    edit(copied, scores={"stride": 16})
    assert artifact.describe(copied).scores == Scores(16, None, 0)
    without(copied, "scores")
    without(copied, "kind")
    found = artifact.describe(copied)
    assert (found.kind, found.scores) == (artifact.SAVED_MODEL, Scores(1, None, 0))


@pytest.mark.parametrize("shift", [-8.4, 0, 7.5, 8.5, None])
def test_the_grid_of_scores_is_read(copied, shift):
    edit(copied, scores={"stride": 16, "shift": shift, "averages": 2})
    assert artifact.describe(copied).scores == Scores(16, shift, 2)


@pytest.mark.parametrize("content", ["[]", "null", "5", '"text"'])
def test_json_of_another_shape_is_refused(tmp_path, content):
    (tmp_path / "model.json").write_text(content)
    assert "not a model description" in refused(tmp_path)


def test_broken_labels_are_refused_with_the_file_name(copied):
    edit(copied, labels=[{"name": "a", "color": [0, 0, 0]}, {"name": "a", "color": [1, 0, 0]}])
    message = refused(copied)
    assert message.startswith(f"{copied}/model.json: ")
    assert "'a' is used twice" in message


# The earlier format


@pytest.fixture(scope="module")
def earlier(network, description, tmp_path_factory):
    return networks.save_earlier(tmp_path_factory.mktemp("earlier"), network[0], description)


def test_a_folder_of_the_earlier_format_is_anybodys_network(earlier, description):
    found = check(earlier)
    assert (found.format, found.kind, found.scores) == (1, artifact.SAVED_MODEL, Scores())
    assert found.labels == description.labels
    assert found.architecture == description.architecture


def test_a_damaged_folder_of_the_earlier_format_is_refused(earlier, tmp_path):
    copy = Path(shutil.copytree(earlier, tmp_path / "copy"))
    (path,) = copy.glob("saved_model/variables/*.data-*")
    path.write_bytes(path.read_bytes()[:-1])
    assert "a file is truncated, changed or missing" in refused(copy, check)


@pytest.mark.parametrize("name", ["scores", "kind"])
def test_the_earlier_format_has_no_field_of_the_later(earlier, saved, tmp_path, name):
    copy = Path(shutil.copytree(earlier, tmp_path / "copy"))
    edit(copy, **{name: saved.written.to_json()[name]})
    assert f"has the unknown field {name!r}" in refused(copy)
