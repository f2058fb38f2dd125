"""Whole jobs on a Flink cluster of this machine: one job manager, two task managers."""

import functools
import json
import os
import signal
import sys
from pathlib import Path

import pytest

import pipeline
from model_build.common.errors import UserError
from pipeline.segmentation import plan, run
from tests.pipeline.segmentation import reliability
from tests.pipeline.segmentation.reliability import Job, small_steps, stub_network
from tests.servers.flink import use_job_server, worker
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

COUNT = 40


@pytest.fixture
def archive(tmp_path):
    reliability.pictures(tmp_path / "photos", COUNT)
    return str(tmp_path / "photos")


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


@pytest.fixture
def hold(tmp_path):
    """While this file exists, each worker stops after a window."""
    path = tmp_path / "worker" / "hold"
    path.parent.mkdir()
    path.touch()
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def start(tmp_path, stub_model, flink):
    """Starts a job on the cluster, with the stub in the network's place.

    Beam starts a job server for each command; where that makes no difference to a test, its jobs
    have one in common.
    """
    jobs, model = [], stub_model()

    def run(where, out, *options, environment=None, own_server=False):
        arguments = ["segment", where, "--output", out, "--model", model, *options]
        arguments += flink.options(worker(tmp_path / "worker"), environment)
        prepare = [stub_network, small_steps]
        if not own_server:
            prepare.append(functools.partial(use_job_server, flink.job_server))
        jobs.append(Job(arguments, tmp_path / "logs", prepare))
        return jobs[-1]

    yield run
    for job in jobs:
        job.send(signal.SIGKILL)


@pytest.fixture
def expected(stub_job, archive, tmp_path):
    """The masks of a local run."""
    stub_job(archive, tmp_path / "expected", precision="float32")  # as it is on a cluster
    return reliability.masks(str(tmp_path / "expected"))


def held_worker(job, hold):
    """Waits for a worker that has written a window's masks and stops; returns its process id."""
    noted = hold.with_name("held")

    def held():
        assert job.running, job.errors
        return noted.exists() and noted.read_text().split()

    return int(wait_until(held, "a worker has written a window")[0])


def lock_of(out):
    (path,) = Path(out, "lock").iterdir()
    return json.loads(path.read_text())


def test_masks_and_rows_are_those_of_a_local_run(flink, photos, tiny_model, tmp_path):
    options = {"model": tiny_model, "precision": "float32"}
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    pipeline.segment(photos, here, **options)
    command = Path(sys.executable).with_name("fcn-beam-worker")
    arguments = [
        argument for argument in flink.options(str(command)) if argument != "--shared-disk"
    ]
    request = plan.Request(
        inputs=[str(photos)], output=there, beam_options=arguments, shared_disk=True, **options
    )
    summary = run.segment(request)
    assert reliability.masks(there) == reliability.masks(here)
    assert (summary.images, summary.masks, summary.rejected) == (5, 5, 0)
    assert summary.stages["infer"] > 0
    of_both = [
        [{key: row[key] for key in row if key != "versions"} for row in reliability.rows(out)]
        for out in (here, there)
    ]
    assert of_both[0] == of_both[1]


def test_a_job_continues_when_a_task_manager_is_killed(
    flink, start, archive, out, hold, expected, tmp_path
):
    log = tmp_path / "worker/loaded"

    def loaded():
        return log.read_text().split() if log.exists() else []

    job = start(archive, out, "--parallelism", "2")
    wait_until(lambda: len(loaded()) == 2, "both task managers have work")
    held = held_worker(job, hold)
    (running,) = flink.running_jobs()
    flink.kill_task_manager(held)
    wait_until(lambda: flink.failures(running), "the job has noticed it")
    flink.heal()
    hold.unlink()
    assert job.wait() == 0, job.errors
    reliability.assert_complete(out, expected)
    assert reliability.summary(out)["kept"] == 0, "an attempt's masks are this run's"
    assert len(loaded()) == len(set(loaded())), "a worker has loaded the model twice"


def test_after_the_last_restart_a_job_fails_and_can_be_resumed(
    flink, start, stub_job, archive, out, hold, expected
):
    job = start(archive, out)
    held = held_worker(job, hold)
    hold.with_name("worker").write_text("#!/bin/sh\nexit 1\n")  # no other worker starts
    flink.kill_task_manager(held)
    flink.heal()
    hold.unlink()
    assert job.wait() == 1
    (line,) = [line for line in job.errors.splitlines() if line.startswith("fcn-beam: ")]
    assert "run the same command again to continue" in line
    stub_job(archive, out)
    reliability.assert_complete(out, expected)
    assert reliability.summary(out)["kept"] > 0


def test_an_interrupt_cancels_the_job_on_the_cluster(flink, start, stub_job, archive, out, hold):
    job = start(archive, out, own_server=True)  # which Beam ends when it is interrupted
    held_worker(job, hold)
    (running,) = flink.running_jobs()
    job.send(signal.SIGINT)
    wait_until(lambda: not flink.running_jobs(), "the job is cancelled")
    hold.unlink()
    assert job.wait() == 130
    assert flink.jobs()[running] == "CANCELED"
    assert "fcn-beam: interrupted; the job fcn-beam-" in job.errors
    assert "has been cancelled; run the same command again to continue" in job.errors
    assert lock_of(out)["ended"]
    assert stub_job(archive, out).images == COUNT


def test_a_job_may_be_left_to_the_cluster(flink, start, stub_job, archive, out, hold, expected):
    job = start(archive, out, "--detach", own_server=True)  # which ends with the command
    assert job.wait() == 0, job.errors
    (running,) = flink.running_jobs()
    assert running in job.output
    assert lock_of(out)["job"]["name"] in job.output
    with pytest.raises(UserError, match=r"another job is writing there .fcn-beam-.* on http://"):
        stub_job(archive, out)
    hold.unlink()
    wait_until(lambda: os.path.exists(f"{out}/summary.json"), "the job is done")
    wait_until(lambda: not flink.running_jobs(), "it has ended")
    assert stub_job(archive, out).kept == COUNT
    reliability.assert_complete(out, expected)


def test_the_output_folder_is_taken_for_as_long_as_the_job_of_a_killed_client_runs(
    flink, start, stub_job, archive, out, hold, expected
):
    job = start(archive, out)
    held_worker(job, hold)
    job.send(signal.SIGKILL)
    job.wait()
    with pytest.raises(UserError, match="another job is writing there"):
        stub_job(archive, out)
    hold.unlink()
    wait_until(lambda: not flink.running_jobs(), "the job has ended")
    assert stub_job(archive, out).kept == COUNT
    reliability.assert_complete(out, expected)


def test_photos_and_results_may_be_in_a_store(start, s3, archive, expected):
    reliability.upload(Path(archive), f"{s3}/photos")
    variables = {k: v for k, v in os.environ.items() if k.startswith(reliability.STORE_VARIABLES)}
    job = start(f"{s3}/photos", f"{s3}/out", environment=variables)
    assert job.wait() == 0, job.errors
    assert reliability.masks(f"{s3}/out") == expected
    assert reliability.summary(f"{s3}/out")["masks"] == COUNT
