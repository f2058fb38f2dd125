import dataclasses
import errno
import json
import os

import pytest

from model_build.common.errors import JobError, UserError
from pipeline.outputs import run_json as module
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.run_json import (
    EarlierRuns,
    Recipe,
    check_claim,
    check_recipe,
    claim,
    make_folder,
    read_earlier_runs,
    unrecorded,
)
from pipeline.storage import Files
from pipeline.storage.faults import BadName, Unauthenticated, Unavailable

FILES = Files()
RECIPE = Recipe("f00d" * 8, 512, "graph", "float32", 1)
OTHER = dataclasses.replace(RECIPE, long_side=64)
SHARDS = ("histograms-r0-00000-of-00001.jsonl", "rejected-r0-00000-of-00001.jsonl")
VERSIONS = {"python": "3"}
DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path, memory):
    path = f"{tmp_path}/out" if request.param == "disk" else "memory://b/out"
    FILES.make_folder(path)
    return OutputFolder(path, FILES, run="r1")


def agree(out, noted, *, recipe=RECIPE, root="/photos", overwrite=False, moved=False):
    check_recipe(out, noted, recipe, root, overwrite, moved)


# What is noted


def test_a_fresh_folder_tells_nothing_and_is_left_alone(tmp_path, memory):
    for path in (f"{tmp_path}/out", "memory://b/out"):
        out = OutputFolder(path, FILES)
        assert read_earlier_runs(out) == EarlierRuns()
        assert unrecorded(out) is None
    assert (list(tmp_path.iterdir()), memory.store) == ([], {})


def test_a_claim_is_noted(out):
    claim(out, RECIPE, "/photos", SHARDS, VERSIONS)
    assert [file.path for file in out.files.list(out.path)] == [f"{out.path}/run.json"]
    assert read_earlier_runs(out) == EarlierRuns(RECIPE, "/photos", SHARDS)
    run = out.read_json("run.json")
    assert (run["run"], run["recipe_id"], run["versions"]) == ("r1", RECIPE.id, VERSIONS)


def test_a_second_claim_replaces_the_first(out):
    claim(out, RECIPE, "/photos", SHARDS, VERSIONS)
    claim(out, OTHER, "/moved", (), VERSIONS)
    assert read_earlier_runs(out) == EarlierRuns(OTHER, "/moved", ())


def test_a_claim_takes_the_summary_away_and_its_shards_are_still_known(out):
    out.write_json("summary.json", {"masks": 3, "shards": list(SHARDS)})
    claim(out, RECIPE, "/photos", (), VERSIONS)
    out.write_json("summary.json", {"masks": 3, "shards": list(SHARDS)})
    before = read_earlier_runs(out)
    assert before.shards == SHARDS
    claim(out, RECIPE, "/photos", before.shards, VERSIONS)
    assert not FILES.exists(f"{out.path}/summary.json")
    assert read_earlier_runs(out) == before


def test_only_shards_that_a_summary_names_are_trusted(out):
    claim(out, RECIPE, "/photos", ("histograms-old.jsonl",), VERSIONS)
    out.write("histograms-r9-00000-of-00001.jsonl", b"")
    assert read_earlier_runs(out).shards == ("histograms-old.jsonl",)
    out.write_json("summary.json", {"shards": list(SHARDS)})
    assert read_earlier_runs(out).shards == SHARDS
    out.write_json("summary.json", {"masks": 3})
    assert read_earlier_runs(out).shards == ()
    out.write_json(
        "summary.json", {"shards": [SHARDS[0], 3, None, "../x", "histograms-\udcff", ""]}
    )
    assert read_earlier_runs(out).shards == SHARDS[:1]


def test_a_summary_of_another_form_is_as_none(out):
    claim(out, RECIPE, "/photos", SHARDS, VERSIONS)
    for content in (b"", b"{", b"[]", b"3", b'{"shards": 3}', b'{"shards": "x"}', DEEP, b"\xff"):
        out.write("summary.json", content)
        assert read_earlier_runs(out).shards == SHARDS


def test_rows_are_in_shards_those_of_rejects_too_and_in_the_journal(out):
    for name in ("r1.a.jsonl", "r2.b.jsonl"):
        out.write(f"journal/{name}", b"")
    noted = EarlierRuns(RECIPE, "/photos", SHARDS)
    assert noted.rows(out) == [*SHARDS, "journal/r1.a.jsonl", "journal/r2.b.jsonl"]


@pytest.mark.parametrize(
    "change",
    [{"recipe": None}, {"recipe": {"model": "m"}}, {"recipe": []}, {"shards": 3}]
    + [{"recipe": RECIPE.to_json() | {"engine": []}}]
    + [{"root": 3}, {"root": None}, {"shards": "x"}, {"format": "2"}],
)
def test_a_note_of_another_form_is_refused_with_the_remedy(out, change):
    claim(out, RECIPE, "/photos", SHARDS, VERSIONS)
    out.write_json("run.json", out.read_json("run.json") | change)
    with pytest.raises(UserError, match=r"run\.json: is damaged; .*--overwrite"):
        read_earlier_runs(out)


