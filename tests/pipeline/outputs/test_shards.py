import json
from collections import Counter

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from model_build.common.errors import JobError
from pipeline.outputs import shards
from pipeline.outputs.folder import HISTOGRAMS, REJECTED, OutputFolder
from pipeline.outputs.shards import (
    BUCKETS,
    WriteShards,
    bucket_of,
    line_of,
    mismatch,
    pack,
    shard_count,
    shard_of,
    unpack,
    write_shard,
)
from pipeline.records import Reject, Row, Stamp
from pipeline.storage import Files

FILES = Files()
NOTHING: dict = {"rows": [], "kept": [], "rejects": [], "listed": [], "unlisted": []}
NAMES = st.text() | st.binary().map(lambda name: name.decode("utf-8", "surrogateescape"))


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path, memory):
    path = f"{tmp_path}/out" if request.param == "disk" else "memory://b/out"
    FILES.make_folder(path)
    return OutputFolder(path, FILES, run="r1")


def row(image):
    return Row(image, f"masks/{image}.png", 2, 1, {"sky": 2}, Stamp(9, "1"), recipe="c0ffee")


def reject(image, stage="decode"):
    return Reject(image, stage, "OSError", "cut short")


def complete(rows=(), rejects=(), unlisted=(), kept=()):
    """Records of a run in which every image has one outcome."""
    listed = [one.image for one in (*rows, *kept, *rejects)]
    found = {"rows": rows, "kept": kept, "rejects": rejects}
    return found | {"listed": listed, "unlisted": unlisted}


def parted(kind, records):
    """Rows and rejects come from several steps, which may have none; the others from one."""
    if kind not in ("rows", "rejects"):
        return [records]
    return [records[0::2], [], records[1::2]]


def written(found, out):
    """Runs the transform; the lines of every file that stands in OUT afterwards, by its name."""
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        collections = {
            kind: tuple(
                pipeline | f"{kind}{number}" >> beam.Create(values)
                for number, values in enumerate(parted(kind, list(values)))
            )
            for kind, values in found.items()
        }
        names = collections | WriteShards(out) | beam.FlatMap(lambda shard: shard.names)
        count = shard_count(len(found["listed"]))
        expected = [
            f"{prefix}-r1-{number:05}-of-{count:05}.jsonl"
            for prefix in (HISTOGRAMS, REJECTED)
            for number in range(count)
        ]
        assert_that(names, equal_to(expected))
    standing = [file.path for file in FILES.list(out.path)]
    assert sorted(standing) == [f"{out.path}/{name}" for name in expected]
    return {name: FILES.read(f"{out.path}/{name}").decode().splitlines() for name in expected}


# Writing


def test_rows_and_rejects_are_written_as_sorted_lines(out):
    rows = [row(name) for name in ("c.jpg", "a.jpg", "b/ü.jpg", "a'[*].jpg")]
    rejects = [reject("z.jpg"), reject("d.jpg")]
    found = written(complete(rows, rejects), out)
    histograms, rejected = found.values()
    assert histograms == sorted(line_of(one) for one in rows)
    assert rejected == sorted(line_of(one) for one in rejects)
    assert [Row.from_json(json.loads(line)).image for line in histograms] == [
        *("a'[*].jpg", "a.jpg", "b/ü.jpg", "c.jpg")
    ]


def test_what_could_not_be_listed_is_among_the_rejects_without_being_an_image(out):
    _, rejected = written(complete([row("a.jpg")], [], [reject("b", "list")]), out).values()
    assert [json.loads(line)["stage"] for line in rejected] == ["list"]


def test_no_images_make_one_empty_shard_of_each_kind(out):
    assert list(written(NOTHING, out).values()) == [[], []]


def test_many_images_are_shared_out(out, monkeypatch):
    monkeypatch.setattr(shards, "IMAGES_PER_SHARD", 4)
    monkeypatch.setattr(shards, "RECORDS_PER_BATCH", 2)
    rows = [row(f"{number}.jpg") for number in range(12)]
    rejects = [reject(f"bad{number}.jpg") for number in range(6)]
    unlisted = [reject(f"dir{number}", "list") for number in range(3)]
    found = written(complete(rows, rejects, unlisted), out)
    assert len(found) == 2 * 5
    assert all(lines == sorted(lines) for lines in found.values())
    for prefix, records in ((HISTOGRAMS, rows), (REJECTED, [*rejects, *unlisted])):
        lines = [line for name, lines in found.items() if name.startswith(prefix) for line in lines]
        assert sorted(lines) == sorted(map(line_of, records))


def test_an_image_that_was_listed_twice_is_one_image(out):
    found = complete([row("a.jpg"), row("b.jpg")])
    histograms, _ = written(found | {"listed": ["a.jpg", "b.jpg", "a.jpg"]}, out).values()
    assert len(histograms) == 2


@pytest.mark.slow
def test_shards_do_not_depend_on_the_order_of_records(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "IMAGES_PER_SHARD", 4)
    rows = [row(f"{number}.jpg") for number in range(10)]
    outs = [OutputFolder(f"{tmp_path}/{number}", FILES, run="r1") for number in (1, 2)]
    for out in outs:
        FILES.make_folder(out.path)
    assert written(complete(rows), outs[0]) == written(complete(rows[::-1]), outs[1])


