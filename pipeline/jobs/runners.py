"""Where a graph runs: in this process, or on a runner elsewhere."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineResult, create_runner

from model_build.errors import JobError, UserError, require
from pipeline.jobs import progress
from pipeline.network import threads

LOCAL_RUNNER = "FnApiRunner"
LOCAL_NAMES = ("direct", "directrunner", "fnapirunner")


def is_local(options: PipelineOptions) -> bool:
    """Whether the job runs in this process.

    Raises:
        UserError: Beam has no such runner, or what it needs is not installed.
    """
    runner = options.view_as(StandardOptions).runner or LOCAL_RUNNER
    if runner.lower() in LOCAL_NAMES:
        return True
    if runner.lower().startswith("dataflow"):
        require("gcp", "google.cloud.storage", "apitools", purpose=f"--runner {runner}")
    try:
        create_runner(runner)
    except (ImportError, ValueError) as error:
        raise UserError(f"--runner {runner}: {error}") from None
    return False


def run_here(options: PipelineOptions, workers: int | None) -> None:
    """Makes a job run in this process, in so many streams.

    Beam's ``DirectRunner`` would first try to download another runner's binary; it is taken to mean
    the in-process one.

    Args:
        workers: streams; None takes as many as there are cores, or one on an accelerator.
    """
    if workers is None:
        workers = 1 if threads.has_accelerator() else threads.usable_cores()
    options.view_as(StandardOptions).runner = LOCAL_RUNNER
    direct = options.view_as(DirectOptions)
    direct.direct_num_workers = workers
    direct.direct_running_mode = "multi_threading" if workers > 1 else "in_memory"


def run(pipeline: beam.Pipeline, listed: int = 0) -> PipelineResult:
    """Runs a pipeline and waits for it, with its progress shown.

    Args:
        listed: number of images, where it is known before.

    Raises:
        JobError: what ended the job, in one line.
        KeyboardInterrupt: on Ctrl-C.
    """
    try:
        with _telling_interrupts(), progress.shown():
            progress.COUNTS.add(listed=listed)
            result = pipeline.run()
            result.wait_until_finish()
            return result
    except Exception as error:
        # Beam passes on what a worker raised as text: its traceback, then the cause.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise JobError(f"the job failed: {lines[-1].strip()}") from error


@contextlib.contextmanager
def _telling_interrupts() -> Iterator[None]:
    """Ends by a KeyboardInterrupt on Ctrl-C: Beam may pass it on as an error of the job."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted, and may say what happens then
        return
    interrupted = threading.Event()

    def note(number: int, frame: Any) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    except BaseException:
        if interrupted.is_set():
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
