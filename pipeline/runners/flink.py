"""A job on a Flink cluster, queried and cancelled through Flink's REST API.

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
        """As :meth:`RemoteJob.prepare`; also sets the parallelism to the number of free slots.

        Beam would set it to one, whatever the cluster's settings say: it reads them on the machine
        that submits the job (https://beam.apache.org/documentation/runners/flink/,
        ``parallelism``).
        """
        super().prepare(options)
        flink = options.view_as(FlinkRunnerOptions)
        if flink.parallelism < 1:
            overview = _ask(f"{self.at}/overview")
            # A cluster may start its task managers when there is a job; then Beam decides.
            flink.parallelism = overview["slots-available"] or overview["slots-total"] or -1

    def request_cancellation(self, job: str) -> None:
        _ask(f"{self.at}/jobs/{job}?mode=cancel", "PATCH")

    def page(self) -> str:
        return "".join(f"{self.at}/#/job/running/{job}/overview" for job in self.ids()[:1])

    def metrics(self, result: PipelineResult) -> PortableMetrics:
        """Returns the Beam metrics that Flink has published so far.

        Raises:
            OSError: the cluster does not answer.
        """
        response = beam_job_api_pb2.GetJobMetricsResponse()
        for job in self.ids():
            # Beam stores its metrics in a Flink accumulator, as JSON.
            for accumulator in _ask(f"{self.at}/jobs/{job}/accumulators")["user-task-accumulators"]:
                if accumulator["name"] == METRICS:
                    json_format.Parse(accumulator["value"], response, ignore_unknown_fields=True)
        return PortableMetrics(response)


def address(options: PipelineOptions) -> str | None:
    """Returns the URL of a job's cluster; None where its REST API is not known."""
    master = options.view_as(FlinkRunnerOptions).flink_master.strip()
    if master.startswith("[") or options.view_as(PortableOptions).job_endpoint:
        return None
    at = master if "://" in master else f"http://{master}"
    return at.rstrip("/")


def _ask(url: str, method: str = "GET") -> Any:
    """Sends a request to Flink and returns its answer.

    Raises:
        OSError: it does not answer.
        ValueError: the answer is not JSON.
    """
    if not url.startswith(("http://", "https://")):  # from a crafted lock
        raise OSError(f"{url}: is not a cluster's address")
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or b"{}")
