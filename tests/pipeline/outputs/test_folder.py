import json
import os
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_build.common.errors import JobError
from pipeline.outputs import runs
from pipeline.outputs.folder import OutputFolder, utf8
from pipeline.outputs.products import MASKS, OVERLAYS, PRODUCTS
from pipeline.records import Stamp
from pipeline.storage import Files, Unlisted, as_job_error, local

FILES = Files()
DEEP = b"[" * 100_000 + b"]" * 100_000


def tree(folder):
    """All files below a folder, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def overlaid(out):
    """Names of the masks that have an overlay."""
    return [file.mask_name for file in out.existing(OVERLAYS)]


@pytest.fixture
def out(tmp_path):
    return OutputFolder(f"{tmp_path}/out", FILES)


@pytest.fixture(params=["disk", "store"])
def any_out(request, tmp_path, memory):
    return OutputFolder(f"{tmp_path}/out" if request.param == "disk" else "memory://b/x/out", FILES)


# What a run writes


def test_a_file_is_written_read_and_deleted_below_the_folder(any_out):
    stamp = any_out.write("masks/x/a.png", b"data")
    found = FILES.stat(f"{any_out.path}/masks/x/a.png")
    assert stamp == Stamp(found.size, found.version)
    assert FILES.read(f"{any_out.path}/masks/x/a.png") == b"data"
    any_out.delete("masks/x/a.png")
    any_out.delete("masks/x/a.png")
    assert not FILES.exists(f"{any_out.path}/masks/x/a.png")


def test_a_claimed_folder_that_has_been_removed_is_not_made_anew(tmp_path):
    out = OutputFolder(f"{tmp_path}/out", FILES, run="r1")
    with pytest.raises(FileNotFoundError, match=f"has been removed: '{tmp_path}/out'"):
        out.write("masks/a.png", b"data")
    assert tree(tmp_path) == {}
    assert not os.path.exists(out.path)
    os.mkdir(out.path)
    out.write("masks/a.png", b"data")
    assert tree(tmp_path).keys() == {"out/masks/a.png"}


def test_a_folder_that_nobody_has_claimed_is_made(out, tmp_path):
    out.write("masks/a.png", b"data")
    assert tree(tmp_path).keys() == {"out/masks/a.png"}


def test_a_run_that_has_been_stopped_writes_and_deletes_nothing(any_out):
    any_out.write("masks/a.png", b"old")
    ours = OutputFolder(any_out.path, FILES, run="stopped-here")
    runs.stop_writes(ours.run)
    with pytest.raises(runs.Stopped):
        ours.write("masks/a.png", b"new")
    with pytest.raises(runs.Stopped):
        ours.delete("masks/a.png")
    assert FILES.read(f"{any_out.path}/masks/a.png") == b"old"


@pytest.mark.parametrize(("run", "scratch"), [("", ".unfinished"), ("r1", ".unfinished/r1")])
def test_unfinished_files_are_not_among_the_masks(tmp_path, monkeypatch, run, scratch):
    out = OutputFolder(f"{tmp_path}/out", FILES, run=run)
    os.mkdir(out.path)

    def fail(source, target):
        assert os.path.dirname(source) == f"{out.path}/{scratch}"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        out.write("masks/a.png", b"new")
    assert tree(tmp_path) == {}


def test_what_named_runs_have_left_unfinished_goes_and_nothing_else(out, tmp_path, touch):
    for name in ("r1/half", "r2/half", "r2/x/y", "r3/half", "r22/half"):
        touch(out.path, f".unfinished/{name}")
    touch(out.path, "masks/a.png")
    out.clean_up(["r1", "r2", "r4"])
    assert tree(tmp_path).keys() == {
        "out/.unfinished/r3/half",
        "out/.unfinished/r22/half",
        "out/masks/a.png",
    }
    assert sorted(os.listdir(f"{out.path}/.unfinished")) == ["r22", "r3"]


@pytest.fixture
def elsewhere(tmp_path):
    """A folder of another disk."""
    shared = "/dev/shm"
    if not os.access(shared, os.W_OK) or os.stat(shared).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("no second disk")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield folder


@pytest.fixture
def written(monkeypatch):
    """How many unfinished files were written."""
    counted = []
    create = local._create
    monkeypatch.setattr(local, "_create", lambda path, data: counted.append(create(path, data)))
    return lambda: len(counted)


def test_a_folder_of_out_may_be_a_link_to_another_disk(out, elsewhere, written):
    out = OutputFolder(out.path, FILES, run="r1")
    os.mkdir(out.path)
    os.symlink(elsewhere, f"{out.path}/masks")
    out.write("masks/x/a.png", b"old")
    assert written() == 2  # nobody knew
    stamp = out.write("masks/x/a.png", b"new")
    assert written() == 3
    assert [mask[1:3] for mask in out.existing(MASKS)] == [("x/a.png", stamp)]
    assert FILES.read(f"{elsewhere}/x/a.png") == b"new"
    out.clean_up(["r1"])
    assert os.listdir(elsewhere) == ["x"]
    assert os.listdir(out.path) == ["masks"]


def test_a_link_to_another_disk_within_the_masks_is_told_with_the_remedy(out, elsewhere):
    os.makedirs(f"{out.path}/masks")
    os.symlink(elsewhere, f"{out.path}/masks/x")
    with (
        pytest.raises(JobError, match=r"masks/x/a\.png: .*; link the whole masks folder"),
        as_job_error(),
    ):
        out.write("masks/x/a.png", b"data")


def test_what_is_unfinished_on_another_disk_goes_too(out, elsewhere, touch):
    os.mkdir(out.path)
    os.symlink(elsewhere, f"{out.path}/masks")
    touch(elsewhere, ".unfinished/r1/half", ".unfinished/r2/half")
    out.clean_up(["r1"])
    assert list(out.existing(MASKS)) == []
    assert os.listdir(f"{elsewhere}/.unfinished") == ["r2"]


def test_folders_that_are_empty_go_too(out, touch):
    touch(out.path, ".unfinished/r1/half", "masks/a.png")
    os.mkdir(f"{out.path}/journal")
    touch(out.path, "lock/3")
    out.clean_up(["r1"])
    assert sorted(os.listdir(out.path)) == ["lock", "masks"]
    out.clean_up(["r1"])


def test_a_store_has_nothing_to_clean_up(memory):
    out = OutputFolder("memory://b/out", FILES)
    out.write("masks/a.png", b"data")
    out.clean_up(["r1"])
    assert list(memory.store) == ["/b/out/masks/a.png"]


def test_masks_and_overlays_have_folders_of_their_own():
    assert MASKS.file("x/a.jpg.png") == "masks/x/a.jpg.png"
    assert OVERLAYS.file("x/a.jpg.png") == "overlays/x/a.jpg.jpg"


@pytest.mark.parametrize("name", ["a.jpg/b.png", "a.jpg_/b.png", "x.png_/a.jpg.png", "a.jpg.png"])
def test_a_folder_called_like_an_overlay_gets_another_name_and_its_masks_are_found(out, name):
    file = OVERLAYS.file(name)
    folders = file.split("/")[:-1]
    assert not any(folder.endswith(".jpg") for folder in folders)
    out.write(file, b"")
    assert overlaid(out) == [name]


NAMES = (*(product.name for product in PRODUCTS), ".unfinished", "journal", "lock", "staged")


def test_what_a_run_writes_is_told_to_the_listing(out):
    files = {"run.json", "summary.json", "histograms-*.jsonl", "rejected-*.jsonl"}
    written = {f"{name}/**" for name in NAMES} | files
    assert set(out.written()) == {f"{out.path}/{name}" for name in written}


# What stands there


def test_masks_and_overlays_that_stand(out, touch):
    touch(out.path, "masks/a.png", "masks/x/b.png", "masks/c.txt", "a.png", mtime=1234.5)
    touch(out.path, "overlays/x/b.jpg", "overlays/a.png", "overlays/c.jpeg")
    stamp = Stamp(0, "1234500000000")
    assert [mask[1:3] for mask in out.existing(MASKS)] == [("a.png", stamp), ("x/b.png", stamp)]
    assert overlaid(out) == ["x/b.png"]


def test_what_is_no_regular_file_is_no_mask(out, touch):
    touch(out.path, "masks/x/a.txt")
    os.mkfifo(f"{out.path}/masks/a.png")  # reading it would wait for ever
    os.makedirs(f"{out.path}/masks/b.png")
    assert list(out.existing(MASKS)) == []


def test_masks_that_stand_have_the_stamps_that_their_puts_returned(folder):
    out = OutputFolder(f"{folder}/out", FILES)
    stamps = {name: out.write(f"masks/{name}", name.encode()) for name in ("a.png", "x/b.png")}
    for name in ("masks/c.txt", "overlays/x/a.jpg", "run.json"):
        out.write(name, b"")
    FILES.write(f"{folder}/out2/masks/b.png", b"")
    assert [mask[1:3] for mask in out.existing(MASKS)] == list(stamps.items())
    assert overlaid(out) == ["x/a.png"]


def test_nothing_stands_in_a_folder_that_is_not_there(any_out):
    assert list(any_out.existing(MASKS, OVERLAYS)) == []
    assert not any_out.holds("masks")


def test_a_mask_whose_name_is_not_utf_8_is_no_images(out, touch):
    touch(os.fsencode(out.path), b"masks/x/bad\xff.png", b"overlays/bad\xff.jpg")
    touch(out.path, "masks/a.png")
    assert sorted(mask.mask_name for mask in out.existing(MASKS)) == ["a.png", "x/bad\\udcff.png"]
    assert overlaid(out) == ["bad\\udcff.png"]


def test_any_file_among_the_masks_counts_as_one(any_out):
    any_out.write("a.png", b"")
    any_out.write("masks2/a.png", b"")
    assert not any_out.holds("masks")
    any_out.write("masks/x/notes.txt", b"")
    assert any_out.holds("masks")
    assert not any_out.holds("overlays")


def test_a_folder_of_masks_that_cannot_be_listed_is_not_empty():
    class Locked(Files):
        def list(self, folder):
            yield Unlisted(f"{folder}/a", "PermissionError", "Permission denied")

    with pytest.raises(OSError, match=r"/out/masks/a: cannot be listed: Permission denied"):
        list(OutputFolder("/out", Locked()).existing(MASKS))


# JSON


def test_json(any_out):
    any_out.write_json("run.json", {"a": [1]})
    assert any_out.read_json("run.json") == {"a": [1]}
    assert any_out.read_json("nowhere.json") is None


def test_a_folder_is_no_json(tmp_path):
    assert OutputFolder(str(tmp_path.parent), FILES).read_json(tmp_path.name) is None


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"a": 1', DEEP])
def test_broken_json_reads_as_none(any_out, data):
    any_out.write("run.json", data)
    assert any_out.read_json("run.json") is None


def test_json_that_cannot_be_read_is_not_taken_for_missing(out):
    os.makedirs(out.path)
    os.symlink("run.json", f"{out.path}/run.json")
    with pytest.raises(OSError, match="symbolic links"):
        out.read_json("run.json")


def test_json_keeps_names_readable(out):
    out.write_json("summary.json", {"pixels": {"Straße": 1}})
    assert '"Straße": 1' in FILES.read(f"{out.path}/summary.json").decode()


def test_json_may_hold_a_path_that_is_not_utf_8(out):
    out.write_json("summary.json", {"options": {"root": os.fsdecode(b"/in\xff")}})
    summary = json.loads(FILES.read(f"{out.path}/summary.json"))
    assert summary["options"]["root"] == "/in\udcff"


@given(st.text())
def test_any_text_comes_back_from_json(text):
    assert json.loads(utf8(json.dumps(text, ensure_ascii=False))) == text
