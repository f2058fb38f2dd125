"""Which jobs elsewhere can be asked for, and by what name: those on Flink and on Dataflow."""

from __future__ import annotations

from typing import Any

from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.runner import create_runner

from model_build.common.errors import UserError, first_line
from pipeline.runners import dataflow, flink
from pipeline.runners.dataflow import DataflowJob
from pipeline.runners.flink import FlinkJob
from pipeline.runners.remote_job import RemoteJob


def name_job(options: PipelineOptions, run: str) -> RemoteJob | None:
    """Gives a job a name of its own, unless it has one, by which its runner can be asked for it.

    Args:
        options: of the job; its name is set.
        run: the run's name.

    Returns:
        The job; None where the runner is none that can be asked.
    """
    cloud = options.view_as(GoogleCloudOptions)
    if cloud.job_name is None:
        cloud.job_name = f"fcn-beam-{run.lower()}"
    at = address(options)
    return None if at is None else _job(at, cloud.job_name)


def address(options: PipelineOptions) -> str | None:
    """The URL at which a job's runner can be asked for it; None where it cannot."""
    runner = (options.view_as(StandardOptions).runner or "").rpartition(".")[2].lower()
    if runner == "flinkrunner":
        return flink.address(options)
    return dataflow.address(options) if runner == "dataflowrunner" else None


def is_running(noted: Any) -> bool | None:
    """Whether a job that a lock has noted still runs; None where its runner cannot be asked.

    Args:
        noted: see :meth:`pipeline.runners.remote_job.RemoteJob.to_json`.
    """
    try:
        return bool(_job(noted["at"], noted["name"]).ids())
    except (OSError, KeyError, TypeError, AttributeError):  # the latter of a crafted lock
        return None


def _job(at: str, name: str) -> RemoteJob:
    return DataflowJob(at, name) if dataflow.is_address(at) else FlinkJob(at, name)


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
