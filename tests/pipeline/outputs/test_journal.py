import json
import os
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_build.common.errors import JobError
from pipeline.outputs import journal as module
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.journal import Journal, JournalCounter, journals, read_rows, run_of
from pipeline.outputs.shards import line_of
from pipeline.records import Reject, Row, Stamp
from pipeline.storage import Files

stamps = st.builds(Stamp, st.none() | st.integers(0), st.none() | st.text())
rows = st.builds(
    Row,
    image=st.text(),
    mask=st.text(),
    width=st.integers(1),
    height=st.integers(1),
    pixels=st.dictionaries(st.text(), st.integers(1)),
    source=stamps,
    hash=st.text("0123456789abcdef"),
    written=stamps,
    mask_hash=st.text("0123456789abcdef"),
    recipe=st.none() | st.text(),
)
rejects = st.builds(Reject, st.text(), st.text(), st.text(), st.text())
REJECT = Reject("bad.jpg", "decode", "OSError", "cut short")


def row(number):
    return Row(
        f"/photos/{number}.jpg", f"masks/{number}.png", 2, 1, {"sky": 2}, Stamp(9, "1"), recipe="r"
    )


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path, memory):
    path = f"{tmp_path}/out" if request.param == "disk" else "memory://b/out"
    out = OutputFolder(path, Files(), run="r1")
    out.files.make_folder(path)
    return out


@pytest.fixture
def clock(monkeypatch):
    """The journal's clock; its ``now`` is to be set."""
    clock = types.SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(module, "time", clock)
    return clock


def put(out):
    """The rows of each file of the journal that stands."""
    return [list(read_rows(out.files.read(f"{out.path}/{name}"))) for name in journals(out)]


def test_nothing_is_put_before_it_is_time(out, clock):
    journal = Journal(out)
    journal.add([row(1), row(2)])
    clock.now += module.MAX_WAIT_SECONDS
    journal.add([row(3)])
    assert put(out) == []
    journal.flush()
    assert put(out) == [[row(1), row(2), row(3)]]


def test_a_thousand_rows_are_put_at_once(out, clock):
    journal = Journal(out)
    for start in range(0, 1000 - 8, 8):
        journal.add(map(row, range(start, start + 8)))
    assert put(out) == []
    journal.add(map(row, range(1000 - 8, 1001)))
    assert put(out) == [[row(number) for number in range(1001)]]
    journal.flush()
    assert len(put(out)) == 1


def test_rejects_count_among_the_rows(out, clock):
    journal = Journal(out)
    journal.add([REJECT] * 999)
    assert put(out) == []
    journal.add([row(1)])
    assert put(out) == [[row(1)]]


def test_a_row_waits_for_half_a_minute_at_most_where_others_follow(out, clock):
    journal = Journal(out)
    journal.add([row(1)])
    clock.now += 20
    journal.add([row(2)])
    clock.now += 10.1
    journal.add([row(3)])
    assert put(out) == [[row(1), row(2), row(3)]]
    clock.now += 20
    journal.add([row(4)])  # its time begins anew
    clock.now += 29
    journal.add([row(5)])
    assert len(put(out)) == 1
    clock.now += 2
    journal.add([])
    assert sorted(map(len, put(out))) == [2, 3]


def test_a_bundle_without_rows_puts_nothing(out):
    journal = Journal(out)
    journal.add([])
    journal.flush()
    assert list(out.files.list(out.path)) == []


def test_files_are_named_by_their_run_and_no_two_alike(out):
    for _ in range(3):
        journal = Journal(out)
        journal.add([row(1)])
        journal.flush()
    names = list(journals(out))
    assert len(set(names)) == 3
    assert all(name.startswith("journal/r1.") and name.endswith(".jsonl") for name in names)
    assert {run_of(name) for name in names} == {"r1"}


def test_a_folder_that_no_run_has_claimed_gets_no_journal(out):
    unclaimed = OutputFolder(out.path, out.files)
    journal = Journal(unclaimed)
    journal.add(map(row, range(2000)))
    journal.flush()
    assert list(journals(out)) == []


