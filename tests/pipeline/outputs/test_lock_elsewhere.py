"""Locks that the operating system does not hold: in stores, of other machines, of clusters."""

import os
import threading

import pytest

from model_build.common.errors import UserError
from pipeline.outputs import lock as module
from pipeline.outputs import runs
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.lock import Lock, later_runs, lock_numbers
from pipeline.outputs.products import MASKS
from pipeline.storage import Files
from tests.pipeline.outputs.locks import content, foreign, put, run_of
from tests.waiting import DEADLINE, wait_until

FILES = Files()


@pytest.fixture
def out(folder):
    """OUT of a run ``r1``, on each kind of disk and store."""
    FILES.make_folder(folder)
    return OutputFolder(folder, FILES, run="r1")


# Another machine, which only its beats tell of


def test_a_lock_that_does_not_change_is_dead_after_a_minute_of_the_observers_clock(out, observer):
    put(out, 7)
    lock, clock = observer(out)
    lock.take()
    assert lock.number == 8
    assert (
        module.DEAD_AFTER_SECONDS
        <= clock.now - 100
        < module.DEAD_AFTER_SECONDS + 2 * module.POLL_SECONDS
    )
    lock.release()
    assert list(FILES.list(out.path)) == []


def test_a_lock_that_changes_is_alive_whatever_its_clock_says(out, observer):
    put(out, 7)
    lock, clock = observer(out, lambda: clock.looks == 9 and put(out, 7, beat=5))
    with pytest.raises(UserError, match="process 77 on elsewhere, since 2999-01-01 00:00:00 UTC"):
        lock.take()
    assert clock.looks == 9
    assert lock_numbers(out) == [7]


def test_a_lock_that_ends_while_it_is_watched_is_dead_at_once(out, observer):
    put(out, 7)
    lock, clock = observer(out, lambda: put(out, 7, ended=True))
    lock.take()
    assert (clock.looks, lock.number) == (1, 8)
    lock.release()


def test_a_lock_that_goes_while_it_is_watched_is_no_obstacle(out, observer):
    put(out, 7)
    lock, clock = observer(out, lambda: FILES.delete(f"{out.path}/lock/7"))
    lock.take()
    assert clock.looks == 1
    lock.release()


def test_somebody_else_may_be_faster_while_a_dead_lock_is_watched(out, observer):
    put(out, 7)
    lock, _ = observer(out, lambda: put(out, 8, run="third", process=78, beat=0))
    beats = iter(range(1, 1000))
    lock._wait, wait = lambda s: (wait(s), put(out, 8, process=78, beat=next(beats))), lock._wait
    with pytest.raises(UserError, match="process 78 on elsewhere"):
        lock.take()
    assert lock_numbers(out) == [7, 8]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b"[" * 100_000])
def test_a_lock_that_cannot_be_understood_is_dead_on_local_disk_and_watched_elsewhere(
    out, observer, data
):
    FILES.write(f"{out.path}/lock/3", data)
    lock, clock = observer(out)
    lock.take()
    assert lock.number == 4
    assert (clock.looks == 0) == out.path.startswith("/")
    lock.release()
    assert list(FILES.list(out.path)) == []


@pytest.mark.parametrize("change", [{"process": "\0"}, {"run": ["r1"]}, {"process": []}])
def test_a_crafted_lock_of_this_machine_is_no_obstacle(out, observer, change):
    put(out, 3, **runs.this_process() | change)
    lock, _ = observer(out)
    lock.take().release()


def test_a_lock_that_cannot_be_understood_but_is_held_is_respected(tmp_path):
    out = OutputFolder(str(tmp_path), FILES, run="r1")
    handle = FILES.create_held(f"{out.path}/lock/3", b"")
    with pytest.raises(UserError, match="another job is writing there"):
        Lock(out).take()
    os.close(handle)


def test_the_highest_number_holds(out, observer):
    put(out, 9, run="a", ended=True)
    put(out, 10, run="b", ended=True)
    put(out, 2, run="c")  # superseded: nobody asks whether it lives
    lock, clock = observer(out)
    lock.take()
    assert (lock.number, clock.looks, later_runs(out)) == (11, 0, set())
    lock.release()


def test_what_is_no_lock_is_left_alone(out):
    for name in ("notes.txt", "x/5", "-3", "1.5", "²"):
        FILES.write(f"{out.path}/lock/{name}", b"")
    lock = Lock(out).take()
    assert lock.number == 1
    lock.release()
    assert len(list(FILES.list(out.path))) == 5


# Beating


