"""The graph as Beam runs it, and what ends a run."""

import json

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipeline import SegmentImages
from pipeline.jobs.graph import finish
from pipeline.jobs.segment import Request, segment
from pipeline.outputs.folder import OutputFolder
from pipeline.records import Reject
from pipeline.storage import Files

# Pixels


@pytest.fixture
def fused(monkeypatch):
    """The stages of the graphs that run: of each the names of its steps."""
    stages = []
    create_stages = FnApiRunner.create_stages

    def note(self, graph):
        context, found = create_stages(self, graph)
        stages.extend({step.unique_name for step in stage.transforms} for stage in found)
        return context, found

    monkeypatch.setattr(FnApiRunner, "create_stages", note)
    return stages


def stages_with(stages, *steps):
    """The numbers of all stages in which a step below one of these names runs."""
    return {
        number
        for number, names in enumerate(stages)
        if any(name.startswith(steps) for name in names)
    }


@pytest.mark.parametrize("options", [{}, {"overlays": True}, {"limit": 3}, {"workers": 2}])
def test_no_pixel_crosses_a_shuffle(fused, photos, tiny_model, tmp_path, options):
    options = {"workers": 1} | options
    segment(Request([str(photos)], f"{tmp_path}/out", tiny_model, **options))
    names = ("Window", "Keep", "Segment/Read", "Segment/Infer", "Segment/Write")
    steps = [f"SegmentArchive/{name}" for name in names]
    homes = [stages_with(fused, step) for step in steps]
    assert all(homes)
    # One stage runs all of it, and nothing of it runs in another.
    assert len(set.union(*homes)) == 1
    # What breaks fusion is before and after: files are read in another stage than they are listed.
    (home,) = homes[0]
    assert home not in stages_with(fused, "SegmentArchive/List", "SegmentArchive/Plan/KeyImages")
    assert home not in stages_with(fused, "SegmentArchive/Report/Finish")


def test_no_pixel_crosses_a_shuffle_in_the_pipelines_of_others(fused, photos, tiny_model, tmp_path):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        paths = pipeline | beam.Create(list(map(str, photos.glob("*/*.jpg"))))
        _ = paths | SegmentImages(tmp_path / "out", tiny_model)
    assert len(stages_with(fused, "SegmentImages/Segment", "SegmentImages/Window")) == 1


# The end of a run


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path, memory):
    where = tmp_path / "o[u]t*" if request.param == "disk" else "memory://bucket/o[u]t*"
    return OutputFolder(str(where), Files())


def names(out):
    return {file.path[len(out.path) + 1 :] for file in out.files.list(out.path)}


CURRENT = ("histograms-00000-of-00002.jsonl", "histograms-00001-of-00002.jsonl")
STALE = ("histograms-00000-of-00001.jsonl", "rejected-00002-of-00003.jsonl")
OTHERS = ("histograms-00000-of-00001.jsonl.bak", "histograms-mine.jsonl", "masks/a.png")
DEEPER = "masks/histograms-00000-of-00001.jsonl"


def test_finish_replaces_the_shards_of_earlier_runs_and_nothing_else(out):
    for name in (*CURRENT, *STALE, *OTHERS, DEEPER, "rejected-00000-of-00001.jsonl"):
        out.write(name, b"rows\n")
    shards = [*CURRENT, "rejected-00000-of-00001.jsonl"]
    assert finish({"images": 3}, out, shards) == {"images": 3}
    assert names(out) == {*shards, *OTHERS, DEEPER, "summary.json"}
    assert json.loads(out.files.read(f"{out.path}/summary.json")) == {"images": 3}


def test_the_summary_stands_before_any_shard_goes(out, monkeypatch):
    for name in (*CURRENT, *STALE):
        out.write(name, b"rows\n")
    delete = Files.delete

    def look(self, path):
        assert "summary.json" in names(out)
        delete(self, path)

    monkeypatch.setattr(Files, "delete", look)
    finish({}, out, list(CURRENT))
    assert names(out) == {*CURRENT, "summary.json"}


def test_finish_removes_what_a_killed_run_left_unfinished(tmp_path):
    out = OutputFolder(str(tmp_path / "out"), Files())
    out.write("masks/.unfinished/a.png", b"a folder of the user's")
    out.write(".unfinished/half", b"")
    finish({}, out, [])
    assert names(out) == {"masks/.unfinished/a.png", "summary.json"}


def test_a_run_without_rejects_or_rows_leaves_a_shard_of_each(photos, tiny_model, tmp_path):
    (photos / "bad.jpg").write_text("no image")
    for inputs, empty in [(photos / "a", "rejected"), (photos / "bad.jpg", "histograms")]:
        out = tmp_path / empty
        segment(Request([str(inputs)], str(out), tiny_model))
        found = {path.name: path.read_text() for path in out.glob("*.jsonl")}
        assert set(found) == {
            "histograms-00000-of-00001.jsonl",
            "rejected-00000-of-00001.jsonl",
        }
        assert [name.partition("-")[0] for name, text in found.items() if not text] == [empty]


def test_a_rejects_row_holds_what_a_reject_holds(photos, tiny_model, tmp_path):
    (photos / "bad.jpg").write_text("no image")
    segment(Request([str(photos)], f"{tmp_path}/out", tiny_model))
    (line,) = (tmp_path / "out/rejected-00000-of-00001.jsonl").read_text().splitlines()
    assert Reject(**json.loads(line)).image == str(photos / "bad.jpg")
