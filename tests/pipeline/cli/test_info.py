"""``fcn-beam info``."""

import json
import re
import shutil
from pathlib import Path

import keras
import pytest
from click.testing import CliRunner

from model_build import artifact
from model_build.common.errors import UserError
from model_build.network import fcn  # noqa: F401, whose layers Keras reads
from pipeline.cli.info import info
from pipeline.network import models
from pipeline.storage import Files
from tests.networks import save_earlier

TRAINING = {"recipe": "default", "image_size": [64, 96], "val_miou": 0.4375, "data": {"train": 6}}


@pytest.fixture
def trained(tiny_model, tmp_path):
    """The tiny model with what a training notes of itself."""
    folder = tmp_path / "trained"
    shutil.copytree(tiny_model, folder)
    described = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(described | {"training": TRAINING}))
    return folder


def invoke(model, *options):
    return CliRunner().invoke(info, [str(model), *options], standalone_mode=False)


def shown(result):
    assert result.exception is None, result.exception
    return dict(re.split(r"  +", line, maxsplit=1) for line in result.output.splitlines())


def test_info_shows_the_saved_model(trained):
    rows = shown(invoke(trained))
    description = artifact.describe(str(trained))
    assert rows["backbone"] == "small"
    assert rows["stride"] == "32"
    assert rows["long side"] == "96 pixels"
    assert rows["parameters"] == f"{description.parameters:,}"
    assert description.parameters > 1000
    assert rows["labels"].startswith("21: background, aeroplane, bicycle,")
    assert rows["fingerprint"] == description.fingerprint
    assert rows["normalisation"] == "RGB × (0.01562, 0.01562, 0.01562) + (-2, -2, -2)"
    assert rows["val miou"] == "0.4375"
    assert rows["image size"] == "64 × 96"
    assert rows["data"] == "train 6"


def test_info_of_a_folder_of_the_earlier_format_is_that_of_its_network(tiny_model, tmp_path):
    description = artifact.describe(tiny_model)
    model = keras.models.load_model(f"{tiny_model}/model.keras")
    rows = shown(invoke(save_earlier(tmp_path, model, description)))
    new = shown(invoke(tiny_model))
    assert rows.pop("fingerprint") != new.pop("fingerprint")
    assert (rows.pop("network"), new.pop("network")) == ("saved model", "program")
    assert rows == new


def test_info_checks_the_whole_model(trained, tmp_path):
    (tmp_path / "model.json").write_text((trained / "model.json").read_text())
    result = invoke(tmp_path)
    assert isinstance(result.exception, UserError)
    assert "truncated, changed or missing" in str(result.exception)


def test_info_of_a_network_with_unknown_normalisation(trained):
    described = json.loads((trained / "model.json").read_text())
    (trained / "model.json").write_text(json.dumps(described | {"normalisation": {}}))
    assert shown(invoke(trained))["normalisation"] == "unknown"


def test_info_of_a_missing_folder_names_it(tmp_path):
    result = invoke(tmp_path / "missing")
    assert isinstance(result.exception, UserError)
    assert str(tmp_path / "missing") in str(result.exception)


@pytest.fixture
def remote(trained, memory):
    for path in Path(trained).rglob("*"):
        if path.is_file():
            name = path.relative_to(trained).as_posix()
            Files().write(f"memory://bucket/a[1]/{name}", path.read_bytes())
    return "memory://bucket/a[1]"


def test_info_of_a_model_in_a_store_is_that_of_its_copy_on_disk(trained, remote):
    here = shown(invoke(trained))
    assert shown(invoke(remote)) == here
    assert shown(invoke(f"{remote}/", "--storage-option", "s3.anon=true")) == here


def test_info_does_not_fetch_the_weights_to_train_further_with(trained, remote, monkeypatch):
    load, seen = models.load_local, []

    def look(folder, name):
        paths = (path for path in Path(folder).rglob("*") if path.is_file())
        seen.append({path.relative_to(folder).as_posix() for path in paths})
        return load(folder, name)

    monkeypatch.setattr(models, "load_local", look)
    assert Files().exists(f"{remote}/trained.weights.h5")
    shown(invoke(remote))
    assert seen == [{"model.json", "saved_model/saved_model.pb"}]


def test_info_checks_a_model_in_a_store_and_calls_it_by_its_uri(remote):
    program = f"{remote}/saved_model/saved_model.pb"
    Files().write(program, Files().read(program)[:-1000])
    result = invoke(remote)
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith(f"{remote}/saved_model: ")
    assert "truncated, changed or missing" in str(result.exception)


def test_info_of_a_missing_folder_in_a_store_names_it(memory):
    result = invoke("memory://bucket/nowhere")
    assert isinstance(result.exception, UserError)
    assert "memory://bucket/nowhere" in str(result.exception)
    assert "\n" not in str(result.exception)