def test_a_lock_beats_where_the_disk_or_store_knows_no_locks(out, no_locks, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)
    lock = Lock(out).take()
    assert content(out, 1)["held"] is False
    before = content(out, 1)["beat"]
    wait_until(lambda: content(out, 1)["beat"] > before + 2, "it beats three times")
    lock.release()
    assert list(FILES.list(out.path)) == []


def test_a_heartbeat_holder_is_seen_by_an_observer_elsewhere(out, no_locks, monkeypatch):
    elsewhere = {key: foreign()[key] for key in ("host", "boot", "processes", "process", "began")}
    with monkeypatch.context() as patch:
        patch.setattr(runs, "this_process", lambda: elsewhere)
        holder = Lock(out)
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    holder.take()
    with pytest.raises(UserError, match="process 77 on elsewhere"):
        Lock(run_of(out, "r2")).take()
    holder.abandon()
    second = Lock(run_of(out, "r2")).take()
    assert second.number == 2
    second.release()


def test_a_lock_that_was_taken_away_is_not_put_back(out, no_locks, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)
    lock = Lock(out).take()

    def has_ended():
        FILES.delete(f"{out.path}/lock/1")  # again: a beat that was being written puts it back
        return not lock._heartbeat.is_alive()

    wait_until(has_ended, "the heartbeat has ended")
    lock.abandon()
    assert lock_numbers(out) == []


def test_a_lock_that_was_taken_away_and_given_to_another_is_left_to_it(out):
    lock = Lock(out).take()
    FILES.delete(f"{out.path}/lock/1")
    second = Lock(run_of(out, "r2")).take()
    assert second.number == 1
    lock.release()
    assert content(out, 1)["run"] == "r2"
    second.release()


def test_a_beat_that_fails_does_not_end_the_heartbeat(out, no_locks, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)
    lock = Lock(out).take()
    failed, again = threading.Event(), threading.Event()
    rewrite = lock._write

    def fail():
        if not failed.is_set():
            failed.set()
            raise OSError("the store does not answer")
        rewrite()
        again.set()

    lock._write = fail
    assert again.wait(DEADLINE)
    lock.release()


def test_a_held_lock_does_not_beat(tmp_path):
    out = OutputFolder(str(tmp_path), FILES, run="r1")
    lock = Lock(out).take()
    assert lock._heartbeat is None
    lock.release()


# Jobs on a cluster

JOB = {"at": "http://cluster:8081", "name": "fcn-beam-r1"}
GONE = {"process": 1, "began": "never"}  # of this machine


def submitted(out):
    """A run whose job a cluster goes on with; its process is gone, with or without a word."""
    lock = Lock(out, job=JOB).take()
    lock._content |= GONE
    lock._write()
    lock.hand_over()
    return lock


def of_run(out, run, is_running, wait=None):
    other = OutputFolder(out.path, FILES, run=run)
    return Lock(other, wait or (lambda seconds: None), is_running=is_running)


def test_a_lock_holds_as_long_as_its_job_runs_on_the_cluster(out):
    submitted(out)
    asked = []
    with pytest.raises(UserError, match=r"\(fcn-beam-r1 on http://cluster:8081, process 1 "):
        of_run(out, "r2", lambda job: asked.append(job) or True).take()
    assert asked == [JOB]
    second = of_run(out, "r2", lambda job: False).take()
    assert second.number == 2
    second.release()


def test_the_job_of_a_process_that_lives_need_not_be_known_to_the_cluster(out):
    first = Lock(out, job=JOB).take()
    with pytest.raises(UserError, match="another job is writing there"):
        of_run(out, "r2", lambda job: False).take()
    first.release()
    of_run(out, "r2", lambda job: False).take().release()


def test_a_job_that_says_it_is_done_is_dead_though_its_cluster_is_gone(out):
    submitted(out)
    out.write_json("summary.json", {"run": "r1"})
    second = of_run(out, "r2", lambda job: None).take()
    assert second.number == 2
    second.release()


def test_the_lock_of_a_job_whose_cluster_is_gone_is_dead_after_a_while(out, observer):
    submitted(out)
    lock, clock = observer(OutputFolder(out.path, FILES, run="r2"))
    lock.take()
    assert clock.now - 100 >= module.DEAD_AFTER_SECONDS
    lock.release()


def test_the_time_of_a_lock_is_by_the_clock_of_its_disk_or_store(out):
    lock = Lock(out).take()
    out.write("masks/a.png", b"1")
    (mask,) = out.existing(MASKS)
    assert lock.taken_at() <= mask.written
    lock.release()
