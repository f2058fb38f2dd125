"""Whole jobs into output folders that hold odd things, or lie on odd disks."""

import errno
import json
import os
import tempfile

import pytest

from model_build.common.errors import UserError
from pipeline.outputs.folder import OutputFolder
from pipeline.segmentation import dry_run, plan
from tests.pipeline.segmentation.reliability import (
    FILES,
    assert_complete,
    contents,
    masks,
    pictures,
)

COUNT = 8


@pytest.fixture
def archive(tmp_path):
    pictures(tmp_path / "in", COUNT)
    return tmp_path / "in"


@pytest.fixture
def expected(archive, stub_job, tmp_path):
    """The masks of a run into a folder of its own."""
    stub_job(archive, tmp_path / "undisturbed")
    return masks(f"{tmp_path}/undisturbed")


@pytest.fixture
def out(tmp_path):
    return f"{tmp_path}/out"


def shards(out):
    return {name for name in contents(out) if name.endswith(".jsonl")}


@pytest.mark.slow
def test_a_mask_whose_name_is_not_utf_8_is_outside_input(archive, out, stub_job, touch):
    stub_job(archive, out)
    touch(
        os.fsencode(out),
        b"masks/0/bad\xff.png",
        b"overlays/bad\xff.jpg",
        b"journal/bad\xff.x.jsonl",
    )
    summary = stub_job(archive, out, overlays=True)
    assert (summary.masks, summary.outside, summary.rejected) == (COUNT, 1, 0)
    assert os.path.exists(os.fsencode(out) + b"/masks/0/bad\xff.png")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["disk", "store"])
def test_photos_beside_folders_called_like_their_masks_get_masks_too(
    tmp_path, memory, stub_job, stub_model, place
):
    root = tmp_path if place == "disk" else "memory://bucket"
    (photo,) = contents(str(_one_photo(tmp_path / "photo"))).values()
    names = ["a.png", "a.jpg/b.png", "c.jpg", "c.png/d.jpg", "c.png/e/f.jpg", "c.png_/d.jpg"]
    for name in names:
        FILES.write(f"{root}/in/{name}", photo)
    out = f"{root}/out"
    lines = []
    request = plan.Request([f"{root}/in"], out, model=stub_model(), overlays=True)
    dry_run.dry_run(plan.plan(request), lines.append)
    expected = ["a.jpg/b.png", "a.png", "c.png", "c.png_/d.png", "c.png_/e/f.png", "c.png__/d.png"]
    foreseen = [line.partition(" -> masks/")[2].partition(":")[0] for line in lines[:-1]]
    assert sorted(foreseen) == expected
    summary = stub_job(f"{root}/in", out, overlays=True)
    assert (summary.masks, summary.rejected) == (len(names), 0)
    assert sorted(masks(out)) == expected
    overlays = ["a.jpg", "a.jpg_/b.jpg", "c.jpg", "c.png_/d.jpg", "c.png_/e/f.jpg", "c.png__/d.jpg"]
    assert sorted(contents(f"{out}/overlays")) == overlays
    again = stub_job(f"{root}/in", out, overlays=True)
    assert (again.kept, again.outside) == (len(names), 0)


def _one_photo(folder):
    pictures(folder, 1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("summary", ["kept", "deleted"])
def test_a_run_that_was_killed_between_its_summary_and_cleaning_up_leaves_nothing_for_good(
    archive, out, stub_job, expected, monkeypatch, summary
):
    stub_job(archive, out)
    first = contents(out)
    with monkeypatch.context() as patch:  # nothing is removed once the summary stands
        patch.setattr(OutputFolder, "delete", lambda self, name: None)
        patch.setattr(OutputFolder, "clean_up", lambda self, runs: None)
        stub_job(archive, out)
    assert {name for name in first if name.endswith(".jsonl")} < shards(out)
    if summary == "deleted":
        os.unlink(f"{out}/summary.json")
    stub_job(archive, out)
    assert_complete(out, expected)


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["before it had a lock", "and its lock was deleted"])
def test_what_a_run_without_a_lock_has_left_goes(archive, out, stub_job, expected, lock):
    stub_job(archive, out)
    run = "20200101T000000Z-abcdef"
    FILES.write(f"{out}/.unfinished/{run}/0123", b"")
    if lock == "and its lock was deleted":
        FILES.write(f"{out}/.unfinished/{run}/run", json.dumps({"run": run, "held": True}).encode())
        FILES.write(f"{out}/journal/{run}.0123.jsonl", b"")
        FILES.write(f"{out}/histograms-{run}-00000-of-00001.jsonl", b"")
    stub_job(archive, out)
    assert_complete(out, expected)


@pytest.mark.parametrize("name", ["run.json", "summary.json", "overlays/a.jpg"])
def test_files_of_somebody_elses_stay(archive, out, stub_job, name):
    FILES.write(f"{out}/{name}", b'{"mine": 1}')
    with pytest.raises(UserError, match="choose another --output"):
        stub_job(archive, out, overlays=True)
    assert contents(out) == {name: b'{"mine": 1}'}


@pytest.mark.slow
@pytest.mark.parametrize(
    "noise", [b"[" * 100_000, b"\xff\xfe", b'{"image": 1}', b'{"versions": null}']
)
def test_rows_that_cannot_be_understood_are_no_rows(archive, out, stub_job, expected, noise):
    summary = stub_job(archive, out)
    for name in [*summary.shards, "journal/20200101T000000Z-abcdef.0123.jsonl"]:
        FILES.write(f"{out}/{name}", noise + b"\n" + noise)
    assert stub_job(archive, out).kept == COUNT
    assert_complete(out, expected)


@pytest.mark.slow
def test_a_disk_without_hard_links(archive, out, stub_job, expected, monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted", source, None, target)

    monkeypatch.setattr(os, "link", refuse)
    stub_job(archive, out)
    assert_complete(out, expected)


@pytest.mark.slow
def test_masks_on_another_disk(archive, out, stub_job, expected):
    shared = "/dev/shm"
    if not os.access(shared, os.W_OK) or os.stat(shared).st_dev == os.stat(archive).st_dev:
        pytest.skip("no second disk")
    with tempfile.TemporaryDirectory(dir=shared) as elsewhere:
        os.mkdir(out)
        os.symlink(elsewhere, f"{out}/masks")
        stub_job(archive, out)
        assert stub_job(archive, out).kept == COUNT
        assert_complete(out, expected)
        assert sorted(os.listdir(elsewhere)) == ["0", "1", "2", "3"]
