import pytest

from model_build.errors import JobError
from pipeline.outputs import ending
from pipeline.outputs.ending import Claimed, finish
from pipeline.outputs.folder import OutputFolder
from pipeline.storage import Files

FILES = Files()
OLD = ("histograms-r0-00000-of-00001.jsonl", "rejected-r0-00000-of-00001.jsonl")
MINE = ("histograms-r2-00000-of-00001.jsonl", "rejected-r2-00000-of-00001.jsonl")
LIVING = [
    "histograms-r3-00000-of-00001.jsonl",
    "rejected-r3-00000-of-00001.jsonl",
    "journal/r3.a.jsonl",
]
OTHERS = [
    "histograms-2024.jsonl",
    "histograms.jsonl",
    "rejected-r0-00000-of-00001.jsonl.bak",
    "masks/a.png",
    "masks/histograms-r0-00000-of-00001.jsonl",
    "notes/histograms-r0-00000-of-00001.jsonl",
    "run.json",
]
CLAIMED = Claimed(lock=2, dead=("r1",), shards=OLD)


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path, memory):
    path = f"{tmp_path}/out" if request.param == "disk" else "memory://b/out"
    FILES.make_folder(path)
    return OutputFolder(path, FILES, run="r2")


def put(out, *names):
    for name in names:
        FILES.write(f"{out.path}/{name}", b"")


def standing(out):
    return {file.path[len(out.path) + 1 :] for file in FILES.list(out.path)}


def test_the_summary_names_the_run_and_its_shards(out):
    put(out, *MINE)
    content = finish({"masks": 3}, out, reversed(MINE), CLAIMED)
    assert content == {"masks": 3, "run": "r2", "shards": list(MINE)}
    assert out.read_json("summary.json") == content
    assert standing(out) == {"summary.json", *MINE}


def test_what_is_superseded_goes(out):
    put(out, *OLD, *MINE, "journal/r2.a.jsonl", "journal/r2.b.jsonl", "journal/r1.a.jsonl")
    put(out, "histograms-r1-00000-of-00002.jsonl", "histograms-00000-of-00012.jsonl")
    put(out, "rejected-00003-of-00012.jsonl", ".unfinished/r2/half", ".unfinished/r1/half")
    finish({}, out, MINE, CLAIMED)
    assert standing(out) == {"summary.json", *MINE}


def test_what_a_living_run_may_need_and_strangers_files_stay(out):
    put(out, *MINE, *LIVING, *OTHERS, ".unfinished/r3/half", ".unfinished/r22/half", "lock/2")
    put(out, "journal/r22.a.jsonl")
    before = standing(out)
    finish({}, out, MINE, CLAIMED)
    assert standing(out) == before | {"summary.json"}


def test_a_shard_that_a_run_wrote_and_does_not_name_goes(out):
    """A bundle that was tried again with another number of images."""
    put(out, *MINE, "histograms-r2-00000-of-00007.jsonl")
    finish({}, out, MINE, CLAIMED)
    assert standing(out) == {"summary.json", *MINE}


def test_nothing_goes_before_the_summary_stands(out, monkeypatch):
    put(out, *OLD, *MINE, "journal/r2.a.jsonl")
    before = standing(out)

    def fail(self, name, value):
        raise OSError(28, "No space left on device", name)

    monkeypatch.setattr(OutputFolder, "write_json", fail)
    with pytest.raises(JobError, match=r"summary\.json: No space left.*free some space"):
        finish({}, out, MINE, CLAIMED)
    assert standing(out) == before


def test_a_run_that_another_has_taken_over_from_ends_nothing(out):
    put(out, *OLD, *MINE, "lock/3", "journal/r2.a.jsonl")
    before = standing(out)
    with pytest.raises(JobError, match="another job has taken it over"):
        finish({}, out, MINE, CLAIMED)
    assert standing(out) == before


def test_an_end_that_is_tried_again_ends_alike(out):
    put(out, *OLD, *MINE, *LIVING, "journal/r2.a.jsonl")
    first = finish({"masks": 3}, out, MINE, CLAIMED)
    after = standing(out)
    assert finish({"masks": 3}, out, MINE, CLAIMED) == first
    assert standing(out) == after


@pytest.mark.parametrize("name", ["a b", "a]b", "[a]*?", "ü", "a+(b)|c"])
def test_the_ends_of_folders_of_odd_names(tmp_path, name):
    out = OutputFolder(f"{tmp_path}/{name}", FILES, run="r2")
    near = OutputFolder(f"{tmp_path}/{name}x", FILES)
    for folder in (out, near):
        put(folder, *OLD, *MINE)
    finish({}, out, MINE, CLAIMED)
    assert standing(out) == {"summary.json", *MINE}
    assert standing(near) == {*OLD, *MINE}


def test_an_empty_journal_folder_goes_with_its_last_file(tmp_path):
    out = OutputFolder(f"{tmp_path}/out", FILES, run="r2")
    put(out, *MINE, "journal/r2.a.jsonl", ".unfinished/r2/half")
    finish({}, out, MINE, CLAIMED)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*MINE, "summary.json"]


def test_a_folder_that_is_not_there_has_no_leftovers(tmp_path, memory):
    for path in (f"{tmp_path}/nowhere", "memory://b/nowhere"):
        assert list(ending.leftovers(OutputFolder(path, FILES, run="r2"), [], CLAIMED)) == []
