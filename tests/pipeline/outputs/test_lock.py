import contextlib
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from model_build.common.errors import UserError
from pipeline.outputs import runs
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.lock import Lock, later_runs, lock_numbers
from pipeline.storage import Files
from tests.pipeline.outputs.locks import content, put, run_of
from tests.waiting import DEADLINE

FILES = Files()
HOLD = """
import sys
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.lock import Lock
from pipeline.storage import Files
out = OutputFolder(sys.argv[1], Files(), run="other")
lock = Lock(out).take()
print(lock.number, flush=True)
for line in sys.stdin:
    getattr(lock, line.strip())()
    print("done", flush=True)
"""


@pytest.fixture
def out(folder):
    """OUT of a run ``r1``, on each kind of disk and store."""
    FILES.make_folder(folder)
    return OutputFolder(folder, FILES, run="r1")


# Taking and leaving


def test_a_lock_is_taken_and_released_without_a_trace(out):
    lock = Lock(out).take()
    assert lock.number == 1
    assert lock_numbers(out) == [1]
    lock.release()
    assert list(FILES.list(out.path)) == []
    if out.path.startswith("/"):
        assert os.listdir(out.path) == []


def test_a_lock_tells_whose_it_is(out):
    lock = Lock(out).take()
    found = content(out, 1)
    assert (found["run"], found["process"], found["ended"]) == ("r1", os.getpid(), False)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", found["started"])
    assert found["held"] == out.path.startswith("/")
    lock.release()


def test_a_second_run_is_refused_with_host_process_and_time(out):
    lock = Lock(out).take()
    found = content(out, 1)
    whose = f"process {os.getpid()} on {re.escape(found['host'])}, since {found['started']}"
    second = Lock(run_of(out, "r2"))
    with pytest.raises(
        UserError, match=rf"{out.path}: another job is writing there \({whose}\); wait"
    ):
        second.take()
    second.abandon()  # as whoever was refused does
    assert content(out, 1) == found
    assert lock_numbers(out) == [1]
    with pytest.raises(UserError, match="another job is writing there"):
        Lock(run_of(out, "r3")).take()
    lock.release()


def test_after_a_release_the_next_one_takes_it(out):
    Lock(out).take().release()
    lock = Lock(run_of(out, "r2")).take()
    assert lock.number == 1
    lock.release()


def test_a_run_that_failed_leaves_its_lock_and_the_next_one_takes_over(out):
    Lock(out).take().abandon()
    assert content(out, 1)["ended"]
    second = Lock(run_of(out, "r2")).take()
    assert (second.number, later_runs(out)) == (2, {"r2"})
    second.abandon()
    third = Lock(run_of(out, "r3")).take()
    assert third.number == 3
    assert (later_runs(out), later_runs(run_of(out, "r3"))) == ({"r2", "r3"}, set())
    third.release()
    assert list(FILES.list(out.path)) == []


def test_of_several_who_take_it_at_once_just_one_gets_it(out):
    start = threading.Barrier(6)
    locks = [Lock(run_of(out, f"r{number}")) for number in range(6)]
    outcomes = []

    def take(lock):
        start.wait(DEADLINE)
        try:
            outcomes.append(lock.take())
        except UserError as refusal:
            outcomes.append(str(refusal))

    threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    winners = [one for one in outcomes if isinstance(one, Lock)]
    assert len(outcomes) == 6
    assert len(winners) == 1
    assert all("another job" in one for one in outcomes if isinstance(one, str))
    assert content(out, 1)["run"] == winners[0]._out.run
    for lock in locks:
        if lock is not winners[0]:
            lock.abandon()
    assert later_runs(winners[0]._out) == set()
    winners[0].release()
    assert list(FILES.list(out.path)) == []


def test_an_attempt_that_succeeded_without_being_heard_of_counts(out, monkeypatch):
    create = Files.create_held

    def unheard(self, path, data, **options):
        handle = create(self, path, data, **options)
        if handle is not None:
            os.close(handle)
        raise FileExistsError(path)

    monkeypatch.setattr(Files, "create_held", unheard)
    lock = Lock(out).take()
    assert lock.number == 1
    lock.release()
    assert lock_numbers(out) == []


# Another process


