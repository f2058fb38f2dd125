"""A job on a Flink cluster, which is asked by Flink's REST interface.

https://nightlies.apache.org/flink/flink-docs-stable/docs/ops/rest_api/
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
)
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.portable_runner import PortableMetrics
from apache_beam.runners.runner import PipelineResult
from google.protobuf import json_format

from pipeline.runners.remote_job import RemoteJob

METRICS = "__metricscontainers"


class FlinkJob(RemoteJob):
    """A job on the Flink at ``http://HOST:PORT``."""

    ENDED = ("FINISHED", "FAILED", "CANCELED")
    STARTED = ("RUNNING", "FINISHED")
    FAILED = ("FAILED",)
    CANCELLING = "CANCELLING"
    OPTION = "--flink_master"

    def states(self) -> Mapping[str, str]:
        try:
            found = [job for job in _ask(f"{self.at}/jobs/overview")["jobs"] if self._is(job)]
            return {job["jid"]: job["state"] for job in found}
        except (KeyError, TypeError, ValueError) as error:
            raise OSError(f"{self.at}: is not a Flink cluster's address") from error

    def _is(self, job: Mapping[str, Any]) -> bool:
        return job["name"] == self.name

    def prepare(self, options: PipelineOptions) -> None:
        """As :meth:`RemoteJob.prepare`; the job gets as many streams as the cluster has free slots.

        Beam would make it one, whatever the cluster's settings say: it looks for them on the
        machine that submits (https://beam.apache.org/documentation/runners/flink/,
        ``parallelism``).
        """
        super().prepare(options)
        flink = options.view_as(FlinkRunnerOptions)
        if flink.parallelism < 1:
            overview = _ask(f"{self.at}/overview")
            # A cluster may start its task managers when there is a job; then Beam decides.
            flink.parallelism = overview["slots-available"] or overview["slots-total"] or -1

    def request_end(self, job: str) -> None:
        _ask(f"{self.at}/jobs/{job}?mode=cancel", "PATCH")

    def page(self) -> str:
        return "".join(f"{self.at}/#/job/running/{job}/overview" for job in self.ids()[:1])

    def metrics(self, result: PipelineResult) -> PortableMetrics:
        """Beam's metrics, as far as its workers have told.

        Raises:
            OSError: the cluster cannot be asked.
        """
        response = beam_job_api_pb2.GetJobMetricsResponse()
        for job in self.ids():
            # Beam has given Flink its metrics as an accumulator, whose text is JSON.
            for accumulator in _ask(f"{self.at}/jobs/{job}/accumulators")["user-task-accumulators"]:
                if accumulator["name"] == METRICS:
                    json_format.Parse(accumulator["value"], response, ignore_unknown_fields=True)
        return PortableMetrics(response)


def address(options: PipelineOptions) -> str | None:
    """The address of the cluster that a job is for; None where it cannot be asked."""
    master = options.view_as(FlinkRunnerOptions).flink_master.strip()
    if master.startswith("[") or options.view_as(PortableOptions).job_endpoint:
        return None
    at = master if "://" in master else f"http://{master}"
    return at.rstrip("/")


def _ask(url: str, method: str = "GET") -> Any:
    """What Flink answers.

    Raises:
        OSError: it does not.
        ValueError: it is no JSON.
    """
    if not url.startswith(("http://", "https://")):  # of a crafted lock
        raise OSError(f"{url}: is not a cluster's address")
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or b"{}")
