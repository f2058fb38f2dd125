import os

import pytest

from model_build.common.errors import JobError
from pipeline.outputs import summary as module
from pipeline.outputs.folder import HISTOGRAMS, REJECTED, OutputFolder
from pipeline.outputs.lock import Lock
from pipeline.outputs.summary import finish, leftovers, run_of_shard
from pipeline.storage import Files

FILES = Files()
R0, R1, R2, R3, R4 = (f"2026010{n}T000000Z-abcdef" for n in range(5))
OLD = (f"histograms-{R0}-00000-of-00001.jsonl", f"rejected-{R0}-00000-of-00001.jsonl")
MINE = (f"histograms-{R2}-00000-of-00001.jsonl", f"rejected-{R2}-00000-of-00001.jsonl")
LATER = [
    f"histograms-{R3}-00000-of-00001.jsonl",
    f"rejected-{R3}-00000-of-00001.jsonl",
    f"journal/{R3}.a.jsonl",
    f".unfinished/{R3}/half",
]
OTHERS = [
    "histograms-2024.jsonl",
    "histograms.jsonl",
    "histograms-backup-00000-of-00001.jsonl",
    f"rejected-{R0}-00000-of-00001.jsonl.bak",
    "masks/a.png",
    f"masks/histograms-{R0}-00000-of-00001.jsonl",
    f"notes/histograms-{R0}-00000-of-00001.jsonl",
    "journal/2024.jsonl",
    ".unfinished/symphony",
    ".unfinished/mine/half",
    "run.json",
]


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path, memory):
    path = f"{tmp_path}/out" if request.param == "disk" else "memory://b/out"
    FILES.make_folder(path)
    return OutputFolder(path, FILES, run=R2)


def put(out, *names):
    for name in names:
        FILES.write(f"{out.path}/{name}", b"")


def standing(out):
    return {file.path[len(out.path) + 1 :] for file in FILES.list(out.path)}


def test_the_summary_names_the_run_and_its_shards(out):
    put(out, *MINE)
    content = finish({"masks": 3}, out, reversed(MINE))
    assert content == {"masks": 3, "run": R2, "shards": list(MINE)}
    assert out.read_json("summary.json") == content
    assert standing(out) == {"summary.json", *MINE}


def test_what_is_superseded_goes(out):
    put(out, *OLD, *MINE, f"journal/{R2}.a.jsonl", f"journal/{R2}.b.jsonl", f"journal/{R1}.a.jsonl")
    put(out, f"histograms-{R1}-00000-of-00002.jsonl", "histograms-00000-of-00012.jsonl")
    put(out, "rejected-00003-of-00012.jsonl", f".unfinished/{R2}/half", f".unfinished/{R1}/half")
    finish({}, out, MINE)
    assert standing(out) == {"summary.json", *MINE}


@pytest.fixture
def later(out):
    """A run ``R3`` that has taken OUT over, but has not yet claimed it."""
    lock = Lock(OutputFolder(out.path, FILES, run=R2)).take()
    lock.hand_over()
    FILES.write(f"{out.path}/lock/2", b'{"run": "%s"}' % R3.encode())
    put(out, *LATER)


def test_what_a_later_run_may_need_and_strangers_files_stay(out, later):
    put(out, *MINE, *OTHERS)
    before = standing(out)
    finish({}, out, MINE)
    assert standing(out) == before | {"summary.json"}


def test_a_run_whose_lock_was_removed_leaves_alone_what_a_later_one_may_need(out, later):
    FILES.delete(f"{out.path}/lock/1")
    put(out, *MINE)
    before = standing(out)
    finish({}, out, MINE)
    assert standing(out) == before | {"summary.json"}


def test_what_runs_before_it_have_left_goes_whatever_their_locks_say(out):
    FILES.write(f"{out.path}/lock/1", b'{"run": "%s", "ended": false}' % R1.encode())
    lock = Lock(out, wait=lambda seconds: None)
    lock.number = 2
    assert lock._create()
    put(out, *MINE, f"journal/{R1}.a.jsonl", f"histograms-{R1}-00000-of-00001.jsonl")
    finish({}, out, MINE)
    assert standing(out) == {"summary.json", *MINE, "lock/1", "lock/2"}
    lock.release()


def test_what_runs_have_left_whose_locks_were_taken_away_goes(out):
    """Killed before they had one, or it was deleted by hand: no lock tells of them."""
    put(out, *MINE, *OLD, f"journal/{R4}.a.jsonl", f".unfinished/{R0}/half")
    put(out, f"histograms-{R4}-00000-of-00001.jsonl", f".unfinished/{R1}/x/half")
    finish({}, out, MINE)
    assert standing(out) == {"summary.json", *MINE}
    if out.path.startswith("/"):
        assert sorted(os.listdir(out.path)) == [*MINE, "summary.json"]


