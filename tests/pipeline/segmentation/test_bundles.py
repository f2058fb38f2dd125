"""Bundles that are given up at any moment and tried again, in this process."""

import pytest

from pipeline.outputs import shards
from pipeline.outputs.journal import JournalCounter, journals
from pipeline.outputs.shards import write_shard
from pipeline.outputs.summary import finish
from pipeline.segmentation import graph, windows
from pipeline.segmentation.windows import ReadWindows, WriteWindow
from tests.pipeline.segmentation import reliability

COUNT = 10
# It tries a bundle up to four times; what a failed attempt has yielded is dropped.
RETRYING = {"beam_options": ["--runner", "BundleBasedDirectRunner"], "shared_disk": True}
LOST = []  # the moments at which a worker was lost, each once
JOURNALLED = []  # when all is done: lines in the journal, and (masks, rejects) that it tells of


def lose(moment):
    if moment not in LOST:
        LOST.append(moment)
        raise RuntimeError(f"a worker is lost when {moment}")


class LosingReads(ReadWindows):
    def process(self, tasks):
        lose("nothing is read")
        yield from super().process(tasks)


class LosingWrites(WriteWindow):
    def process(self, window):
        outcomes = list(super().process(window))
        lose("masks are put")
        yield from outcomes
        lose("rows are yielded")

    def finish_bundle(self):
        super().finish_bundle()
        lose("rows are journalled")


def losing_shards(*arguments, **options):
    found = write_shard(*arguments, **options)
    lose("shards are written")
    return found


def losing_finish(content, out, *arguments):
    lines = b"".join(out.files.read(f"{out.path}/{name}") for name in journals(out)).splitlines()
    JOURNALLED.append((len(lines), JournalCounter(out)()))
    found = finish(content, out, *arguments)
    lose("the run has ended")
    return found


@pytest.mark.slow
def test_workers_may_be_lost_at_any_moment(stub_job, tmp_path, monkeypatch):
    reliability.small_steps(monkeypatch.setattr)
    reliability.pictures(tmp_path / "photos", COUNT)
    (tmp_path / "photos/bad.jpg").write_text("no image")
    photos, out = f"{tmp_path}/photos", f"{tmp_path}/out"
    stub_job(photos, f"{tmp_path}/undisturbed", precision="float32")  # as it is elsewhere
    expected = reliability.masks(f"{tmp_path}/undisturbed")

    monkeypatch.setattr(windows, "ReadWindows", LosingReads)
    monkeypatch.setattr(windows, "WriteWindow", LosingWrites)
    monkeypatch.setattr(shards, "write_shard", losing_shards)
    monkeypatch.setattr(graph, "finish", losing_finish)
    made = stub_job(photos, out, **RETRYING)
    assert LOST == [
        "nothing is read",
        "masks are put",
        "rows are yielded",
        "rows are journalled",
        "shards are written",
        "the run has ended",
    ]
    # Equal bytes stand, with a row each; what is counted are images, not attempts.
    reliability.assert_complete(out, expected, rejected=1)
    assert (made.images, made.masks, made.kept, made.rejected) == (COUNT + 1, COUNT, 0, 1)
    (lines, counted), *_ = JOURNALLED
    assert lines > COUNT + 1
    assert counted == (COUNT, 1)
