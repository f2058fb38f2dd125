"""Finds the remote jobs that can be queried by name: those on Flink and on Dataflow."""

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
    """Gives a job a unique name, unless it has one, by which its runner can be queried.

    Args:
        options: the job's; its name is set.
        run: the run's name.

    Returns:
        The job; None if its runner cannot be queried.
    """
    cloud = options.view_as(GoogleCloudOptions)
    if cloud.job_name is None:
        cloud.job_name = f"fcn-beam-{run.lower()}"
    at = address(options)
    return None if at is None else _job(at, cloud.job_name)


def address(options: PipelineOptions) -> str | None:
    """Returns the URL at which a job's runner can be queried; None if it cannot."""
    runner = (options.view_as(StandardOptions).runner or "").rpartition(".")[2].lower()
    if runner == "flinkrunner":
        return flink.address(options)
    return dataflow.address(options) if runner == "dataflowrunner" else None


def is_running(recorded: Any) -> bool | None:
    """Whether a job recorded in a lock still runs; None if its runner does not answer.

    Args:
        recorded: see :meth:`pipeline.runners.remote_job.RemoteJob.to_json`.
    """
    try:
        return bool(_job(recorded["at"], recorded["name"]).ids())
    except (OSError, KeyError, TypeError, AttributeError):  # the last three from a crafted lock
        return None


def _job(at: str, name: str) -> RemoteJob:
    return DataflowJob(at, name) if dataflow.is_jobs_url(at) else FlinkJob(at, name)


def check_options(options: PipelineOptions) -> None:
    """Lets Beam validate the options of a remote job; it may fill in missing ones.

    Raises:
        UserError: an option that its runner needs is missing or invalid.
    """
    name = options.view_as(StandardOptions).runner
    try:
        found = PipelineOptionsValidator(options, create_runner(name)).validate()
    except Exception as error:  # Google's libraries look up buckets
        found = [first_line(error)]
    if found:
        raise UserError(f"--runner {name}: {found[0].rstrip('.')}")
