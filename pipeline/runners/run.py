"""Runs a pipeline in this process or on another runner, or submits it without waiting."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import MetricResults
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.runners.portability.portable_runner import PipelineResult as PortableResult
from apache_beam.runners.runner import PipelineResult, PipelineState

from model_build.common.errors import JobError, Terminated, first_line
from pipeline.runners import progress
from pipeline.runners.failures import describe_end, explain_failure
from pipeline.runners.remote_job import RemoteJob

_LOGGER = logging.getLogger(__name__)


def run_pipeline(
    pipeline: beam.Pipeline,
    listed: int = 0,
    job: RemoteJob | None = None,
    journalled: Callable[[], tuple[int, int]] | None = None,
) -> PipelineResult:
    """Runs a pipeline and waits for it, with its progress shown.

    Args:
        listed: number of images, if it is known in advance.
        job: the same job as its runner knows it; None if that cannot be queried.
        journalled: see :func:`pipeline.runners.progress.poll_counts`; None if the pipeline runs in
            this process.

    Raises:
        JobError: the job failed; its text is the cause in one line.
        KeyboardInterrupt: on Ctrl-C, or its subclass Terminated on SIGTERM. A remote job has then
            been cancelled; the text says so, or why not.
    """
    result = None
    try:
        with _raising_interrupts(), progress.show_progress():
            progress.COUNTS.add(listed=listed)
            result = pipeline.run()
            if journalled is None:
                result.wait_until_finish()
                return result
            with progress.poll_counts(_metrics_reader(result, job), journalled):
                state = result.wait_until_finish()
            with contextlib.suppress(Exception):  # these counts are only for display
                progress.COUNTS.set(**progress.metric_counts(result.metrics()))
    except KeyboardInterrupt as interrupt:
        if journalled is not None:
            interrupt.args = (_cancel(pipeline.options, result, job),)
        raise
    except Exception as error:
        raise _failed(error) from error
    if state != PipelineState.DONE:  # some runners raise on failure, others only return the state
        raise JobError(describe_end(state))
    return result


def _metrics_reader(result: PipelineResult, job: RemoteJob | None) -> Callable[[], MetricResults]:
    """Returns a function that queries a job's runner for its metrics."""
    return lambda: result.metrics() if job is None else job.metrics(result)


def submit_pipeline(pipeline: beam.Pipeline, job: RemoteJob) -> None:
    """Submits a pipeline to a cluster and waits until the cluster has accepted it.

    Raises:
        JobError, KeyboardInterrupt: as :func:`run_pipeline` does.
    """
    try:
        with _raising_interrupts():
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
    # With a single stream the exception arrives unwrapped, without its class in its text.
    return JobError(explain_failure(f"{type(error).__name__}: {error}"))


def _cancel(options: PipelineOptions, result: PipelineResult | None, job: RemoteJob | None) -> str:
    """Cancels a remote job and returns a sentence on the outcome."""
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
            return f"{named} has ended with its job server"  # which Beam had started for this job
        return f"{named} could not be cancelled ({first_line(error)}): cancel it there"
    return f"{named} has been cancelled"


@contextlib.contextmanager
def _raising_interrupts() -> Iterator[None]:
    """Raises KeyboardInterrupt on Ctrl-C or SIGTERM, even if Beam turned it into a job's error."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals and may set handlers for them
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