@pytest.fixture(params=["local", "s3", "gs"])
def folder_of_processes(request, tmp_path):
    """A folder that another process of this machine can reach, too."""
    if request.param == "local":
        (tmp_path / "out").mkdir()
        return str(tmp_path / "out")
    return f"{request.getfixturevalue(request.param)}/out"


@pytest.fixture
def shared(folder_of_processes):
    return OutputFolder(folder_of_processes, FILES, run="r1")


def start_holder(stack, out):
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", HOLD, out.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    stack.callback(process.kill)
    assert process.stdout.readline() == "1\n"
    return process


@pytest.fixture
def holder(shared):
    """A process that holds the lock of OUT as run ``other``; it does what is written to it."""
    with contextlib.ExitStack() as stack:
        yield start_holder(stack, shared)


def test_a_process_that_was_killed_holds_no_lock(shared, holder, observer):
    with pytest.raises(UserError, match=f"process {holder.pid} on"):
        Lock(shared).take()
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # ended, but nobody has asked for it
    lock, clock = observer(shared)
    lock.take()
    assert (lock.number, clock.looks) == (2, 0)
    lock.release()
    assert lock_numbers(shared) == []


def test_a_process_that_has_abandoned_its_lock_and_lives_on_holds_none(shared, holder):
    holder.stdin.write("abandon\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "done\n"
    lock = Lock(shared).take()
    assert lock.number == 2
    lock.release()


def test_a_run_that_failed_without_being_able_to_say_so_holds_no_lock(out, monkeypatch):
    lock = Lock(out).take()

    def full(self, path, data, **options):
        raise OSError(28, "No space left on device", path)

    with monkeypatch.context() as patch:
        patch.setattr(Files, "write", full)
        with pytest.raises(OSError, match="No space left"):
            lock.abandon()
    assert not content(out, 1)["ended"]
    second = Lock(run_of(out, "r2")).take()
    assert second.number == 2
    second.release()


def test_a_process_of_the_same_number_that_began_later_holds_no_lock(out, observer):
    here = runs.this_process()
    assert here["began"]
    put(out, 1, **here | {"began": "17"})
    lock, clock = observer(out)
    assert lock.take().number == 2
    assert clock.looks == 0
    lock.release()


def test_a_number_of_another_containers_process_tells_nothing(out, observer):
    put(out, 1, **runs.this_process() | {"processes": "pid:[1]", "process": 2**30})
    lock, clock = observer(out)
    lock.take()
    assert clock.looks > 1
    lock.release()


def test_a_number_from_before_the_machine_was_started_again_tells_nothing(out, observer):
    put(out, 1, **runs.this_process() | {"boot": "b007"})
    lock, clock = observer(out)
    lock.take()
    assert clock.looks > 1
    lock.release()


# Superseded


def test_runs_of_higher_locks_are_later(out):
    lock = Lock(out).take()
    put(out, 2)
    put(out, 3, run=["r3"])
    FILES.write(f"{out.path}/lock/4", b"no JSON")
    assert later_runs(out) == {"other"}
    assert later_runs(run_of(out, "other")) == set()
    lock.abandon()
    assert lock_numbers(out) == [1, 2, 3, 4]


def test_for_a_run_whose_lock_was_removed_all_others_are_later(out):
    put(out, 1, run="a", ended=True)
    put(out, 2, run="b")
    assert later_runs(out) == {"a", "b"}


def test_a_release_leaves_the_lock_of_who_has_taken_over(out):
    lock = Lock(out).take()
    put(out, 2)
    lock.release()
    assert lock_numbers(out) == [2]


# What keeps it from being taken


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    lock = Lock(OutputFolder(f"{tmp_path}/gone", FILES, run="r1"))
    with pytest.raises(FileNotFoundError, match="has been removed"):
        lock.take()
    lock.abandon()
    assert os.listdir(tmp_path) == []


def test_a_file_where_the_locks_should_be_is_told(tmp_path, touch):
    touch(tmp_path, "lock")
    lock = Lock(OutputFolder(str(tmp_path), FILES, run="r1"))
    with pytest.raises(NotADirectoryError):
        lock.take()
    with contextlib.suppress(NotADirectoryError):
        lock.abandon()
    assert os.path.isfile(tmp_path / "lock")
