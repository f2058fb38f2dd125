"""The graph as Beam runs it, and what it leaves."""

import hashlib
import json
import re

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipeline import SegmentImages
from pipeline.inputs.names import group_key
from pipeline.outputs.run_json import Recipe
from pipeline.records import Reject, Row, Stamp
from pipeline.segmentation.graph import SegmentArchive
from pipeline.segmentation.plan import Request, plan
from pipeline.segmentation.run import segment

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
    segment(Request([str(photos)], f"{tmp_path}/out", model=tiny_model, **options))
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


@pytest.mark.slow
def test_no_pixel_crosses_a_shuffle_in_the_pipelines_of_others(fused, photos, tiny_model, tmp_path):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        paths = pipeline | beam.Create(list(map(str, photos.glob("*/*.jpg"))))
        _ = paths | SegmentImages(tmp_path / "out", tiny_model)
    assert len(stages_with(fused, "SegmentImages/Segment", "SegmentImages/Window")) == 1


# Parallelism


def buffers(stage, kind):
    """Returns the names of a stage's sources or sinks, as in ``group:SegmentArchive-…_12``."""
    urn = f"beam:runner:{kind}:v1"
    return {step.spec.payload.decode() for step in stage.transforms if step.spec.urn == urn}


def test_photos_of_one_folder_are_work_for_many_workers(stub_model, photos, tmp_path):
    elsewhere = {"beam_options": ["--runner", "PrismRunner"], "shared_disk": True}
    planned = plan(Request([str(photos)], f"{tmp_path}/out", model=stub_model(), **elsewhere))
    pipeline = beam.Pipeline(options=planned.beam_options)
    archive = SegmentArchive(planned)
    _ = pipeline | beam.Create(planned.sources) | "SegmentArchive" >> archive
    _, stages = FnApiRunner().create_stages(pipeline.to_runner_api())

    reading = [
        stage
        for stage in stages
        if any(step.unique_name == "SegmentArchive/Segment/Read" for step in stage.transforms)
    ]
    (home,) = reading
    (above,) = buffers(home, "source")
    assert re.match("group:.*SegmentArchive.Plan.GroupByMaskName", above)
    # Of what is listed, links alone are grouped by their folder; shares are spread at random.
    upstream, found = {above}, set()
    while upstream - found:
        found |= upstream
        upstream = {
            name
            for stage in stages
            if buffers(stage, "sink") & found
            for name in buffers(stage, "source")
        }
    shuffles = {name for name in found if name.startswith("group:")}
    spread = re.compile("Spread[0-9]|OutputFolders.MaybeReshuffle|OfOneFolder|GroupByMaskName")
    assert len(shuffles) >= 6
    assert [name for name in shuffles if not spread.search(name)] == []
    # So there are as many keys as photos, though all lie in one folder.
    assert len({group_key(f"folder/{number:03}.jpg") for number in range(100)}) == 100


# What a run leaves


def shards(out):
    """The text of each shard that ``summary.json`` names, by kind."""
    named = json.loads((out / "summary.json").read_text())["shards"]
    assert sorted(path.name for path in out.glob("*.jsonl")) == sorted(named)
    return {name.partition("-")[0]: (out / name).read_text() for name in named}


@pytest.mark.slow
def test_a_run_without_rejects_or_rows_leaves_a_shard_of_each(photos, tiny_model, tmp_path):
    (photos / "bad.jpg").write_text("no image")
    for inputs, empty in [(photos / "a", "rejected"), (photos / "bad.jpg", "histograms")]:
        out = tmp_path / empty
        segment(Request([str(inputs)], str(out), model=tiny_model))
        found = shards(out)
        assert set(found) == {"histograms", "rejected"}
        assert [kind for kind, text in found.items() if not text] == [empty]


def test_a_rejects_row_holds_what_a_reject_holds(photos, tiny_model, tmp_path):
    (photos / "bad.jpg").write_text("no image")
    segment(Request([str(photos)], f"{tmp_path}/out", model=tiny_model))
    (line,) = shards(tmp_path / "out")["rejected"].splitlines()
    assert Reject(**json.loads(line)).image == str(photos / "bad.jpg")


@pytest.mark.slow
def test_a_masks_row_holds_what_a_row_holds(photos, tiny_model, tmp_path):
    summary = segment(Request([str(photos)], f"{tmp_path}/out", model=tiny_model))
    lines = shards(tmp_path / "out")["histograms"].splitlines()
    for line, photo in zip(sorted(lines), sorted(photos.glob("*/*.jpg")), strict=True):
        row = Row.from_json(json.loads(line))
        assert row.to_json() == json.loads(line)
        assert (row.image, row.source.size) == (str(photo), photo.stat().st_size)
        assert row.source.version == str(photo.stat().st_mtime_ns)
        assert row.hash == hashlib.sha256(photo.read_bytes()).hexdigest()
        mask = (tmp_path / "out" / row.mask).stat()
        assert row.written == Stamp(mask.st_size, str(mask.st_mtime_ns))
        assert row.recipe == Recipe.from_json(summary.recipe).id
