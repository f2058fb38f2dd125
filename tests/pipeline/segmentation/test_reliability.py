"""Only what is missing is done, whatever happens to an archive or its masks between two runs."""

import contextlib
import datetime
import functools
import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations import memory as memory_store
from PIL import Image

from model_build.common.errors import JobError, UserError
from model_build.data.labels import VOC
from pipeline.images.decode import MAX_PIXELS, DecodeOptions
from pipeline.outputs import journal
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.products import MASKS
from pipeline.records import ImageRef, Photo, Row, Stamp, Task
from pipeline.segmentation import up_to_date
from pipeline.segmentation.tasks import KeepMasks
from pipeline.segmentation.up_to_date import KeepOptions
from pipeline.segmentation.windows import WriteOptions, WriteWindow, read_windows
from pipeline.storage import Files
from pipeline.storage.stores.memory import Memory
from tests.pipeline.segmentation import reliability
from tests.pipeline.segmentation.reliability import (
    Countdown,
    Job,
    StubSegmenter,
    assert_complete,
    masks,
    rows,
    stub_network,
    summary,
    versions,
)

COUNT = 6
HOUR = 3600


@pytest.fixture
def archive(tmp_path):
    """A folder of photos whose files have equal sizes."""
    rng = np.random.default_rng(5)
    for index in range(COUNT):
        path = tmp_path / "in" / "ab"[index % 2] / f"{index}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


@pytest.fixture
def inferred(monkeypatch):
    """How many images the network has seen, as a list of that length."""
    seen = []

    class Watched(StubSegmenter):
        def __call__(self, images):
            seen.extend(images)
            return super().__call__(images)

    def watch():
        monkeypatch.setattr("pipeline.network.segmenter.Segmenter", Watched)
        return seen

    return watch


def rewritten(before, after):
    """Names of the masks that have been written since."""
    return {Path(path).name for path, version in after.items() if before.get(path) != version}


def another(photo):
    """Writes another picture over a photo, in a file of the same size."""
    size = photo.stat().st_size
    Image.new("RGB", (30, 20), "red").save(photo)
    assert photo.stat().st_size == size


# What is listed


@pytest.mark.slow
def test_what_several_inputs_list_is_one_image_and_a_pipe_is_a_reject(
    stub_job, archive, out, tmp_path
):
    (archive / "a/notes.txt").write_text("no image")
    os.mkfifo(tmp_path / "pipe.bmp")  # reading it would wait for ever
    lines = [archive / "a/0.bmp", f"/{archive}/a/0.bmp", tmp_path / "pipe.bmp", archive / "b/1.bmp"]
    (tmp_path / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    inputs = [str(archive), f"{archive}/a", f"@{tmp_path}/list.txt", str(archive)]
    found = stub_job(archive, out, inputs=inputs)
    assert (found.images, found.masks, found.skipped) == (COUNT + 1, COUNT, 1)
    assert found.causes == {"read: NotRegular": 1}
    (reject,) = rows(out, "rejected")
    assert reject["image"] == f"{tmp_path}/pipe.bmp"
    assert "is a pipe, socket or device" in reject["detail"]
    assert stub_job(archive, f"{out}2", inputs=inputs, limit=5).images == 5


@pytest.mark.slow
def test_keys_that_differ_in_a_slash_are_two_images(stub_job, archive, tmp_path, memory):
    picture = (archive / "a/0.bmp").read_bytes()
    keys = ["memory://b/a.bmp", "memory://b//a.bmp"]
    for key in keys:
        Files().write(key, picture)
    (tmp_path / "list.txt").write_text("".join(f"{key}\n" for key in keys))
    for index, where in enumerate(("memory://b", f"@{tmp_path}/list.txt")):
        out = f"{tmp_path}/out{index}"
        found = stub_job(where, out)
        assert (found.masks, found.causes) == (1, {"list: BadName": 1})
        assert [row["image"] for row in rows(out)] == keys[:1]


# Nothing has changed


@pytest.fixture
def reading_nothing(archive, out, monkeypatch):
    """A context in which masks and photos cannot be read."""
    read = Files.read

    def refuse(self, path, limit=-1):
        assert not path.startswith((str(archive), f"{out}/masks")), f"{path} is read"
        return read(self, path, limit)

    def refuse_decoding(*arguments):
        raise AssertionError("a mask is decoded")

    @contextlib.contextmanager
    def context():
        with monkeypatch.context() as patch:
            patch.setattr(Files, "read", refuse)
            patch.setattr(up_to_date, "find_traces", refuse_decoding)
            patch.setattr(up_to_date, "read_mask", refuse_decoding)
            yield

    return context


def test_a_second_run_decodes_no_mask_and_reads_no_photo(stub_job, archive, out, reading_nothing):
    stub_job(archive, out)
    expected, before = masks(out), versions(out)
    with reading_nothing():
        found = stub_job(archive, out)
    assert (found.masks, found.kept) == (COUNT, COUNT)
    assert f"{COUNT} kept" in found.table()
    assert versions(out) == before
    assert_complete(out, expected)


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [-HOUR, HOUR])
def test_a_store_whose_clock_is_an_hour_off(stub_job, archive, monkeypatch, memory, ahead):
    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + datetime.timedelta(seconds=ahead)

    where, out = "memory://bucket/in", "memory://bucket/out"
    reliability.upload(archive, where)
    stub_job(where, out)
    before = versions(out)
    monkeypatch.setattr(memory_store, "datetime", Shifted)
    assert stub_job(where, out).kept == COUNT
    another(archive / "a/0.bmp")
    Files().write(f"{where}/a/0.bmp", (archive / "a/0.bmp").read_bytes())
    found = stub_job(where, out)
    assert (found.masks, found.kept) == (COUNT, COUNT - 1)
    assert rewritten(before, versions(out)) == {"0.png"}
    assert stub_job(where, out).kept == COUNT


