"""``fcn-beam status``: how far a job is, told by its output folder alone."""

import functools
import json
import os
import signal
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from model_build.common.errors import UserError
from pipeline.cli.status import status as command
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.runs import new_run
from pipeline.segmentation.status import began, status
from tests.pipeline.segmentation.reliability import (
    Job,
    journalled,
    pictures,
    small_steps,
    stub_network,
)
from tests.waiting import wait_until

COUNT = 12
DONE = 7  # masks of two windows of four, of which one may hold the image that is none


def hold_after_masks(number, gate):
    """Waits as long as a file stands before more masks are written."""
    write, written = OutputFolder.write, []

    def hold(self, name, data):
        if name.startswith("masks/"):
            written.append(name)
            while len(written) > number and os.path.exists(gate):
                time.sleep(0.02)
        return write(self, name, data)

    OutputFolder.write = hold


@pytest.fixture
def held(tmp_path):
    """A job that has made some of its masks, and waits; where it waits, and its OUT."""
    pictures(tmp_path / "in", COUNT)
    (tmp_path / "in/broken.jpg").write_text("no image")
    gate, out = tmp_path / "gate", str(tmp_path / "out")
    gate.touch()
    prepare = [stub_network, small_steps, functools.partial(hold_after_masks, DONE + 1, gate)]
    options = ["--output", out, "--workers", "1"]
    job = Job(["segment", str(tmp_path / "in"), *options], tmp_path / "log", prepare)

    def half_done():
        assert job.running, job.errors
        return Path(out, "journal").exists() and len(journalled(out)) >= DONE

    wait_until(half_done, "two windows are written")
    yield job, gate, out
    gate.unlink(missing_ok=True)
    job.wait()


def describe_error(out):
    result = CliRunner().invoke(command, [out], standalone_mode=False)
    assert result.exception is None, result.exception
    return result.output.splitlines()


@pytest.mark.slow
def test_a_job_runs_and_is_done(held):
    job, gate, out = held
    found = status(out, {})
    assert (found.masks, found.summary) == (len(journalled(out)), None)
    assert f"process {job.pid} on " in found.holder
    first, masks, rejected, rate = describe_error(out)
    assert first.startswith(f"{out}: running (process {job.pid} on ")
    assert (masks.split(), rejected.split()[0]) == (["masks", f"{found.masks}"], "rejected")
    assert rate.endswith(" images/s")
    gate.unlink()
    assert job.wait() == 0
    done = describe_error(out)
    assert done[0] == f"{out}: done"
    assert done[1:4] == job.output.splitlines()[:3]  # the job's own table
    assert not any("spent on" in line for line in done)  # which nobody has noted


@pytest.mark.slow
def test_a_job_that_was_killed_has_stopped(held):
    job, _, out = held
    job.send(signal.SIGKILL)
    job.wait()
    first, masks, _ = describe_error(out)
    assert first == f"{out}: stopped; run the same command again to continue"
    assert int(masks.split()[1]) >= DONE


@pytest.mark.parametrize("line", [b"{}", b"no JSON", b'{"image": [1]}', b"[" * 100_000])
def test_lines_that_no_run_has_journalled_do_not_count(held, line):
    _, _, out = held
    before = status(out, {})
    (some, *_) = Path(out, "journal").iterdir()
    run = json.loads(Path(out, "run.json").read_text())["run"]
    (some.parent / f"{run}.crafted.jsonl").write_bytes(line)
    assert status(out, {})[:5] == before[:5]


@pytest.mark.parametrize("text", [None, "{}", '{"run": 1}', "[]"])
def test_where_no_job_has_been_that_is_told(tmp_path, text):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match="no job has written there; check the path"):
        status(str(tmp_path), {})


def test_a_runs_name_tells_when_it_began():
    assert abs(began(new_run()) - time.time()) < 60
    assert began("20260102T030405Z-abcdef") == 1767323045
