"""Where a graph runs: in this process, or on a runner elsewhere."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import MetricResults
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.portability.portable_runner import PipelineResult as PortableResult
from apache_beam.runners.runner import PipelineResult, PipelineState, create_runner
from apache_beam.runners.worker import sdk_worker

from model_build.errors import JobError, Terminated, UserError, first_line, require
from model_build.limits import check_address_space
from pipeline.jobs import progress
from pipeline.jobs.job import RemoteJob
from pipeline.network import threads

_LOGGER = logging.getLogger(__name__)

# The in-process runner's harness prints the traceback that it logs as well. Threads of a run that
# was interrupted may do so later, so this holds for good.
sdk_worker.print = lambda *values, **options: None  # type: ignore[attr-defined]

# The in-process runner's streams would pass on each second, by another thread, what they have
# encoded so far: also half an element, which nobody can decode. Without that they pass on what has
# come together between two elements, as elsewhere.
worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0

# Bytes that a job takes once its network is loaded: threads of Beam, gRPC and TensorFlow, and what
# each stream holds.
ADDRESS_SPACE, OF_A_STREAM = 250_000_000, 400_000_000

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


def check_options(options: PipelineOptions) -> None:
    """Lets Beam look at the options of a job elsewhere, which may complete them.

    Raises:
        UserError: one that its runner needs is missing or cannot be.
    """
    name = options.view_as(StandardOptions).runner
    try:
        found = PipelineOptionsValidator(options, create_runner(name)).validate()
    except Exception as error:  # of Google's libraries, which it may ask for a bucket
        found = [first_line(error)]
    if found:
        raise UserError(f"--runner {name}: {found[0].rstrip('.')}")


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
    check_address_space(ADDRESS_SPACE + streams * OF_A_STREAM, called, remedy)


def _streams(workers: int | None) -> int:
    if workers is not None:
        return workers
    return 1 if threads.has_accelerator() else threads.usable_cores()


def run(
    pipeline: beam.Pipeline,
    listed: int = 0,
    job: RemoteJob | None = None,
    journalled: Callable[[], tuple[int, int]] | None = None,
) -> PipelineResult:
    """Runs a pipeline and waits for it, with its progress shown.

    Args:
        listed: number of images, where it is known before.
        job: what a cluster knows it by.
        journalled: see :func:`pipeline.jobs.progress.following`; None where the pipeline runs in
            this process.

    Raises:
        JobError: what ended the job, in one line.
        KeyboardInterrupt: on Ctrl-C; Terminated, a kind of it, on SIGTERM. A job elsewhere has been
            cancelled then; its text says so, or why not.
    """
    result = None
    try:
        with _telling_interrupts(), progress.shown():
            progress.COUNTS.add(listed=listed)
            result = pipeline.run()
            if journalled is None:
                result.wait_until_finish()
                return result
            with progress.following(_asking(result, job), journalled):
                state = result.wait_until_finish()
            with contextlib.suppress(Exception):  # what matters is how the job has ended
                progress.COUNTS.put(**progress.metric_counts(result.metrics()))
    except KeyboardInterrupt as interrupt:
        if journalled is not None:
            interrupt.args = (_cancel(pipeline.options, result, job),)
        raise
    except Exception as error:
        raise _failed(error) from error
    if state != PipelineState.DONE:  # Beam may raise it, and may say so
        raise JobError(_ended(state))
    return result


def _asking(result: PipelineResult, job: RemoteJob | None) -> Callable[[], MetricResults]:
    """What asks a job's runner for its metrics."""
    return lambda: result.metrics() if job is None else job.metrics(result)


def submit(pipeline: beam.Pipeline, job: RemoteJob) -> None:
    """Hands a pipeline to a cluster and waits until it has it.

    Raises:
        JobError, KeyboardInterrupt: as :func:`run` does.
    """
    try:
        with _telling_interrupts():
            pipeline.run()
            job.wait_until_listed()
    except KeyboardInterrupt as interrupt:
        interrupt.args = (_cancel(pipeline.options, None, job),)
        raise
    except JobError:
        raise
    except Exception as error:
        raise _failed(error) from error


def _failed(error: Exception) -> JobError:
    _LOGGER.info("the job failed", exc_info=error)
    # What one stream raises comes as it is, without its class in its text.
    return JobError(explain(f"{type(error).__name__}: {error}"))


def _cancel(options: PipelineOptions, result: PipelineResult | None, job: RemoteJob | None) -> str:
    """Cancels a job elsewhere, and tells what has become of it."""
    named = job or "the job"
    try:
        if job is not None:
            if not job.cancel():
                return f"{named} is being cancelled, which takes a while"
        elif result is not None:
            result.cancel()
    except KeyboardInterrupt:
        return f"{named} may still run: cancel it there"
    except Exception as error:
        of_beam = isinstance(result, PortableResult)
        if of_beam and not options.view_as(PortableOptions).job_endpoint and job is None:
            return f"{named} has ended with its job server"  # which Beam has started for it
        return f"{named} could not be cancelled ({first_line(error)}): cancel it there"
    return f"{named} has been cancelled"


# Beam passes on what a worker raised as text: its traceback, which ends by the class and message.
# The message of a KeyError is in quotes, with what Beam adds to it.
_RAISED = re.compile(
    r"^(?:\S*?(?P<kind>[A-Za-z_]\w*): )(?P<quote>[\"']?)(?P<message>.+?)"
    r"(?P<step>(?: \[while running '[^']*'\])*)(?P=quote)$"
)


# What Dataflow's client raises of a job that has ended otherwise than by itself.
_ENDED = re.compile(r"Dataflow pipeline failed\. State: (?P<state>[A-Z_]+), Error:\s+None$")


def _ended(state: str) -> str:
    """How a job has come to its end, of which its runner tells no more.

    Args:
        state: of Beam's.
    """
    if state == PipelineState.FAILED:
        return "the job failed, and its runner does not say why; its page there may"
    return f"the job was {state.lower()} there"


def explain(text: str) -> str:
    """Why a job failed, in one line, of what its runner raised.

    Args:
        text: of the exception: tracebacks of workers, perhaps of another language around them.
    """
    ended = _ENDED.search(text.strip())
    if ended is not None:
        return _ended(ended["state"])
    lines = [line.strip() for line in text.strip().splitlines()] or ["no cause was given"]
    found = [match for line in lines if (match := _RAISED.match(line))]
    for match in found:
        if match["kind"] in (JobError.__name__, UserError.__name__):
            return match["message"]
    for match in reversed(found):
        if match["step"]:  # raised by a step of ours, and not meant to be
            why = f"{match['kind']}: {match['message']}"
            return f"a bug in fcn-beam: {why}; please report it"
    return f"the job failed: {lines[-1]}"


@contextlib.contextmanager
def _telling_interrupts() -> Iterator[None]:
    """Ends by a KeyboardInterrupt on Ctrl-C or SIGTERM: Beam may pass it on as a job's error."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted, and may say what happens then
        return
    interrupts: list[type[KeyboardInterrupt]] = []

    def note(number: int, frame: Any) -> None:
        interrupts.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
        raise interrupts[0]

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except BaseException:
        if interrupts:
            raise interrupts[0] from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
