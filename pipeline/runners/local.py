"""Jobs in this process."""

from __future__ import annotations

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.runner import create_runner
from apache_beam.runners.worker import sdk_worker

from model_build.common.errors import UserError, require
from model_build.common.limits import check_address_space
from pipeline.network import threads

# The in-process runner's harness prints the traceback that it logs as well. Threads of a run that
# was interrupted may do so later, so this holds for good.
sdk_worker.print = lambda *values, **options: None  # type: ignore[attr-defined]


# The in-process runner's streams would pass on each second, by another thread, what they have
# encoded so far: also half an element, which nobody can decode. Without that they pass on what has
# come together between two elements, as elsewhere.
worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0


# Bytes that a job takes once its network is loaded: threads of Beam, gRPC and TensorFlow, and what
# each stream holds.
ADDRESS_SPACE, BYTES_PER_STREAM = 250_000_000, 400_000_000


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
    workers = _streams(workers)
    options.view_as(StandardOptions).runner = LOCAL_RUNNER
    direct = options.view_as(DirectOptions)
    direct.direct_num_workers = workers
    direct.direct_running_mode = "multi_threading" if workers > 1 else "in_memory"


def check_memory(workers: int | None) -> None:
    """Checks that a job in this process may take the address space that its threads need.

    Args:
        workers: see :func:`run_here`.

    Raises:
        JobError: it may not.
    """
    streams = _streams(workers)
    remedy = ", or use fewer --workers" if streams > 1 else ""
    called = f"a job of {streams} stream{'s' * (streams > 1)}"
    check_address_space(ADDRESS_SPACE + streams * BYTES_PER_STREAM, called, remedy)


def _streams(workers: int | None) -> int:
    if workers is not None:
        return workers
    return 1 if threads.has_accelerator() else threads.usable_cores()
