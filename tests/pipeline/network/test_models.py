import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from model_build import artifact
from model_build.common.errors import UserError
from pipeline.network import models
from pipeline.network.segmenter import Segmenter
from pipeline.storage import Files

FILES = Files()
MODEL = "memory://bucket/models/m"


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary files go, empty at first."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def remote(memory, tiny_model):
    """A saved model in the store."""
    for path in Path(tiny_model).rglob("*"):
        if path.is_file():
            FILES.write(f"{MODEL}/{path.relative_to(tiny_model).as_posix()}", path.read_bytes())
    return MODEL


def largest(memory):
    """The key of the network's largest file."""
    return max(
        (key for key in memory.store if "/saved_model/" in key),
        key=lambda key: memory.store[key].size,
    )


@pytest.mark.parametrize("end", ["", "/"])
def test_a_model_in_a_store_is_described_like_a_local_one(remote, tiny_model, end):
    assert models.describe(remote + end, FILES) == artifact.describe(tiny_model)
    assert models.describe(tiny_model, FILES) == artifact.describe(tiny_model)


@pytest.mark.parametrize("end", ["", "/"])
def test_a_model_in_a_store_runs_like_a_local_one(remote, tiny_model, scratch, end):
    network = models.load(remote + end, FILES)
    local = models.load(tiny_model, FILES)
    assert network.description == local.description
    images = np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3), np.uint8)
    np.testing.assert_array_equal(Segmenter(network)(images)[0], Segmenter(local)(images)[0])


def test_a_model_loaded_ahead_is_read_once(remote, scratch, monkeypatch):
    reads = []
    load = models.load_local
    monkeypatch.setattr(models, "load_local", lambda *given: reads.append(given) or load(*given))
    models.load_ahead(remote, FILES)
    network = models.load(remote, FILES)
    assert len(reads) == 1
    assert models.load(remote, FILES) is not network


def test_a_model_replaced_after_it_was_loaded_ahead_is_read_again(tiny_model, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "model")
    models.load_ahead(str(copy), FILES)
    described = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps(described | {"long_side": 64}))
    with pytest.raises(UserError, match=r"does not match model\.json"):
        models.load(str(copy), FILES)


def test_no_local_copy_is_left_behind(remote, scratch):
    models.load(remote, FILES)
    assert list(scratch.iterdir()) == []


def test_only_the_model_is_copied_here(remote, scratch, monkeypatch):
    FILES.write("memory://bucket/models/m2/saved_model/x", b"")
    copied = {}
    load = models.load_local

    def look(folder, name):
        copied[folder] = {path.name for path in Path(folder).rglob("*") if path.is_file()}
        return load(folder, name)

    monkeypatch.setattr(models, "load_local", look)
    models.load(remote, FILES)
    ((folder, names),) = copied.items()
    assert folder.startswith(f"{scratch}/")
    assert names == {"model.json", "saved_model.pb"}


def test_a_missing_model_is_a_user_error(memory, scratch):
    pattern = r"^memory://bucket/models/m: not a saved model: cannot read model\.json: .*fcn-beam"
    with pytest.raises(UserError, match=pattern):
        models.describe(MODEL, FILES)
    with pytest.raises(UserError, match=r"^memory://bucket/models/m: cannot be copied here: "):
        models.load(MODEL, FILES)
    assert list(scratch.iterdir()) == []


def test_a_missing_local_model_is_a_user_error(tmp_path):
    for function in (models.describe, models.load):
        with pytest.raises(UserError, match=f"{tmp_path}/nowhere: not a saved model"):
            function(f"{tmp_path}/nowhere", FILES)


def damaged(remote, scratch):
    """The error of loading the damaged model."""
    with pytest.raises(UserError) as raised:
        models.load(remote, FILES)
    assert list(scratch.iterdir()) == []
    assert str(scratch) not in str(raised.value)
    return str(raised.value)


def test_a_truncated_file_is_reported_with_the_uri(remote, memory, scratch):
    key = largest(memory)
    FILES.write(f"memory:/{key}", FILES.read(f"memory:/{key}")[:-100])
    message = damaged(remote, scratch)
    assert message.startswith("memory://bucket/models/m/saved_model: does not match model.json")
    assert message.endswith("copy or train the model again")


def test_a_missing_file_is_reported_with_the_uri(remote, memory, scratch):
    FILES.delete(f"memory:/{largest(memory)}")
    assert damaged(remote, scratch).startswith(
        "memory://bucket/models/m/saved_model: does not match"
    )


def test_a_missing_network_is_reported_with_the_uri(memory, tiny_model, scratch):
    FILES.write(f"{MODEL}/model.json", Path(tiny_model, "model.json").read_bytes())
    assert damaged(MODEL, scratch).startswith(
        "memory://bucket/models/m/saved_model: does not match"
    )


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]", b"{}"])
def test_a_damaged_description_is_reported_with_the_uri(remote, scratch, data):
    FILES.write(f"{remote}/model.json", data)
    told = r"^memory://bucket/models/m/model\.json: (is not valid JSON|not a model description)"
    with pytest.raises(UserError, match=told):
        models.describe(remote, FILES)
    assert re.match(told, damaged(remote, scratch))


def test_a_description_of_another_network_is_reported_with_the_uri(remote, scratch):
    where = f"{remote}/model.json"
    content = json.loads(FILES.read(where))
    content["labels"], content["palette"] = content["labels"][:-1], content["palette"][:-1]
    FILES.write(where, json.dumps(content).encode())
    assert damaged(remote, scratch).startswith(f"{remote}/saved_model: does not match model.json")


def test_an_unknown_scheme_is_the_users_error():
    with pytest.raises(UserError, match="nosuch://b/m: unknown scheme nosuch://"):
        models.describe("nosuch://b/m", FILES)
