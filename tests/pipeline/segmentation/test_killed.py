"""Runs that are killed at any moment, and resumed by the same command."""

import functools
import random
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.pipeline.segmentation import reliability
from tests.pipeline.segmentation.reliability import (
    Countdown,
    Job,
    assert_complete,
    interpose_bytes,
    interpose_everywhere,
    journalled,
    masks,
    pictures,
    stub_network,
    versions,
)

pytestmark = pytest.mark.slow

PHOTOS_PER_WINDOW = 24
AT_ONCE = 2  # processes


def die_at_operation(number):
    interpose_everywhere(Countdown(number, reliability.die).hit)


def die_in_write(number):
    interpose_bytes(Countdown(number, reliability.die).hit)


def moments(count, of, seed):
    """Numbers of operations all along a run, drawn at random: one from each stretch of it."""
    rng = random.Random(seed)
    return [1 + int(of * (stretch + rng.random()) / count) for stretch in range(count)]


@pytest.fixture
def undisturbed(stub_job, monkeypatch):
    """Runs a job that nothing disturbs; its masks, and how many operations and writes it takes."""

    def run(where, out):
        operations, writes = Countdown(None, None), Countdown(None, None)
        reliability.small_steps(monkeypatch.setattr)
        interpose_everywhere(operations.hit, monkeypatch.setattr)
        interpose_bytes(writes.hit, monkeypatch.setattr)
        stub_job(where, out)
        counted = operations.count, writes.count
        return masks(out), *counted

    return run


@pytest.fixture
def kill_and_resume(stub_model, tmp_path):
    """Starts a job, kills it, and looks at what the same command makes of what is left."""
    model = stub_model()

    def do(where, out, fatal, expected):
        command = ["segment", str(where), "--output", out, "--model", model]
        log = tmp_path / "log" / out.rpartition("/")[2]
        killed = Job(command, log, [stub_network, reliability.small_steps, fatal])
        status = killed.wait()
        assert status in (-signal.SIGKILL, 0), killed.errors
        stood, rows = versions(out), journalled(out)
        assert stood.keys() >= rows, "a row without its mask"
        resumed = Job(command, log)
        assert resumed.wait() == 0, resumed.errors
        assert_complete(out, expected)
        now = versions(out)
        # A mask that stands is whole: even those whose row was lost are not made again.
        assert {path: now[path] for path in stood} == stood
        return status, len(stood), len(rows)

    return do


def test_killed_at_any_moment_on_local_disk(kill_and_resume, undisturbed, tmp_path):
    pictures(tmp_path / "in", PHOTOS_PER_WINDOW)
    expected, operations, writes = undisturbed(tmp_path / "in", f"{tmp_path}/undisturbed")
    fatal = [
        *(functools.partial(die_at_operation, n) for n in moments(6, operations, seed=11)),
        *(functools.partial(die_in_write, n) for n in moments(3, writes, seed=12)),
    ]
    assert_all_resumed(kill_and_resume, tmp_path / "in", f"{tmp_path}/out", fatal, expected)


def test_killed_at_any_moment_on_a_store(kill_and_resume, undisturbed, tmp_path, s3):
    pictures(tmp_path / "in", PHOTOS_PER_WINDOW)
    reliability.upload(tmp_path / "in", f"{s3}/in")
    expected, operations, _ = undisturbed(f"{s3}/in", f"{s3}/undisturbed")
    fatal = [functools.partial(die_at_operation, n) for n in moments(4, operations, seed=13)]
    assert_all_resumed(kill_and_resume, f"{s3}/in", f"{s3}/out", fatal, expected)


def assert_all_resumed(kill_and_resume, where, out, fatal, expected):
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(
            pool.map(
                lambda index: kill_and_resume(where, f"{out}{index}", fatal[index], expected),
                range(len(fatal)),
            )
        )
    # The moments are all over the run: else this shows less than it says.
    assert sum(status == -signal.SIGKILL for status, _, _ in found) >= len(found) - 1
    stood = [masks for _, masks, _ in found]
    assert min(stood) == 0
    assert max(stood) > PHOTOS_PER_WINDOW // 2
    assert any(0 < count < PHOTOS_PER_WINDOW for count in stood)
    assert any(rows for _, _, rows in found)