# Masks that were changed


@pytest.mark.slow
def test_a_mask_removed_by_hand_is_made_again(stub_job, archive, out):
    stub_job(archive, out)
    expected, before = masks(out), versions(out)
    os.unlink(f"{out}/masks/a/2.png")
    found = stub_job(archive, out)
    assert (found.masks, found.kept) == (COUNT, COUNT - 1)
    assert rewritten(before, versions(out)) == {"2.png"}
    assert_complete(out, expected)


@pytest.mark.slow
def test_a_mask_cut_short_is_made_again(stub_job, archive, out):
    stub_job(archive, out)
    expected, before = masks(out), versions(out)
    os.truncate(f"{out}/masks/a/2.png", len(expected["a/2.png"]) // 2)
    found = stub_job(archive, out)
    assert (found.masks, found.kept) == (COUNT, COUNT - 1)
    assert rewritten(before, versions(out)) == {"2.png"}
    assert_complete(out, expected)


@pytest.mark.slow
def test_damage_that_size_and_time_do_not_tell_is_found_with_verify(stub_job, archive, out):
    stub_job(archive, out)
    expected, before = masks(out), versions(out)
    for name, damage in (("a/2.png", b"\0" * 40), ("b/3.png", b"")):
        path = Path(f"{out}/masks/{name}")
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        data = expected[name]
        # One is no PNG any more; the other holds the mask of another photo, as large a file.
        data = data[: -len(damage)] + damage if damage else expected["b/5.png"]
        path.write_bytes(data.ljust(len(expected[name]), b"\0")[: len(expected[name])])
        os.utime(path, ns=times)
    assert stub_job(archive, out).kept == COUNT, "nothing tells, and nothing was asked"
    assert masks(out) != expected
    found = stub_job(archive, out, verify=True)
    assert (found.masks, found.kept) == (COUNT, COUNT - 2)
    assert rewritten(before, versions(out)) == {"2.png", "3.png"}
    assert_complete(out, expected)
    assert stub_job(archive, out, verify=True).kept == COUNT


@pytest.mark.slow
def test_a_mask_edited_by_hand_is_kept_and_counted_until_edits_are_discarded(
    stub_job, archive, out
):
    stub_job(archive, out)
    expected = masks(out)
    path = Path(f"{out}/masks/a/2.png")
    edited = np.asarray(Image.open(path)).copy()
    edited[:5] = 15
    image = Image.fromarray(edited)
    image.putpalette(VOC.palette)
    image.save(path)
    kept = path.read_bytes()
    for _ in range(2):  # read once, known by its row then
        found = stub_job(archive, out)
        assert (found.kept, found.edited) == (COUNT, 1)
        assert "edited by hand" in found.table()
        assert path.read_bytes() == kept
        (row,) = [row for row in rows(out) if row["mask"] == "masks/a/2.png"]
        assert row["recipe"] is None
        assert row["pixels"]["person"] >= 5 * 30
    assert stub_job(archive, out, overwrite=True).edited == 1
    assert path.read_bytes() == kept
    found = stub_job(archive, out, discard_edits=True)
    assert (found.kept, found.edited) == (COUNT - 1, 0)
    assert_complete(out, expected)


# Photos that were changed


@pytest.mark.slow
def test_a_photo_of_equal_size_whose_time_was_moved_back_is_done_again(stub_job, archive, out):
    stub_job(archive, out)
    expected, before = masks(out), versions(out)
    photo = archive / "a/2.bmp"
    another(photo)
    os.utime(photo, (1, 1))
    found = stub_job(archive, out)
    assert (found.masks, found.kept) == (COUNT, COUNT - 1)
    assert rewritten(before, versions(out)) == {"2.png"}
    assert masks(out)["a/2.png"] != expected["a/2.png"]
    assert_complete(out, masks(out))


@pytest.mark.slow
def test_a_photo_touched_but_equal_has_its_row_renewed(
    stub_job, archive, out, inferred, reading_nothing
):
    stub_job(archive, out)
    expected, before = masks(out), versions(out)
    seen = inferred()
    photo = archive / "a/2.bmp"
    os.utime(photo, (2_000_000_000,) * 2)
    found = stub_job(archive, out)
    assert (found.kept, len(seen)) == (COUNT, 0)
    (row,) = [row for row in rows(out) if row["image"] == str(photo)]
    assert row["versions"]["image"]["version"] == f"2000000000{'0' * 9}"
    with reading_nothing():  # what was read once is known by its row
        assert stub_job(archive, out).kept == COUNT
    assert versions(out) == before
    assert_complete(out, expected)


@pytest.mark.slow
def test_the_mask_of_a_photo_that_is_gone_stays_and_its_row_goes(stub_job, archive, out):
    stub_job(archive, out)
    expected = masks(out)
    (archive / "a/2.bmp").unlink()
    found = stub_job(archive, out)
    assert (found.images, found.kept, found.outside) == (COUNT - 1, COUNT - 1, 1)
    assert "outside INPUT" in found.table()
    assert masks(out) == expected
    assert len(rows(out)) == COUNT - 1
    assert not any(row["mask"] == "masks/a/2.png" for row in rows(out))


@pytest.mark.slow
def test_a_limit_narrowed_and_widened_again_makes_nothing_twice(stub_job, archive, out, inferred):
    stub_job(archive, out)
    expected, before = masks(out), versions(out)
    seen = inferred()
    narrow = stub_job(archive, out, limit=2)
    assert (narrow.images, narrow.kept, narrow.outside) == (2, 2, COUNT - 2)
    assert len(rows(out)) == 2
    wide = stub_job(archive, out)
    assert (wide.images, wide.kept, wide.outside) == (COUNT, COUNT, 0)
    assert (versions(out), len(seen)) == (before, 0)
    assert_complete(out, expected)


# Models that were changed


def die_after_mask(number):
    """Kills the process when just so many masks stand; threads write them one by one meanwhile."""
    masks_written, one_by_one = Countdown(number, reliability.die), threading.Lock()
    write = OutputFolder.write

    def count(self, name, data):
        if not name.startswith("masks/"):
            return write(self, name, data)
        with one_by_one:
            stamp = write(self, name, data)
            masks_written.hit()
        return stamp

    OutputFolder.write = count


@pytest.mark.slow
def test_a_model_tried_half_way_and_given_up_leaves_every_mask_the_first_ones(
    stub_job, stub_model, archive, out, tmp_path
):
    one, two = stub_model("1" * 64), stub_model("2" * 64)
    stub_job(archive, out, model=one)
    expected = masks(out)
    command = ["segment", str(archive), "--output", out, "--model", two]
    refused = Job(command, tmp_path / "log")
    assert refused.wait() == 2
    assert "model 111111111111, not 222222222222" in refused.errors
    assert "--overwrite" in refused.errors
    assert masks(out) == expected
    prepare = [stub_network, functools.partial(die_after_mask, COUNT // 2)]
    killed = Job([*command, "--overwrite"], tmp_path / "log", prepare)
    assert killed.wait() == -signal.SIGKILL
    mixed = masks(out)
    assert sum(mixed[name] != expected[name] for name in expected) == COUNT // 2
    with pytest.raises(UserError, match=r"model 222222222222, not 111111111111.*--overwrite"):
        stub_job(archive, out, model=one)
    assert masks(out) == mixed
    found = stub_job(archive, out, model=one, overwrite=True)
    assert found.kept == sum(mixed[name] == expected[name] for name in expected)
    assert_complete(out, expected)


@pytest.mark.slow
def test_overwriting_again_with_the_same_model_goes_on(stub_job, stub_model, archive, out):
    stub_job(archive, out, model=stub_model("1" * 64))
    two = stub_model("2" * 64)
    first = stub_job(archive, out, model=two, overwrite=True)
    before = versions(out)
    second = stub_job(archive, out, model=two, overwrite=True)
    assert (first.kept, second.kept) == (0, COUNT)
    assert versions(out) == before


BEFORE = {"options": {"model": "tiny", "since": 1700000000.0}, "started": 1700000000.0}


@pytest.mark.slow
@pytest.mark.parametrize("noted", [BEFORE, None])
def test_an_output_folder_of_the_version_before_is_refused_and_not_misread(
    stub_job, archive, out, noted
):
    stub_job(archive, out)
    expected = masks(out)
    for name in os.listdir(out):
        if name.endswith((".json", ".jsonl")):
            os.unlink(f"{out}/{name}")
    for name in expected:  # masks that do not tell what they are
        path = f"{out}/masks/{name}"
        with Image.open(path) as image:
            image.save(path)
    if noted is not None:
        Path(f"{out}/run.json").write_text(json.dumps(noted))
    old = reliability.contents(out)
    for options in ({}, {"overwrite": True}, {"overwrite": True, "discard_edits": True}):
        with pytest.raises(UserError, match=r"how they were made; choose another --output$"):
            stub_job(archive, out, **options)
    assert reliability.contents(out) == old


@pytest.mark.slow
def test_an_output_folder_whose_notes_were_lost_keeps_what_runs_have_made(stub_job, archive, out):
    stub_job(archive, out)
    expected, before = masks(out), versions(out)
    for name in os.listdir(out):
        if name.endswith((".json", ".jsonl")):
            os.unlink(f"{out}/{name}")
    with pytest.raises(UserError, match="choose another --output, or add --overwrite to keep"):
        stub_job(archive, out)
    assert stub_job(archive, out, overwrite=True).kept == COUNT
    assert versions(out) == before
    assert_complete(out, expected)


# Work that is done twice


def bundle(do_fn, elements):
    """Returns the outputs of a DoFn for a bundle."""
    do_fn.start_bundle()
    found = [output for element in elements for output in do_fn.process(element)]
    do_fn.finish_bundle()
    return found


@pytest.fixture
def claimed(archive, out):
    """An output folder that a run has claimed, and a window of all photos."""
    folder = OutputFolder(out, Files(), run="run-of-this-test")
    os.makedirs(out)
    tasks = [
        Task(ImageRef(file.path, name, Stamp(file.size, file.version)), f"{name[:-4]}.png")
        for file in Files().list(str(archive))
        for name in [file.path[len(str(archive)) + 1 :]]
    ]
    (window,) = read_windows(tasks, DecodeOptions(None, MAX_PIXELS), Files())
    class_maps = tuple(np.zeros(photo.pixels.shape[:2], np.uint8) for photo in window.photos)
    assert all(isinstance(photo, Photo) for photo in window.photos)
    return folder, window._replace(class_maps=class_maps)


def journal_rows(folder):
    found = {}
    for name in journal.journals(folder):
        for row in journal.read_rows(folder.files.read(f"{folder.path}/{name}")):
            found.setdefault(row.mask, []).append(row)
    return found


def test_a_bundle_that_is_retried_after_its_masks_were_written_does_no_harm(claimed):
    folder, window = claimed
    options = WriteOptions(VOC, "r" * 32, folder)
    lost = WriteWindow(options)
    lost.start_bundle()
    list(lost.process(window))  # and it ends before its bundle does
    first = masks(folder.path)
    found = bundle(WriteWindow(options), [window])
    again = bundle(WriteWindow(options), [window])
    assert masks(folder.path) == first
    assert len(first) == COUNT
    assert all(isinstance(row, Row) for row in found + again)
    assert [row._replace(written=Stamp()) for row in found] == [
        row._replace(written=Stamp()) for row in again
    ]
    # Of several rows of a mask the one that tells of it as it stands is taken.
    stand = {mask.mask_name: mask.stamp for mask in folder.existing(MASKS)}
    by_mask = journal_rows(folder)
    assert len(by_mask) == COUNT
    for row in again:
        task = next(task for task in window.tasks if task.image.path == row.image)
        stamp = stand[task.mask_name]
        assert len(by_mask[row.mask]) == 2
        assert up_to_date.row_of_mask(by_mask[row.mask], row.image, stamp, task.image.stamp) == row


def test_a_bundle_of_kept_masks_that_is_retried_yields_the_same_rows(claimed):
    folder, window = claimed
    made = bundle(WriteWindow(WriteOptions(VOC, "r" * 32, folder)), [window])
    stand = {mask.mask_name: mask.stamp for mask in folder.existing(MASKS)}
    tasks = [task._replace(mask=stand[task.mask_name]) for task in window.tasks]  # without rows
    options = KeepOptions("r" * 32, VOC)
    lost = KeepMasks(options, folder)
    lost.start_bundle()
    list(lost.process(tasks))
    found, again = (bundle(KeepMasks(options, folder), [tasks]) for _ in range(2))
    assert [output.tag for output in found] == ["rows"] * COUNT
    assert [output.value for output in found] == [output.value for output in again] == made


@pytest.mark.slow
def test_a_job_whose_masks_were_written_when_its_step_failed_makes_none_of_them_again(
    stub_job, archive, out, tmp_path, monkeypatch
):
    stub_job(archive, f"{tmp_path}/undisturbed")

    process = WriteWindow.process

    def fail_after_writing(self, window):
        list(process(self, window))
        raise RuntimeError("after writing")

    # Not the class itself: it would be pickled by value, and be another one for good.
    with monkeypatch.context() as patch:
        patch.setattr(WriteWindow, "process", fail_after_writing)
        with pytest.raises(JobError, match="RuntimeError: after writing"):
            stub_job(archive, out)
    before = versions(out)
    assert len(before) == COUNT
    found = stub_job(archive, out)
    assert (found.masks, found.kept) == (COUNT, COUNT)
    assert versions(out) == before
    assert_complete(out, masks(f"{tmp_path}/undisturbed"))


# A store that cannot be read for a moment


@pytest.mark.slow
def test_masks_that_cannot_be_read_just_now_are_not_undone(
    stub_job, archive, memory, monkeypatch, inferred
):
    where, out = "memory://bucket/in", "memory://bucket/out"
    reliability.upload(archive, where)
    stub_job(where, out)
    expected, before = masks(out), versions(out)
    seen = inferred()
    cat_file = memory_store.MemoryFileSystem.cat_file

    def refuse(self, path, *arguments, **options):
        if "/out/masks/" in path:
            raise PermissionError(f"{path}: not now")
        return cat_file(self, path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(memory_store.MemoryFileSystem, "cat_file", refuse)
        with pytest.raises(JobError, match="run the same command again") as raised:
            stub_job(where, out, verify=True)
    assert "permission" in str(raised.value)
    assert (masks(out), versions(out), len(seen)) == (expected, before, 0)
    assert stub_job(where, out, verify=True).kept == COUNT
    assert (versions(out), len(seen)) == (before, 0)
    assert_complete(out, expected)


@pytest.mark.slow
def test_masks_that_cannot_be_listed_just_now_are_not_undone(
    stub_job, archive, memory, monkeypatch, inferred
):
    where, out = "memory://bucket/in", "memory://bucket/out"
    reliability.upload(archive, where)
    stub_job(where, out)
    expected, before = masks(out), versions(out)
    seen = inferred()
    page = Memory.page

    def refuse(self, bucket, prefix, *arguments):
        if prefix == "out/masks/":
            raise PermissionError("not now")
        return page(self, bucket, prefix, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Memory, "page", refuse)
        with pytest.raises(JobError, match="permission"):
            stub_job(where, out)
    assert (masks(out), versions(out), len(seen)) == (expected, before, 0)
    assert stub_job(where, out).kept == COUNT
    assert_complete(out, expected)


@pytest.mark.slow
def test_rows_that_cannot_be_read_just_now_are_not_taken_for_missing(
    stub_job, archive, memory, monkeypatch
):
    where, out = "memory://bucket/in", "memory://bucket/out"
    reliability.upload(archive, where)
    stub_job(where, out)
    names = summary(out)["shards"]
    cat_file = memory_store.MemoryFileSystem.cat_file

    def refuse(self, path, *arguments, **options):
        if path.endswith(tuple(names)):
            raise PermissionError(f"{path}: not now")
        return cat_file(self, path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(memory_store.MemoryFileSystem, "cat_file", refuse)
        with pytest.raises(JobError, match="permission"):
            stub_job(where, out)
    assert stub_job(where, out).kept == COUNT
