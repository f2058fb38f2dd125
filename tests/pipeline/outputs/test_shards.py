import json
import os

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from pipeline.outputs import shards
from pipeline.outputs.folder import HISTOGRAMS, REJECTED, OutputFolder
from pipeline.outputs.shards import WriteShards, keyed_line, shard_count, stale_shards
from pipeline.records import Reject, Row, as_json
from pipeline.storage import Files

FILES = Files()


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path, memory):
    return OutputFolder(f"{tmp_path}/out" if request.param == "disk" else "memory://b/out", FILES)


def row(image):
    return Row(image, f"masks/{image}.png", 2, 1, {"sky": 2})


def written(prefix, records, out):
    """Runs the transform; the lines of every file that stands in OUT afterwards, by its name."""
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        names = pipeline | beam.Create(records) | WriteShards(prefix, out)
        pipeline_names = names | beam.combiners.ToList() | beam.Map(sorted)
        count = shard_count(len(records))
        expected = [f"{prefix}-{number:05}-of-{count:05}.jsonl" for number in range(count)]
        assert_that(pipeline_names, equal_to([expected]))
    found = [file.path for file in FILES.list(out.path)]
    assert sorted(found) == [f"{out.path}/{name}" for name in expected]
    return {name: FILES.read(f"{out.path}/{name}").decode().splitlines() for name in expected}


# Writing


def test_records_are_written_as_sorted_lines(out):
    rows = [row(name) for name in ("c.jpg", "a.jpg", "b/ü.jpg", "a'[*].jpg")]
    (lines,) = written(HISTOGRAMS, rows, out).values()
    assert lines == sorted(lines)
    assert sorted(map(json.dumps, map(as_json, rows))) == lines
    assert {json.loads(line)["image"] for line in lines} == {one.image for one in rows}


def test_rejects_are_written_too(out):
    reject = Reject("a.jpg", "read", "OSError", "gone")
    (lines,) = written(REJECTED, [reject], out).values()
    assert [json.loads(line) for line in lines] == [as_json(reject)]


def test_no_records_make_one_empty_shard(out):
    assert written(REJECTED, [], out) == {"rejected-00000-of-00001.jsonl": []}


def test_many_records_are_shared_out(out, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 4)
    rows = [row(f"{number}.jpg") for number in range(18)]
    found = written(HISTOGRAMS, rows, out)
    assert len(found) == 5
    assert all(lines == sorted(lines) for lines in found.values())
    lines = [line for lines in found.values() for line in lines]
    assert sorted(lines) == sorted(json.dumps(as_json(one)) for one in rows)


def test_a_shard_without_lines_is_written_empty(out, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 1)
    found = written(REJECTED, [Reject("a", "read", "", ""), Reject("a", "decode", "", "")], out)
    assert sorted(map(len, found.values())) == [0, 2]


def test_shards_do_not_depend_on_the_order_of_records(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 4)
    rows = [row(f"{number}.jpg") for number in range(10)]
    first = written(HISTOGRAMS, rows, OutputFolder(f"{tmp_path}/1", FILES))
    assert written(HISTOGRAMS, rows[::-1], OutputFolder(f"{tmp_path}/2", FILES)) == first


def test_a_shard_replaces_its_like(out):
    written(HISTOGRAMS, [row("a.jpg"), row("b.jpg")], out)
    (lines,) = written(HISTOGRAMS, [row("c.jpg")], out).values()
    assert [json.loads(line)["image"] for line in lines] == ["c.jpg"]


def test_a_shard_that_cannot_be_written_ends_the_run(tmp_path, touch):
    touch(tmp_path, "out")
    with pytest.raises(Exception, match=r"Not a directory|File exists"):
        written(HISTOGRAMS, [row("a.jpg")], OutputFolder(f"{tmp_path}/out", FILES))


@pytest.mark.parametrize(
    ("rows", "count"), [(0, 1), (1, 1), (100_000, 1), (100_001, 2), (1_000_000, 10)]
)
def test_how_many_shards_so_many_rows_make(rows, count):
    assert shard_count(rows) == count


@given(st.text(), st.integers(1, 10_000_000))
def test_every_line_has_a_shard(image, rows):
    number, line = keyed_line(Reject(image, "list", "NameError", image), rows)
    assert 0 <= number < shard_count(rows)
    assert json.loads(line)["image"] == image
    assert line.isascii()
    assert "\n" not in line


# What earlier runs have left


def test_shards_of_other_counts_are_stale_and_strangers_are_not(out):
    current = ["histograms-00000-of-00001.jsonl", "rejected-00000-of-00001.jsonl"]
    stale = [f"histograms-{i:05}-of-00012.jsonl" for i in range(12)]
    stale += [f"rejected-{i:05}-of-00003.jsonl" for i in range(3)]
    strangers = [
        "masks/a.png",
        "histograms.jsonl",
        "notes.jsonl",
        "summary.json",
        "histograms-2024.jsonl",
        "histograms-mine-of-may.jsonl",
        "rejected-00000-of-00003.jsonl.bak",
        "my-histograms-00000-of-00003.jsonl",
        "x/histograms-0-of-1.jsonl",
        "histograms-/histograms-00000-of-00002.jsonl",
    ]
    for name in [*current, *stale, *strangers]:
        out.write(name, b"")
    assert sorted(stale_shards(out, current)) == stale


def test_a_folder_that_is_not_there_has_no_stale_shards(out):
    assert stale_shards(out, ["histograms-00000-of-00001.jsonl"]) == []


@pytest.mark.parametrize("name", ["a b", "a\\b", "a]b", "[a]*?", "ü", "a+(b)|c"])
def test_stale_shards_of_folders_of_odd_names(tmp_path, touch, name):
    folder = f"{tmp_path}/{name}"
    touch(folder, "histograms-00000-of-00002.jsonl", "histograms-00000-of-00001.jsonl")
    found = stale_shards(OutputFolder(folder, FILES), ["histograms-00000-of-00001.jsonl"])
    assert found == ["histograms-00000-of-00002.jsonl"]
    assert all(os.path.exists(f"{folder}/{one}") for one in found)