@pytest.mark.parametrize("missing", ["recipe", "root"])
def test_a_note_that_lacks_something_is_refused(out, missing):
    claim(out, RECIPE, "/photos", SHARDS, VERSIONS)
    run = out.read_json("run.json")
    del run[missing]
    out.write_json("run.json", run)
    with pytest.raises(UserError, match="is damaged"):
        read_earlier_runs(out)


def test_a_folder_that_cannot_be_looked_at_ends_the_job(tmp_path):
    os.symlink("run.json", tmp_path / "run.json")  # not missing: nobody can tell what it holds
    with pytest.raises(
        JobError, match=r"run\.json: .*symbolic links: cannot read the output folder"
    ):
        read_earlier_runs(OutputFolder(str(tmp_path), FILES))


# Another kind of mask


def test_the_same_recipe_and_root_go_on(out):
    out.write("masks/a.png", b"")
    for overwrite in (False, True):
        agree(out, EarlierRuns(RECIPE, "/photos"), overwrite=overwrite)


def test_another_recipe_is_refused_and_the_difference_named(out):
    noted = EarlierRuns(RECIPE, "/photos")
    with pytest.raises(UserError, match="made with long side 512, not 64; add --overwrite"):
        agree(out, noted, recipe=OTHER)
    with pytest.raises(UserError, match="made with long side"):
        agree(out, noted, recipe=OTHER, moved=True)
    agree(out, noted, recipe=OTHER, overwrite=True)


def test_another_root_is_refused_unless_the_archive_has_moved(out):
    noted = EarlierRuns(RECIPE, "/photos")
    pattern = "images in /photos, not /elsewhere; .*add --moved"
    with pytest.raises(UserError, match=pattern):
        agree(out, noted, root="/elsewhere")
    with pytest.raises(UserError, match=pattern):
        agree(out, noted, root="/elsewhere", overwrite=True)
    agree(out, noted, root="/elsewhere", moved=True)


@pytest.mark.parametrize(
    "run",
    [None, b"", b"\0\0", b'{"options": {"model": "f00"}, "started": 12.5}', b'{"format": 1}'],
)
def test_masks_that_no_run_of_this_version_has_noted_are_found(out, run):
    out.write("masks/x/notes.txt", b"")
    if run is not None:
        out.write("run.json", run)
    assert read_earlier_runs(out) == EarlierRuns()
    assert unrecorded(out) == "masks"


@pytest.mark.parametrize(
    "change",
    [{"format": module.FORMAT + 1}, {"recipe": RECIPE.to_json() | {"smoothing": None}}]
    + [{"format": module.FORMAT + 1, "recipe": [{"smoothing": 1}]}],
)
def test_a_run_of_a_newer_version_is_not_taken_for_an_old_one(out, change):
    claim(out, RECIPE, "/photos", SHARDS, VERSIONS)
    out.write_json("run.json", out.read_json("run.json") | change)
    with pytest.raises(UserError, match=r"run\.json: was written by a newer version .*; update it"):
        read_earlier_runs(out)


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
@pytest.mark.parametrize("data", [b"{}", b'{"lr": 0.1}', b"[1]", b"notes", b"3", b"\xff", DEEP])
def test_a_file_of_somebody_elses_is_not_replaced(out, name, data):
    out.write(name, data)
    with pytest.raises(UserError, match=f"{name}: was not written by fcn-beam.*another --output"):
        read_earlier_runs(out)


def test_an_empty_file_is_nobodys_loss(out):
    for name in ("run.json", "summary.json"):
        out.write(name, b"")
    assert read_earlier_runs(out) == EarlierRuns()


def test_a_summary_of_ours_without_its_run_file_is_no_obstacle(out):
    out.write_json("summary.json", {"masks": 3, "shards": list(SHARDS)})
    assert read_earlier_runs(out) == EarlierRuns()


def test_overlays_that_no_run_has_noted_are_found(out):
    out.write("overlays/a.jpg", b"a drawing of somebody's")
    assert unrecorded(out) == "overlays"


def test_a_folder_where_a_file_belongs_is_told(tmp_path):
    for name in ("run.json", "summary.json"):
        os.makedirs(tmp_path / name / name)
        with pytest.raises(UserError, match=f"{name}: Is a directory; move it away, or choose"):
            read_earlier_runs(OutputFolder(str(tmp_path / name), FILES))


