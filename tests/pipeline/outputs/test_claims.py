import os

import pytest

from model_build.errors import UserError
from pipeline.outputs.claims import claim, standing_since
from pipeline.outputs.folder import OutputFolder
from pipeline.storage import Files

OPTIONS = {"model": "f00", "long side": 512, "batch size": "auto"}


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path, memory):
    return OutputFolder(f"{tmp_path}/out" if request.param == "disk" else "memory://b/out", Files())


def test_a_fresh_folder_holds_nothing_and_is_left_alone(out, tmp_path, memory):
    assert standing_since(out, OPTIONS, False) is None
    assert standing_since(OutputFolder(str(tmp_path), Files()), OPTIONS, False) is None
    assert (list(tmp_path.iterdir()), memory.store) == ([], {})


def test_the_same_options_go_on(out):
    claim(out, OPTIONS, 1234.5)
    assert [file.path for file in out.files.list(out.path)] == [f"{out.path}/run.json"]
    assert standing_since(out, dict(OPTIONS), False) == 1234.5


def test_a_second_claim_replaces_the_first(out):
    claim(out, OPTIONS, 1.0)
    claim(out, OPTIONS | {"model": "ba5"}, 2.0)
    assert standing_since(out, OPTIONS | {"model": "ba5"}, False) == 2.0


@pytest.mark.parametrize(
    "change", [{"model": "ba5"}, {"long side": "native"}, {"batch size": 4}, {"new": 1}]
)
def test_other_options_are_refused(out, change):
    claim(out, OPTIONS, 1234.5)
    (key,) = change
    pattern = f"made with {key} {OPTIONS.get(key)}, not {change[key]}; add --overwrite"
    with pytest.raises(UserError, match=pattern):
        standing_since(out, OPTIONS | change, False)


def test_overwrite_lets_nothing_stand(out):
    claim(out, OPTIONS, 1234.5)
    out.write("masks/a.png", b"")
    assert standing_since(out, OPTIONS, True) is None
    assert standing_since(out, OPTIONS | {"model": "ba5"}, True) is None


@pytest.mark.parametrize("run", [None, b"", b"[]", b"{}", b'{"options": {}}', b'{"options": []}'])
def test_masks_that_no_run_has_written_are_refused(out, run):
    out.write("masks/x/notes.txt", b"")
    if run is not None:
        out.write("run.json", run)
    with pytest.raises(UserError, match="--overwrite"):
        standing_since(out, {}, False)
    assert standing_since(out, {}, True) is None


@pytest.mark.parametrize(
    "run", [b"", b"[]", b"{}", b'{"options": {"model": "f00"}}', b'{"started": 1}']
)
def test_a_run_file_of_another_form_beside_no_masks_is_replaced(out, run):
    out.write("run.json", run)
    assert standing_since(out, {"model": "f00"}, False) is None


def test_masks_of_a_neighbouring_folder_are_no_obstacle(out):
    OutputFolder(f"{out.path}2", out.files).write("masks/a.png", b"")
    assert standing_since(out, OPTIONS, False) is None


def test_a_folder_that_cannot_be_written_is_the_users_error(tmp_path, touch):
    touch(tmp_path, "file")
    with pytest.raises(UserError, match=r"cannot be written: .*choose another --output"):
        claim(OutputFolder(f"{tmp_path}/file/out", Files()), OPTIONS, 1.0)


def test_a_folder_that_cannot_be_looked_at_is_the_users_error(tmp_path):
    os.symlink("run.json", tmp_path / "run.json")  # not missing: nobody can tell what it holds
    with pytest.raises(UserError, match=f"{tmp_path}: cannot be looked at: .*symbolic links"):
        standing_since(OutputFolder(str(tmp_path), Files()), OPTIONS, False)