def test_rows_of_masks_that_were_kept_are_among_the_rows(out):
    found = complete([row("b.jpg")], kept=[row("a.jpg"), row("c.jpg")])
    histograms, _ = written(found, out).values()
    assert [json.loads(line)["image"] for line in histograms] == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_shard_tells_the_tally_of_what_it_has(out):
    rows, kept = [row("a.jpg")], [row("b.jpg"), row("c.jpg")._replace(recipe=None)]
    found = complete(rows, [reject("d.jpg")], [reject("e", "list")], kept)
    packs = [part for kind, some in found.items() for _, part in pack(some, kind)]
    tally = write_shard(0, packs, 4, out).tally
    assert tally == Counter(
        {
            ("pixels", "sky"): 6,
            ("masks",): 3,
            ("kept",): 2,
            ("edited",): 1,
            ("rejected",): 2,
            ("cause", "decode", "OSError"): 1,
            ("cause", "list", "OSError"): 1,
        }
    )


# Packing


@given(st.lists(NAMES.map(row) | NAMES.map(reject) | NAMES, min_size=1))
def test_what_is_packed_comes_out_as_it_was_in_its_bucket(records):
    packs = list(pack(records, "rows"))
    assert {kind for _, (kind, _) in packs} == {"rows"}
    found = {bucket: unpack(data) for bucket, (_, data) in packs}
    assert len(found) == len(packs)  # one a bucket
    names = [record if isinstance(record, str) else record.image for record in records]
    assert {
        bucket: [json.loads(line)["image"] for line in lines] for bucket, lines in found.items()
    } == {
        bucket: [name for name in names if bucket_of(name) == bucket]
        for bucket in set(map(bucket_of, names))
    }
    lines = {line for lines in found.values() for line in lines}
    assert {line_of(one) for one in records if not isinstance(one, str)} <= lines


def test_lines_of_a_bucket_are_compressed_together():
    rows = [row(f"photos/{n:06}.jpg")._replace(hash=f"{n:064x}") for n in range(40_000)]
    rows = [one for one in rows if bucket_of(one.image) == 7]
    lines = [line_of(one) for one in rows]
    ((bucket, (kind, packed)),) = pack(rows, "rows")
    assert (bucket, kind, unpack(packed)) == (7, "rows", lines)
    assert 5 * len(packed) < sum(map(len, lines))


def test_a_row_is_serialised_once_on_its_way_to_a_shard(out, monkeypatch):
    serialised = []
    to_json = Row.to_json
    monkeypatch.setattr(Row, "to_json", lambda one: serialised.append(one) or to_json(one))
    written(complete([row("a.jpg"), row("b.jpg")], kept=[row("c.jpg")]), out)
    assert sorted(one.image for one in serialised) == ["a.jpg", "b.jpg", "c.jpg"]


# What would not add up


def test_a_run_whose_images_do_not_add_up_ends_with_their_names(out):
    found = complete([row("a.jpg"), row("b.jpg")]) | {"listed": ["a.jpg", "b.jpg", "lost.jpg"]}
    with pytest.raises(Exception, match=r"1 images have neither a mask nor a reject: lost\.jpg"):
        written(found, out)
    assert not list(FILES.list(out.path))


def test_a_run_that_another_has_taken_over_from_writes_no_shard(out):
    out.write_json("run.json", {"run": "r2"})
    with pytest.raises(
        JobError, match=f"{out.path}: another job has taken over this output folder"
    ):
        write_shard(0, [], 0, out)
    assert [file.path for file in FILES.list(out.path)] == [f"{out.path}/run.json"]
    out.write_json("run.json", {"run": "r1"})
    assert len(write_shard(0, [], 0, out).names) == 2


def test_a_shard_that_cannot_be_written_ends_the_job_with_the_remedy(tmp_path):
    out = OutputFolder(f"{tmp_path}/gone", FILES, run="r1")
    with pytest.raises(JobError, match="gone: has been removed; restore it"):
        write_shard(0, [], 0, out)


@pytest.mark.parametrize(
    ("listed", "outcomes", "why"),
    [
        ("", "", ""),
        ("ab", "ba", ""),
        ("aab", "ab", ""),
        ("abc", "b", "2 images have neither a mask nor a reject: a, c"),
        ("ab", "aab", "1 images have more than one: a"),
        ("a", "aab", "1 images have more than one: a; 1 images have one but were not listed: b"),
        ("abcde", "", "5 images have neither a mask nor a reject: a, b, c, …"),
        ("", "abc", "3 images have one but were not listed: a, b, c"),
    ],
)
def test_a_mismatch_is_told_with_names(listed, outcomes, why):
    assert mismatch(listed, outcomes) == why


@given(st.lists(st.sampled_from("abcdef")), st.lists(st.sampled_from("abcdef")))
def test_there_is_no_mismatch_just_where_each_image_has_one_outcome(listed, outcomes):
    assert (mismatch(listed, outcomes) == "") == (sorted(set(listed)) == sorted(outcomes))


# Names and numbers


@pytest.mark.parametrize(
    ("images", "count"), [(0, 1), (1, 1), (10_000, 1), (10_001, 2), (1_000_000, 100), (10**9, 1024)]
)
def test_how_many_shards_so_many_images_make(images, count):
    assert shard_count(images) == count


@given(NAMES)
def test_the_bucket_of_an_image_follows_from_its_path(image):
    assert 0 <= bucket_of(image) == bucket_of(image) < BUCKETS


@pytest.mark.parametrize("images", [0, 1, 10_000, 10_001, 70_000, 10_230_000, 10**9])
def test_every_shard_is_a_range_of_about_as_many_buckets(images):
    shards = [shard_of(bucket, images) for bucket in range(BUCKETS)]
    assert shards == sorted(shards)
    sizes = Counter(shards)
    assert set(sizes) == set(range(shard_count(images)))
    assert max(sizes.values()) - min(sizes.values()) <= 1


@given(st.text())
def test_a_line_is_one_line_whatever_the_name(image):
    for record in (row(image), reject(image)):
        line = line_of(record)
        assert line.isascii()
        assert "\n" not in line
        assert json.loads(line)["image"] == image