@pytest.mark.parametrize("name", ["masks", "overlays", ".unfinished", "journal", "lock"])
def test_a_file_where_a_folder_belongs_is_told(tmp_path, touch, name):
    touch(tmp_path, name)
    with pytest.raises(UserError, match=f"{name}: not a folder; move it away, or choose another"):
        read_earlier_runs(OutputFolder(str(tmp_path), FILES))
    os.unlink(tmp_path / name)
    os.symlink("nowhere", tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: not a folder"):
        read_earlier_runs(OutputFolder(str(tmp_path), FILES))


def test_the_files_of_a_finished_run_are_no_obstacles(tmp_path, touch):
    touch(
        tmp_path,
        "run.json",
        "summary.json",
        "histograms-00000-of-00001.jsonl",
        "staged/input-0.txt",
    )
    assert list(OutputFolder(str(tmp_path), FILES).obstacles()) == []


def test_a_folder_that_cannot_be_listed_is_told_at_once(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(
        JobError, match=f"{tmp_path}: Permission denied: cannot read the output folder"
    ):
        read_earlier_runs(OutputFolder(str(tmp_path), FILES))


def test_a_run_file_of_another_version_beside_no_masks_is_replaced(out):
    out.write("run.json", b'{"options": {}, "started": 1}')
    assert (read_earlier_runs(out), unrecorded(out)) == (EarlierRuns(), None)
    claim(out, RECIPE, "/photos", (), VERSIONS)
    assert read_earlier_runs(out) == EarlierRuns(RECIPE, "/photos", ())


def test_masks_of_a_neighbouring_folder_are_no_obstacle(out):
    OutputFolder(f"{out.path}2", out.files).write("masks/a.png", b"")
    assert (read_earlier_runs(out), unrecorded(out)) == (EarlierRuns(), None)


def test_fields_beside_the_recipe_may_be_added(out):
    claim(out, RECIPE, "/photos", SHARDS, VERSIONS)
    out.write_json("run.json", out.read_json("run.json") | {"new": 1})
    assert read_earlier_runs(out) == EarlierRuns(RECIPE, "/photos", SHARDS)


# Another run's claim


def test_a_run_ends_once_another_has_claimed_its_folder(out):
    check_claim(out)
    claim(out, RECIPE, "/photos", (), VERSIONS)
    check_claim(out)
    claim(dataclasses.replace(out, run="r2"), RECIPE, "/photos", (), VERSIONS)
    message = f"{out.path}: another job has taken over this output folder; let that one finish"
    with pytest.raises(JobError, match=message):
        check_claim(out)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", DEEP])
def test_a_damaged_run_file_is_no_other_runs_claim(out, data):
    out.write("run.json", data)
    check_claim(out)


def test_a_claim_that_cannot_be_read_ends_the_run(tmp_path):
    os.symlink("run.json", tmp_path / "run.json")
    with pytest.raises(JobError, match="symbolic links"):
        check_claim(OutputFolder(str(tmp_path), FILES, run="r1"))


# OUT that cannot be written


def test_preparing_makes_a_folder_of_local_disk_alone(tmp_path, memory):
    make_folder(f"{tmp_path}/a/b/out", FILES)
    make_folder(f"{tmp_path}/a/b/out", FILES)
    assert os.path.isdir(f"{tmp_path}/a/b/out")
    make_folder("memory://b/out", FILES)
    assert memory.store == {}


@pytest.mark.parametrize("name", ["file/out", "file", "a" * 256, "x/" + "a" * 256])
def test_a_name_that_cannot_be_a_folders_is_the_users_error(tmp_path, touch, name):
    touch(tmp_path, "file")
    with pytest.raises(UserError, match=r"cannot be written: .*choose another --output"):
        make_folder(f"{tmp_path}/{name}", FILES)


def test_a_bucket_that_is_not_there_is_the_users_error(bucket):
    out = OutputFolder(f"{bucket}nowhere/out", FILES, run="r1")
    with pytest.raises(UserError, match=r"no such object or bucket; choose another --output"):
        claim(out, RECIPE, "/photos", (), VERSIONS)


@pytest.mark.parametrize(
    ("error", "kind", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/o/x"), JobError, "free some space"),
        (OSError(errno.EROFS, "Read-only file system", "/o/x"), JobError, "make the disk writable"),
        (PermissionError(errno.EACCES, "Permission denied"), JobError, "check the permissions"),
        (Unauthenticated("s3://b/x: no"), JobError, "renew the credentials"),
        (Unavailable("s3://b/x: no answer"), JobError, "check the network"),
        (OSError(errno.EIO, "Input/output error", "/o/x"), JobError, "check the disk or store"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), UserError, "choose another"),
        (FileNotFoundError("s3://b: no such bucket"), UserError, "choose another"),
        (FileExistsError(errno.EEXIST, "File exists"), UserError, "choose another"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), UserError, "choose another"),
        (BadName("contains ?versionId="), UserError, "choose another"),
    ],
)
def test_what_keeps_a_claim_from_being_written_is_told_with_the_remedy(error, kind, remedy):
    with (
        pytest.raises(kind, match=f"^/o: cannot be written: .*; {remedy}"),
        module.explaining_writes("/o"),
    ):
        raise error


def test_a_claim_of_a_folder_that_is_removed_is_told(out, tmp_path):
    gone = OutputFolder(f"{tmp_path}/gone", FILES, run="r1")
    with pytest.raises(UserError, match="gone: has been removed"):
        claim(gone, RECIPE, "/photos", (), VERSIONS)


def test_a_claim_can_be_read_by_people(out):
    claim(out, RECIPE, "/photos/Straße", SHARDS, VERSIONS)
    text = FILES.read(f"{out.path}/run.json").decode()
    assert '"root": "/photos/Straße"' in text
    assert json.loads(text)["format"] == module.FORMAT
