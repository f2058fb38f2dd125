import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import types

import pytest

from model_build.common.errors import JobError, UserError
from pipeline.outputs import lock as module
from pipeline.outputs import processes
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.lock import Lock, check_claim, new_run, numbers
from pipeline.outputs.products import MASKS
from pipeline.storage import Files, local
from tests.waiting import DEADLINE, wait_until

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


@pytest.fixture
def no_locks(monkeypatch):
    """A local disk that knows no locks, such as some that are mounted from elsewhere."""

    def refuse(handle, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(local.fcntl, "flock", refuse)


class Clock:
    """The time of an observer, which passes only while it waits; ``meanwhile`` runs each time."""

    def __init__(self, meanwhile=lambda: None):
        self.now, self.looks, self.meanwhile = 100.0, 0, meanwhile

    def monotonic(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds
        self.looks += 1
        self.meanwhile()


@pytest.fixture
def observer(monkeypatch):
    """A lock whose taker waits by a :class:`Clock`; both are returned."""

    def make(out, meanwhile=lambda: None):
        clock = Clock(meanwhile)
        watch = types.SimpleNamespace(
            monotonic=clock.monotonic, strftime=module.time.strftime, gmtime=module.time.gmtime
        )
        monkeypatch.setattr(module, "time", watch)
        return Lock(out, clock.wait), clock

    return make


def run_of(out, name):
    return OutputFolder(out.path, FILES, run=name)


def content(out, number):
    return json.loads(FILES.read(f"{out.path}/lock/{number}"))


def put(out, number, **changes):
    """A lock of a job on another machine, which beats; its clock is an hour ahead."""
    FILES.write(f"{out.path}/lock/{number}", json.dumps(foreign(**changes)).encode())


def foreign(**changes):
    found = {
        "run": "other",
        "started": "2999-01-01 00:00:00 UTC",
        "host": "elsewhere",
        "boot": "b007",
        "processes": "pid:[1]",
        "process": 77,
        "began": "123",
        "held": False,
        "beat": 4,
        "ended": False,
    }
    return found | changes


# Taking and leaving


def test_a_lock_is_taken_and_released_without_a_trace(out):
    lock = Lock(out).take()
    assert (lock.number, lock.dead) == (1, ())
    assert numbers(out) == [1]
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
    assert numbers(out) == [1]
    with pytest.raises(UserError, match="another job is writing there"):
        Lock(run_of(out, "r3")).take()
    lock.release()


def test_after_a_release_the_next_one_takes_it(out):
    Lock(out).take().release()
    lock = Lock(run_of(out, "r2")).take()
    assert lock.dead == ()
    lock.release()


def test_a_run_that_failed_leaves_its_lock_and_the_next_one_takes_over(out):
    Lock(out).take().abandon()
    assert content(out, 1)["ended"]
    second = Lock(run_of(out, "r2")).take()
    assert (second.number, second.dead) == (2, ("r1",))
    second.abandon()
    third = Lock(run_of(out, "r3")).take()
    assert third.number == 3
    assert sorted(third.dead) == ["r1", "r2"]
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
    check_claim(out, winners[0].number)
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
    assert numbers(out) == []


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
    assert (lock.number, lock.dead, clock.looks) == (2, ("other",), 0)
    lock.release()
    assert numbers(shared) == []


def test_a_process_that_has_abandoned_its_lock_and_lives_on_holds_none(shared, holder):
    holder.stdin.write("abandon\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "done\n"
    lock = Lock(shared).take()
    assert lock.dead == ("other",)
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
    assert second.dead == ("r1",)
    second.release()


def test_a_process_of_the_same_number_that_began_later_holds_no_lock(out, observer):
    here = processes.this_process()
    assert here["began"]
    put(out, 1, **here | {"began": "17"})
    lock, clock = observer(out)
    assert lock.take().dead == ("other",)
    assert clock.looks == 0
    lock.release()


def test_a_number_of_another_containers_process_tells_nothing(out, observer):
    put(out, 1, **processes.this_process() | {"processes": "pid:[1]", "process": 2**30})
    lock, clock = observer(out)
    lock.take()
    assert clock.looks > 1
    lock.release()


def test_a_number_from_before_the_machine_was_started_again_tells_nothing(out, observer):
    put(out, 1, **processes.this_process() | {"boot": "b007"})
    lock, clock = observer(out)
    lock.take()
    assert clock.looks > 1
    lock.release()


# Another machine, which only its beats tell of


def test_a_lock_that_does_not_change_is_dead_after_a_minute_of_the_observers_clock(out, observer):
    put(out, 7)
    lock, clock = observer(out)
    lock.take()
    assert (lock.number, lock.dead) == (8, ("other",))
    assert module.DEAD_AFTER <= clock.now - 100 < module.DEAD_AFTER + 2 * module.LOOK
    lock.release()
    assert list(FILES.list(out.path)) == []


def test_a_lock_that_changes_is_alive_whatever_its_clock_says(out, observer):
    put(out, 7)
    lock, clock = observer(out, lambda: clock.looks == 9 and put(out, 7, beat=5))
    with pytest.raises(UserError, match="process 77 on elsewhere, since 2999-01-01 00:00:00 UTC"):
        lock.take()
    assert clock.looks == 9
    assert numbers(out) == [7]


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
    assert numbers(out) == [7, 8]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b"[" * 100_000])
def test_a_lock_that_cannot_be_understood_is_dead_on_local_disk_and_watched_elsewhere(
    out, observer, data
):
    FILES.write(f"{out.path}/lock/3", data)
    lock, clock = observer(out)
    lock.take()
    assert (lock.number, lock.dead) == (4, ())
    assert (clock.looks == 0) == out.path.startswith("/")
    lock.release()
    assert list(FILES.list(out.path)) == []


@pytest.mark.parametrize("change", [{"process": "\0"}, {"run": ["r1"]}, {"process": []}])
def test_a_crafted_lock_of_this_machine_is_no_obstacle(out, observer, change):
    put(out, 3, **processes.this_process() | change)
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
    assert (lock.number, sorted(lock.dead), clock.looks) == (11, ["a", "b", "c"], 0)
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
    monkeypatch.setattr(module, "BEAT", 0.01)
    lock = Lock(out).take()
    assert content(out, 1)["held"] is False
    before = content(out, 1)["beat"]
    wait_until(lambda: content(out, 1)["beat"] > before + 2, "it beats three times")
    lock.release()
    assert list(FILES.list(out.path)) == []


def test_a_beating_holder_is_seen_by_an_observer_elsewhere(out, no_locks, monkeypatch):
    elsewhere = {key: foreign()[key] for key in ("host", "boot", "processes", "process", "began")}
    with monkeypatch.context() as patch:
        patch.setattr(processes, "this_process", lambda: elsewhere)
        holder = Lock(out)
    monkeypatch.setattr(module, "BEAT", 0.01)
    monkeypatch.setattr(module, "LOOK", 0.05)
    holder.take()
    with pytest.raises(UserError, match="process 77 on elsewhere"):
        Lock(run_of(out, "r2")).take()
    holder.abandon()
    second = Lock(run_of(out, "r2")).take()
    assert second.dead == ("r1",)
    second.release()


def test_a_lock_that_was_taken_away_is_not_put_back(out, no_locks, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.01)
    lock = Lock(out).take()
    FILES.delete(f"{out.path}/lock/1")
    lock._beating.join(DEADLINE)
    assert not lock._beating.is_alive()
    lock.abandon()
    assert numbers(out) == []


def test_a_lock_that_was_taken_away_and_given_to_another_is_left_to_it(out):
    lock = Lock(out).take()
    FILES.delete(f"{out.path}/lock/1")
    second = Lock(run_of(out, "r2")).take()
    assert second.number == 1
    lock.release()
    assert content(out, 1)["run"] == "r2"
    second.release()


def test_a_beat_that_fails_does_not_end_the_beating(out, no_locks, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.01)
    lock = Lock(out).take()
    failed, again = threading.Event(), threading.Event()
    rewrite = lock._write

    def fail(path):
        if not failed.is_set():
            failed.set()
            raise OSError("the store does not answer")
        rewrite(path)
        again.set()

    lock._write = fail
    assert again.wait(DEADLINE)
    lock.release()


def test_a_held_lock_does_not_beat(tmp_path):
    out = OutputFolder(str(tmp_path), FILES, run="r1")
    lock = Lock(out).take()
    assert lock._beating is None
    lock.release()


# Superseded


def test_a_run_that_sees_a_higher_lock_ends(out):
    lock = Lock(out).take()
    check_claim(out, lock.number)
    put(out, 2)
    with pytest.raises(
        JobError, match=f"{out.path}: another job has taken over this output folder"
    ):
        check_claim(out, lock.number)
    lock.abandon()
    assert numbers(out) == [1, 2]


def test_a_release_leaves_the_lock_of_who_has_taken_over(out):
    lock = Lock(out).take()
    put(out, 2)
    lock.release()
    assert numbers(out) == [2]


def test_a_lock_that_has_gone_supersedes_nobody(out):
    check_claim(out, 1)


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


def test_names_of_runs_differ_and_tell_when_they_began():
    names = {new_run() for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}", name) for name in names)


@pytest.mark.parametrize("name", ["../../victim", "..", ".", "a/b", "", 5, None])
def test_a_crafted_lock_names_no_run_whose_files_would_be_removed(out, name):
    put(out, 1, run=name, ended=True)
    lock = Lock(out).take()
    assert lock.dead == ()
    lock.release()


# Jobs on a cluster

JOB = {"at": "http://cluster:8081", "name": "fcn-beam-r1"}
GONE = {"process": 1, "began": "never"}  # of this machine


def submitted(out, leave=True):
    """A run whose job a cluster goes on with; its process is gone, with or without a word."""
    lock = Lock(out, job=JOB).take()
    lock._content |= GONE
    for path in (f"{out.path}/lock/{lock.number}", module._mark(out, out.run)):
        lock._write(path)
    lock.leave()
    return lock


def of_run(out, run, lives, wait=None):
    other = OutputFolder(out.path, FILES, run=run)
    return Lock(other, wait or (lambda seconds: None), lives=lives)


def test_a_lock_holds_as_long_as_its_job_runs_on_the_cluster(out):
    submitted(out)
    asked = []
    with pytest.raises(UserError, match=r"\(fcn-beam-r1 on http://cluster:8081, process 1 "):
        of_run(out, "r2", lambda job: asked.append(job) or True).take()
    assert asked == [JOB]
    second = of_run(out, "r2", lambda job: False).take()
    assert second.dead == ("r1",)
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
    assert second.dead == ("r1",)
    second.release()


def test_the_lock_of_a_job_whose_cluster_is_gone_is_dead_after_a_while(out, observer):
    submitted(out)
    lock, clock = observer(OutputFolder(out.path, FILES, run="r2"))
    lock.take()
    assert clock.now - 100 >= module.DEAD_AFTER
    lock.release()


def test_what_a_job_on_a_cluster_needs_is_left_alone_by_others(out):
    """A worker of another run cannot ask the cluster, and does not take the process for the job."""
    run = new_run()
    submitted(OutputFolder(out.path, FILES, run=run))
    assert not module.is_gone(out, run)
    out.write_json("summary.json", {"run": run})
    assert module.is_gone(out, run)


def test_when_a_lock_was_taken_its_disk_or_store_tells(out):
    lock = Lock(out).take()
    out.write("masks/a.png", b"1")
    (mask,) = out.existing(MASKS)
    assert lock.taken() <= mask.written
    lock.release()
