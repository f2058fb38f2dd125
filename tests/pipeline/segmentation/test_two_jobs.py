"""Two jobs on one output folder: the second is refused; where it is not, no harm is done."""

import functools
import json
import os
import signal
import time

import pytest

from model_build.common.errors import UserError
from pipeline.outputs import lock
from pipeline.segmentation import plan, run
from tests.pipeline.segmentation import reliability
from tests.pipeline.segmentation.reliability import (
    FILES,
    Job,
    StubSegmenter,
    assert_complete,
    contents,
    masks,
    pictures,
    stub_network,
    versions,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
COUNT = 16


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Photos that no test changes."""
    folder = tmp_path_factory.mktemp("archive")
    pictures(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def expected(archive, stub_model, tmp_path_factory):
    """The masks of a run that nothing disturbs."""
    out = str(tmp_path_factory.mktemp("undisturbed") / "out")
    with pytest.MonkeyPatch.context() as patch:
        stub_network(patch.setattr)
        run.segment(plan.Request(inputs=[str(archive)], output=out, model=stub_model()))
    return masks(out)


@pytest.fixture
def out(request, tmp_path):
    """OUT on the disk or store that the test names."""
    if request.param == "local":
        return f"{tmp_path}/out"
    return f"{request.getfixturevalue(request.param)}/out"


everywhere = pytest.mark.parametrize("out", ["local", "s3", "gs"], indirect=True)


def wait_for(gate, after):
    """The network waits after so many images until a file is there."""
    reliability.small_steps()
    seen = []

    class Waiting(StubSegmenter):
        def __call__(self, images):
            seen.append(len(images))
            while len(seen) > after and not os.path.exists(gate):
                time.sleep(0.02)
            return super().__call__(images)

    reliability.StubSegmenter = Waiting
    stub_network()


@pytest.fixture
def start(archive, out, stub_model, tmp_path):
    """Starts a job; one that is given a gate waits after some images until that file is there."""
    model = stub_model()

    def do(gate=None, after=7):  # with windows of four in two streams one is full, and written
        command = ["segment", str(archive), "--output", out, "--model", model, "--workers", "2"]
        prepare = [stub_network] + ([functools.partial(wait_for, str(gate), after)] if gate else [])
        return Job(command, tmp_path / "log", prepare)

    return do


def until(condition, job, what):
    """Waits until something is so, while a job runs."""

    def seen():
        assert job.running, job.errors
        return condition()

    wait_until(seen, what)


@pytest.fixture
def waiting(start, out, tmp_path):
    """A job in the middle of its work, and the file that lets it go on.

    Its one full window has been written, with its rows: nothing in OUT moves.
    """
    gate = tmp_path / "gate"
    job = start(gate)
    until(lambda: contents(f"{out}/journal"), job, "a window's rows are written")
    yield job, gate
    gate.touch()
    job.wait()


def locks(out):
    return {name: json.loads(data) for name, data in contents(f"{out}/lock").items()}


@everywhere
def test_the_second_job_is_refused_and_told_of_the_first(waiting, start, out, expected):
    first, gate = waiting
    (content,) = locks(out).values()
    second = start()
    assert second.wait() == 2
    (line,) = second.errors.splitlines()
    told = f"process {first.pid} on {content['host']}, since {content['started']}"
    assert told in line
    gate.touch()
    assert first.wait() == 0, first.errors
    assert_complete(out, expected)


@everywhere
def test_with_the_lock_taken_away_by_force_both_end_with_right_masks(
    waiting, start, out, expected, tmp_path
):
    first, gate = waiting
    (name,) = locks(out)
    FILES.delete(f"{out}/lock/{name}")
    second = start(tmp_path / "second", after=0)
    until(lambda: locks(out), second, "the second job has a lock")
    before = contents(f"{out}/masks")
    gate.touch()
    (tmp_path / "second").touch()
    assert first.wait() in (0, 1), first.errors
    assert second.wait() in (0, 1), second.errors
    assert masks(out) == expected
    assert {name: masks(out)[name] for name in before} == before
    stood = versions(out)
    third = start()
    assert third.wait() == 0, third.errors
    assert f"{COUNT} kept from an earlier run" in third.output
    assert versions(out) == stood
    assert_complete(out, expected)


@everywhere
def test_one_that_was_killed_is_taken_over_at_once(waiting, start, out, expected):
    first, _ = waiting
    first.send(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    stood = versions(out)
    second = start()
    assert second.wait() == 0, second.errors
    assert {path: versions(out)[path] for path in stood} == stood
    assert_complete(out, expected)


# Machines that this one cannot ask


def elsewhere(out, **changes):
    """Makes the lock in OUT that of a process on another machine."""
    ((name, content),) = locks(out).items()
    content |= {"host": "far-away", "boot": "b", "processes": "p"} | changes
    FILES.write(f"{out}/lock/{name}", json.dumps(content).encode())


def killed(waiting):
    first, _ = waiting
    first.send(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("out", "started"),
    [("s3", "2001-01-01 00:00:00 UTC"), ("gs", "2099-01-01 00:00:00 UTC")],
    indirect=["out"],
)
def test_a_lock_of_a_machine_that_is_gone_is_dead_once_it_has_not_changed_for_a_while(
    waiting, stub_job, archive, out, expected, started, monkeypatch
):
    killed(waiting)
    elsewhere(out, started=started)  # by a clock that is off by more than an hour
    monkeypatch.setattr(lock, "DEAD_AFTER_SECONDS", 0.5)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.1)
    stub_job(archive, out)
    assert_complete(out, expected)


@pytest.mark.parametrize("out", ["s3"], indirect=True)
def test_a_lock_of_another_machine_that_changes_is_respected(
    waiting, stub_job, archive, out, monkeypatch
):
    killed(waiting)
    elsewhere(out)
    left = contents(out)
    beats = iter(range(1, 100))
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.1)
    sleep = time.sleep

    def beat(seconds):
        sleep(seconds)
        elsewhere(out, beat=next(beats))

    take = lock.Lock.__init__

    def make(self, folder, **options):
        take(self, folder, wait=beat, **options)

    monkeypatch.setattr(lock.Lock, "__init__", make)
    with pytest.raises(UserError, match=r"process .* on far-away, since "):
        stub_job(archive, out)
    now = contents(out)
    assert {name: now[name] for name in now if not name.startswith("lock/")} == {
        name: left[name] for name in left if not name.startswith("lock/")
    }


# A run that lives without its lock


@pytest.mark.parametrize("out", ["local", "s3"], indirect=True)
def test_a_run_whose_lock_was_removed_ends_once_another_one_has_begun_and_leaves_its_result_alone(
    waiting, start, stub_job, archive, out, expected
):
    first, gate = waiting
    (name,) = locks(out)
    run = locks(out)[name]["run"]
    FILES.delete(f"{out}/lock/{name}")
    # Files that the first one is working on, and those of a run that was killed.
    for owner in (run, "20200101T000000Z-abcdef"):
        FILES.write(f"{out}/.unfinished/{owner}/half", b"half a mask")
        FILES.write(f"{out}/journal/{owner}.x.jsonl", b"")
        FILES.write(f"{out}/histograms-{owner}-00000-of-00001.jsonl", b"")
    stub_job(archive, out)
    assert_complete(out, expected)
    summary = contents(out)["summary.json"]
    gate.touch()
    assert first.wait() == 1
    assert "another job has taken over this output folder" in first.errors
    assert masks(out) == expected
    assert contents(out)["summary.json"] == summary
    third = start()
    assert third.wait() == 0, third.errors
    assert f"{COUNT} kept from an earlier run" in third.output
    assert_complete(out, expected)
