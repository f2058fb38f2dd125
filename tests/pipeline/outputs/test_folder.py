import json
import os
import re

import pytest

from model_build.errors import UserError
from pipeline import outputs
from pipeline.outputs import (
    claim,
    finish,
    parse_output,
    read_file,
    read_json,
    stage_for_workers,
    standing_since,
    write_file,
    written,
)

OPTIONS = {"model": "f00", "long side": 512, "batch size": "auto"}


def tree(folder):
    """All files below a folder, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# Files


def test_a_file_is_written_with_its_folders(tmp_path):
    write_file(f"{tmp_path}/masks/x/a.png", b"data", f"{tmp_path}/.unfinished")
    assert tree(tmp_path) == {"masks/x/a.png": b"data"}
    assert read_file(f"{tmp_path}/masks/x/a.png") == b"data"


def test_a_file_replaces_another(tmp_path):
    for data in (b"a long first version", b"short"):
        write_file(f"{tmp_path}/a", data, f"{tmp_path}/.unfinished")
    assert tree(tmp_path) == {"a": b"short"}


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch, before):
    path = tmp_path / "masks/a.png"
    if before:
        write_file(str(path), before, f"{tmp_path}/.unfinished")

    def fail(source, target):
        assert (tmp_path / ".unfinished" / os.path.basename(source)).read_bytes() == b"new"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_file(str(path), b"new", f"{tmp_path}/.unfinished")
    assert tree(tmp_path) == ({"masks/a.png": before} if before else {})


def test_a_write_cut_off_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(path, data):
        with open(path, "wb") as file:
            file.write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs.Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        write_file(f"{tmp_path}/a", b"new", f"{tmp_path}/.unfinished")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("name", ["a b.png", "[a]*?.png", "a\nb.png", "ü.png", "a.gz", "a.bz2"])
def test_files_of_odd_names_come_back_as_they_went(tmp_path, name):
    write_file(f"{tmp_path}/{name}", b"data", f"{tmp_path}/.unfinished")
    assert read_file(f"{tmp_path}/{name}") == b"data"


def test_reading_stops_at_the_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    assert read_file(f"{tmp_path}/a", 4) == b"0123"
    assert read_file(f"{tmp_path}/a", 0) == b""
    assert read_file(f"{tmp_path}/a", 99) == b"0123456789"


def test_remote_files(mem):
    write_file("mem://b/out/masks/a.gz", b"data", "unused")
    assert mem.files == {"mem://b/out/masks/a.gz": b"data"}
    assert read_file("mem://b/out/masks/a.gz") == b"data"
    with pytest.raises(OSError, match="no such object"):
        read_file("mem://b/nowhere")


def test_written_lists_files_of_one_kind(tmp_path, touch):
    touch(tmp_path, "masks/a.png", "masks/x/b.png", "masks/c.txt", "a.png")
    assert [mask.name for mask in written(str(tmp_path), "masks", ".png")] == ["a.png", "x/b.png"]
    assert list(written(str(tmp_path), "overlays", ".jpg")) == []


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"a": 1'])
def test_broken_json_reads_as_none(tmp_path, data):
    (tmp_path / "run.json").write_bytes(data)
    assert read_json(f"{tmp_path}/run.json") is None


def test_json(tmp_path):
    (tmp_path / "run.json").write_text('{"a": [1]}')
    assert read_json(f"{tmp_path}/run.json") == {"a": [1]}
    assert read_json(f"{tmp_path}/nowhere.json") is None
    assert read_json(str(tmp_path)) is None


# --output


def test_output_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_output("out/") == f"{tmp_path}/out"
    assert parse_output("./x/../out") == f"{tmp_path}/out"
    assert parse_output(str(tmp_path)) == str(tmp_path)
    assert parse_output("gs://bucket/out//") == "gs://bucket/out"
    assert tree(tmp_path) == {}


def test_output_must_not_be_a_file(tmp_path, touch):
    touch(tmp_path, "a.txt")
    with pytest.raises(UserError, match=r"a\.txt: is a file; --output must be a folder"):
        parse_output(f"{tmp_path}/a.txt")


@pytest.mark.parametrize("text", ["out*", "out?", "out[1]", "gs://bucket/out[1]", "gs://b/*/out"])
def test_output_must_not_hold_a_wildcard(text):
    wild = next(character for character in "*?[" if character in text)
    with pytest.raises(UserError, match=rf"must not hold {re.escape(wild)}; choose another"):
        parse_output(text)


def test_an_empty_output_is_not_the_current_folder():
    with pytest.raises(UserError):
        parse_output("")


# What stands in OUT


def test_a_fresh_folder_holds_nothing(tmp_path):
    assert standing_since(f"{tmp_path}/out", OPTIONS, False) is None
    assert standing_since(str(tmp_path), OPTIONS, False) is None


def test_the_same_options_go_on(tmp_path):
    claim(str(tmp_path), OPTIONS, 1234.5)
    assert tree(tmp_path).keys() == {"run.json"}
    assert standing_since(str(tmp_path), dict(OPTIONS), False) == 1234.5


@pytest.mark.parametrize(
    "change", [{"model": "ba5"}, {"long side": "native"}, {"batch size": 4}, {"new": 1}]
)
def test_other_options_are_refused(tmp_path, change):
    claim(str(tmp_path), OPTIONS, 1234.5)
    (key,) = change
    pattern = f"made with {key} {OPTIONS.get(key)}, not {change[key]}; add --overwrite"
    with pytest.raises(UserError, match=pattern):
        standing_since(str(tmp_path), OPTIONS | change, False)


def test_overwrite_lets_nothing_stand(tmp_path, touch):
    claim(str(tmp_path), OPTIONS, 1234.5)
    touch(tmp_path, "masks/a.png")
    assert standing_since(str(tmp_path), OPTIONS, True) is None
    assert standing_since(str(tmp_path), OPTIONS | {"model": "ba5"}, True) is None


@pytest.mark.parametrize("run", [None, "", "[]", "{}", '{"options": {}}', '{"options": []}'])
def test_masks_that_no_run_has_written_are_refused(tmp_path, touch, run):
    touch(tmp_path, "masks/x/notes.txt")
    if run is not None:
        (tmp_path / "run.json").write_text(run)
    with pytest.raises(UserError, match="--overwrite"):
        standing_since(str(tmp_path), {}, False)
    assert standing_since(str(tmp_path), {}, True) is None


@pytest.mark.parametrize("run", ["", "[]", "{}", '{"options": {"model": "f00"}}', '{"started": 1}'])
def test_a_run_file_of_another_form_beside_no_masks_is_replaced(tmp_path, run):
    (tmp_path / "run.json").write_text(run)
    assert standing_since(str(tmp_path), {"model": "f00"}, False) is None


def test_a_folder_that_cannot_be_written_is_the_users_error(tmp_path, touch):
    touch(tmp_path, "file")
    with pytest.raises(UserError, match=r"cannot be written: .*choose another --output"):
        claim(f"{tmp_path}/file/out", OPTIONS, 1.0)


def test_a_remote_output_is_claimed(mem):
    assert standing_since("mem://b/out", OPTIONS, False) is None
    claim("mem://b/out", OPTIONS, 1234.5)
    assert list(mem.files) == ["mem://b/out/run.json"]
    assert standing_since("mem://b/out", OPTIONS, False) == 1234.5
    mem.files["mem://b/other/masks/a.png"] = b""
    with pytest.raises(UserError, match="--overwrite"):
        standing_since("mem://b/other", OPTIONS, False)


def test_an_output_of_an_unknown_scheme_is_the_users_error():
    with pytest.raises(UserError, match="nosuch://b/out"):
        parse_output("nosuch://b/out")


# Staging


def test_a_local_model_is_copied_to_a_remote_output(tmp_path, mem):
    for name in ("model.json", "saved_model/x/weights"):
        write_file(f"{tmp_path}/model/{name}", name.encode(), f"{tmp_path}/.unfinished")
    assert stage_for_workers(f"{tmp_path}/model", "mem://b/out", "m") == "mem://b/out/m"
    assert mem.files == {
        "mem://b/out/m/model.json": b"model.json",
        "mem://b/out/m/saved_model/x/weights": b"saved_model/x/weights",
    }


def test_a_local_list_is_copied_to_a_remote_output(tmp_path, mem):
    (tmp_path / "list.txt").write_bytes(b"x")
    staged = stage_for_workers(f"{tmp_path}/list.txt", "mem://b/out", "input.txt")
    assert staged == "mem://b/out/input.txt"
    assert mem.files == {"mem://b/out/input.txt": b"x"}


def test_nothing_is_copied_where_workers_can_read_it(tmp_path, mem):
    assert stage_for_workers(str(tmp_path), f"{tmp_path}/out", "m") == str(tmp_path)
    assert stage_for_workers("mem://b/model", "mem://b/out", "m") == "mem://b/model"
    assert stage_for_workers("mem://b/model", f"{tmp_path}/out", "m") == "mem://b/model"
    assert mem.files == {}
    assert tree(tmp_path) == {}


# The end


def test_finish_replaces_the_shards_of_earlier_runs(tmp_path, touch):
    current = ["histograms-00000-of-00001.jsonl", "rejected-00000-of-00001.jsonl"]
    stale = [f"histograms-{i:05}-of-00012.jsonl" for i in range(12)]
    stale += [f"rejected-{i:05}-of-00003.jsonl" for i in range(3)]
    kept = ["masks/a.png", "histograms.jsonl", "notes.jsonl", "x/histograms-0-of-1.jsonl"]
    touch(tmp_path, *current, *stale, *kept, ".unfinished/half")
    finish(str(tmp_path), {"images": 3}, [f"{tmp_path}/{name}" for name in current])
    assert tree(tmp_path).keys() == {*current, *kept, "summary.json"}
    assert json.loads((tmp_path / "summary.json").read_text()) == {"images": 3}
    assert not (tmp_path / ".unfinished").exists()


def test_an_empty_shard_that_beam_does_not_name_stays(tmp_path, touch):
    touch(tmp_path, "rejected-00000-of-00001.jsonl", "rejected-00001-of-00002.jsonl")
    finish(str(tmp_path), {}, [])
    assert tree(tmp_path).keys() == {"rejected-00000-of-00001.jsonl", "summary.json"}


def test_shards_that_a_retried_write_does_not_name_again_stay(tmp_path, touch):
    shards = [f"histograms-0000{i}-of-00003.jsonl" for i in range(3)]
    touch(tmp_path, *shards, "histograms-00000-of-00001.jsonl", "histograms-00001-of-00002.jsonl")
    finish(str(tmp_path), {}, [f"{tmp_path}/{shards[2]}"])
    assert tree(tmp_path).keys() == {*shards, "summary.json"}


def test_finish_removes_what_a_killed_run_left_of_its_shards(tmp_path, touch):
    touch(tmp_path, "beam-temp-histograms-12ab/34cd.histograms.jsonl", "masks/beam-temp-x/a.png")
    finish(str(tmp_path), {}, [])
    assert tree(tmp_path).keys() == {"masks/beam-temp-x/a.png", "summary.json"}
    assert not list(tmp_path.glob("beam-temp-*"))


def test_a_summary_keeps_names_readable(tmp_path):
    finish(str(tmp_path), {"pixels": {"Straße": 1}}, [])
    assert '"Straße": 1' in (tmp_path / "summary.json").read_text("utf-8")


def test_a_summary_may_hold_a_path_that_is_not_utf_8(tmp_path):
    finish(str(tmp_path), {"options": {"root": os.fsdecode(b"/in\xff")}}, [])
    summary = json.loads((tmp_path / "summary.json").read_bytes())
    assert summary["options"]["root"].startswith("/in")


@pytest.mark.parametrize("name", ["a b", "a\\b", "a]b", "ü", "a+(b)|c"])
def test_finish_in_folders_of_odd_names(tmp_path, touch, name):
    out = parse_output(f"{tmp_path}/{name}")
    touch(out, "histograms-00000-of-00002.jsonl", "histograms-00000-of-00001.jsonl")
    finish(out, {}, [f"{out}/histograms-00000-of-00001.jsonl"])
    assert sorted(os.listdir(out)) == ["histograms-00000-of-00001.jsonl", "summary.json"]


def test_finish_on_a_remote_output(mem):
    shards = [f"mem://b/out/histograms-0000{i}-of-00002.jsonl" for i in range(2)]
    stale = [
        "mem://b/out/histograms-00000-of-00001.jsonl",
        "mem://b/out/rejected-00000-of-00004.jsonl",
        "mem://b/out/beam-temp-rejected-12ab/34cd.rejected.jsonl",
    ]
    other = ["mem://b/out2/histograms-00000-of-00001.jsonl", "mem://b/out/masks/a.png"]
    mem.files.update(dict.fromkeys([*shards, *stale, *other], b""))
    finish("mem://b/out", {"images": 3}, shards)
    assert set(mem.files) == {*shards, *other, "mem://b/out/summary.json"}
    assert json.loads(mem.files["mem://b/out/summary.json"]) == {"images": 3}