def test_shards_of_a_job_that_ends_at_this_moment_stay(out, monkeypatch):
    theirs = [f"histograms-{R4}-00000-of-00001.jsonl"]
    put(out, *MINE, *OLD, *theirs)

    def ends_now(out):
        out.write_json("summary.json", {"shards": theirs})
        return set()

    monkeypatch.setattr(module, "later_runs", ends_now)
    finish({}, out, MINE)
    assert standing(out) == {"summary.json", *MINE, *theirs}


def test_an_empty_folder_of_unfinished_files_goes(tmp_path):
    out = OutputFolder(f"{tmp_path}/out", FILES, run=R2)
    os.makedirs(f"{out.path}/.unfinished/{R4}")
    finish({}, out, MINE)
    assert os.listdir(out.path) == ["summary.json"]


@pytest.mark.parametrize("summary", [None, b"", b"[]", b'{"shards": 3}', b"[" * 100_000])
def test_shards_go_whatever_has_become_of_the_summary_that_named_them(out, summary):
    put(out, *OLD, *MINE)
    if summary is not None:
        FILES.write(f"{out.path}/summary.json", summary)
    finish({}, out, MINE)
    assert standing(out) == {"summary.json", *MINE}


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"held": false, "host": "far"}'])
def test_the_mark_of_a_run_of_an_earlier_version_goes_if_it_has_no_lock(out, content):
    FILES.write(f"{out.path}/.unfinished/{R4}/run", content)
    put(out, f"journal/{R4}.a.jsonl")
    finish({}, out, MINE)
    assert standing(out) == {"summary.json"}


def test_a_shard_that_a_run_wrote_and_does_not_name_goes(out):
    """A bundle that was tried again with another number of images."""
    put(out, *MINE, f"histograms-{R2}-00000-of-00007.jsonl")
    finish({}, out, MINE)
    assert standing(out) == {"summary.json", *MINE}


def test_nothing_goes_before_the_summary_stands(out, monkeypatch):
    put(out, *OLD, *MINE, f"journal/{R2}.a.jsonl")
    before = standing(out)

    def fail(self, name, value):
        raise OSError(28, "No space left on device", name)

    monkeypatch.setattr(OutputFolder, "write_json", fail)
    with pytest.raises(JobError, match=r"summary\.json: No space left.*free some space"):
        finish({}, out, MINE)
    assert standing(out) == before


def test_a_run_that_another_has_taken_over_from_ends_nothing(out):
    put(out, *OLD, *MINE, f"journal/{R2}.a.jsonl")
    out.write_json("run.json", {"run": R3})
    before = standing(out)
    with pytest.raises(JobError, match="another job has taken over this output folder"):
        finish({}, out, MINE)
    assert standing(out) == before


def test_an_end_that_is_tried_again_ends_alike(out, later):
    put(out, *OLD, *MINE, f"journal/{R2}.a.jsonl")
    first = finish({"masks": 3}, out, MINE)
    after = standing(out)
    assert finish({"masks": 3}, out, MINE) == first
    assert standing(out) == after


@pytest.mark.parametrize("name", ["a b", "a]b", "[a]*?", "ü", "a+(b)|c"])
def test_the_ends_of_folders_of_odd_names(tmp_path, name):
    out = OutputFolder(f"{tmp_path}/{name}", FILES, run=R2)
    near = OutputFolder(f"{tmp_path}/{name}x", FILES)
    for folder in (out, near):
        put(folder, *OLD, *MINE)
    finish({}, out, MINE)
    assert standing(out) == {"summary.json", *MINE}
    assert standing(near) == {*OLD, *MINE}


def test_an_empty_journal_folder_goes_with_its_last_file(tmp_path):
    out = OutputFolder(f"{tmp_path}/out", FILES, run=R2)
    put(out, *MINE, f"journal/{R2}.a.jsonl", f".unfinished/{R2}/half")
    finish({}, out, MINE)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*MINE, "summary.json"]


def test_a_folder_that_is_not_there_has_no_leftovers(tmp_path, memory):
    for path in (f"{tmp_path}/nowhere", "memory://b/nowhere"):
        assert list(leftovers(OutputFolder(path, FILES, run=R2))) == []


@pytest.mark.parametrize("prefix", [HISTOGRAMS, REJECTED])
@pytest.mark.parametrize("run", ["20260101T000000Z-0a1b2c", "r1", ""])
def test_a_shard_tells_whose_it_is(prefix, run):
    name = f"{prefix}-{run}{'-' if run else ''}00000-of-00012.jsonl"
    assert run_of_shard(name) == run


@pytest.mark.parametrize(
    "name",
    ["masks/a.png", "histograms.jsonl", "notes.jsonl", "summary.json", "histograms-2024.jsonl"]
    + ["histograms-mine-of-may.jsonl", "rejected-00000-of-00003.jsonl.bak"]
    + ["my-histograms-00000-of-00003.jsonl", "x/histograms-0-of-1.jsonl"],
)
def test_a_strangers_file_is_no_shard(name):
    assert run_of_shard(name) is None
