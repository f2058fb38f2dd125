"""Runs jobs in this process."""

from __future__ import annotations

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.runner import create_runner
from apache_beam.runners.worker import sdk_worker

from model_build.common.errors import UserError, require
from model_build.common.limits import check_address_space
from pipeline.network import threads

# The in-process runner's harness logs each traceback and prints it as well. Threads of an
# interrupted run may do so later, so this is never undone.
sdk_worker.print = lambda *values, **options: None  # type: ignore[attr-defined]


# The in-process runner's streams would flush their buffers every second from another thread, even
# in the middle of an element, which then cannot be decoded. With 0 they flush only between two
# elements, as other runners do.
worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0


# Bytes that a job needs once its network is loaded: for the threads of Beam, gRPC and TensorFlow,
# and for each stream.
BASE_BYTES, BYTES_PER_STREAM = 250_000_000, 400_000_000


LOCAL_RUNNER = "FnApiRunner"


LOCAL_RUNNER_NAMES = ("direct", "directrunner", "fnapirunner")


def is_local(options: PipelineOptions) -> bool:
    """Whether the job runs in this process.

    Raises:
        UserError: Beam has no such runner, or a package it needs is not installed.
    """
    runner = options.view_as(StandardOptions).runner or LOCAL_RUNNER
    if runner.lower() in LOCAL_RUNNER_NAMES:
        return True
    if runner.lower().startswith("dataflow"):
        require("gcp", "google.cloud.storage", "apitools", purpose=f"--runner {runner}")
    try:
        create_runner(runner)
    except (ImportError, ValueError) as error:
        raise UserError(f"--runner {runner}: {error}") from None
    return False


def run_here(options: PipelineOptions, workers: int | None) -> None:
    """Sets a job's options so that it runs in this process with ``workers`` streams.

    Beam's ``DirectRunner`` would first try to download another runner's binary; here it means the
    in-process runner.

    Args:
        workers: number of streams; None means one per core, or one on an accelerator.
    """
    workers = _streams(workers)
    options.view_as(StandardOptions).runner = LOCAL_RUNNER
    direct = options.view_as(DirectOptions)
    direct.direct_num_workers = workers
    direct.direct_running_mode = "multi_threading" if workers > 1 else "in_memory"


def check_memory(workers: int | None) -> None:
    """Checks that this process may allocate the address space that a job's threads need.

    Args:
        workers: see :func:`run_here`.

    Raises:
        JobError: the limit of the process is too low.
    """
    streams = _streams(workers)
    remedy = ", or use fewer --workers" if streams > 1 else ""
    purpose = f"a job of {streams} stream{'s' * (streams > 1)}"
    check_address_space(BASE_BYTES + streams * BYTES_PER_STREAM, purpose, remedy)


def _streams(workers: int | None) -> int:
    if workers is not None:
        return workers
    return 1 if threads.has_accelerator() else threads.usable_cores()