def test_what_could_not_be_put_is_put_by_the_next_flush(tmp_path):
    out = OutputFolder(f"{tmp_path}/out", Files(), run="r1")
    journal = Journal(out)
    journal.add([row(1)])
    with pytest.raises(JobError, match=r"has been removed; restore it"):
        journal.flush()
    out.files.make_folder(out.path)
    journal.flush()
    assert put(out) == [[row(1)]]


def test_what_is_no_file_of_a_runs_is_none_of_the_journal(tmp_path, touch):
    path = os.fsencode(tmp_path)
    touch(path, b"journal/bad\xff.jsonl", b"journal/r1.b\xff.jsonl", b"journal/notes.txt")
    touch(path, b"journal/r1.a.jsonl")
    assert list(journals(OutputFolder(str(tmp_path), Files()))) == ["journal/r1.a.jsonl"]


def test_a_folder_that_is_not_there_has_no_journal(tmp_path, memory):
    for path in (f"{tmp_path}/nowhere", "memory://b/nowhere"):
        assert list(journals(OutputFolder(path, Files()))) == []


@given(st.lists(rows | rejects, max_size=8))
def test_rows_come_back_from_their_lines_and_those_that_rejects_keep(records):
    lines = "".join(f"{line_of(record)}\n" for record in records)
    kept = (one if isinstance(one, Row) else one.row for one in records)
    assert list(read_rows(lines.encode())) == [row for row in kept if row is not None]


@given(st.lists(rows, max_size=5), st.randoms(use_true_random=False))
def test_a_file_that_was_cut_off_gives_the_rows_before_the_cut(found, random):
    data = "".join(f"{line_of(one)}\n" for one in found).encode()
    cut = random.randint(0, len(data))
    whole = data[:cut].count(b"\n")
    got = list(read_rows(data[:cut]))
    # A line less its end alone is whole, too.
    assert got in (found[:whole], found[: whole + 1])
    assert len(got) <= whole + data[cut : cut + 1].count(b"\n")


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"null", b"[]", b"1", b"\xff\xfe", b'{"image": "a"}', b'{"pixels": null}']
    + [b"[" * 100_000, b'{"image":' * 100_000, line_of(row(3)).replace("2", '"2"').encode()],
)
def test_a_damaged_line_costs_its_own_row_alone(line):
    before, after = (line_of(row(number)).encode() for number in (1, 2))
    assert list(read_rows(b"\n".join([before, line, after, b""]))) == [row(1), row(2)]


@given(rows)
def test_a_line_that_lacks_a_field_is_passed_over(one):
    for name in one.to_json():
        line = {key: value for key, value in one.to_json().items() if key != name}
        assert list(read_rows(json.dumps(line).encode())) == []


def test_an_image_that_two_workers_have_journalled_is_one(tmp_path):
    out = OutputFolder(str(tmp_path), Files(), run="r1")
    other = Journal(OutputFolder(str(tmp_path), Files(), run="r2"))
    other.add([row(9)])
    other.flush()
    first, second, journalled = Journal(out), Journal(out), JournalCounter(out)
    assert journalled() == (0, 0)
    first.add([row(1), row(2), REJECT])
    first.flush()
    assert journalled() == (2, 1)
    second.add([row(2), row(3), REJECT, Reject("/photos/1.jpg", "read", "OSError", "just now")])
    second.flush()
    assert journalled() == (3, 1)


def test_a_file_of_the_journal_is_read_once(tmp_path, monkeypatch):
    out = OutputFolder(str(tmp_path), Files(), run="r1")
    journal, journalled = Journal(out), JournalCounter(out)
    journal.add([row(1)])
    journal.flush()
    assert journalled() == (1, 0)
    monkeypatch.setattr(Files, "read", lambda *arguments: pytest.fail("read again"))
    assert journalled() == (1, 0)
