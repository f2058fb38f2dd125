"""A job on a cluster, as its runner knows it: what it is called there, whether it lives, its end.

Beam's own interface forgets a job when its client ends, and its cancelling may end the client
alone. So Flink itself is asked, by its REST interface.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.portable_runner import PortableMetrics
from google.protobuf import json_format

from model_build.errors import JobError, UserError, first_line

METRICS = "__metricscontainers"
FLINK = "flinkrunner"
ENDED = ("FINISHED", "FAILED", "CANCELED")
LISTED_WITHIN = 10.0  # seconds that a job which has been handed over may take to be listed


@dataclass(frozen=True)
class RemoteJob:
    """A job on a Flink cluster.

    Attributes:
        at: the cluster's address, as ``http://HOST:PORT``.
        name: which no other job has there.
    """

    at: str
    name: str

    def __str__(self) -> str:
        return f"the job {self.name} on {self.at}"

    def to_json(self) -> dict[str, str]:
        """As a lock notes it."""
        return asdict(self)

    def slots(self) -> int:
        """How many slots the cluster has free, or has at all if none is; 0: it has none yet.

        Raises:
            UserError: it does not answer.
        """
        try:
            self.ids()
            overview = _ask(f"{self.at}/overview")
            return overview["slots-available"] or overview["slots-total"]
        except OSError as error:
            raise UserError(
                f"--flink_master {self.at}: no Flink answers there ({first_line(error)})"
            ) from None

    def ids(self) -> list[str]:
        """Flink's ids of the jobs of this name that have not ended.

        Raises:
            OSError: the cluster cannot be asked.
        """
        return [job["jid"] for job in self._listed() if job["state"] not in ENDED]

    def page(self) -> str:
        """The cluster's page about it."""
        return "".join(f"{self.at}/#/job/running/{job}/overview" for job in self.ids()[:1])

    def metrics(self) -> PortableMetrics:
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

    def _listed(self) -> list[dict[str, Any]]:
        try:
            return [job for job in _ask(f"{self.at}/jobs/overview")["jobs"] if self._is(job)]
        except (KeyError, TypeError, ValueError) as error:
            raise OSError(f"{self.at}: is not a Flink cluster's address") from error

    def _is(self, job: Mapping[str, Any]) -> bool:
        return job["name"] == self.name

    def wait_until_listed(self, seconds: float = 120.0) -> None:
        """Waits until the cluster has the job, which goes on from there without its client.

        Raises:
            JobError: it does not come, or has failed.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                states = [job["state"] for job in self._listed()]
            except OSError as error:
                raise JobError(f"{self.at}: {error}") from error
            if "RUNNING" in states or "FINISHED" in states:
                return
            if "FAILED" in states or time.monotonic() > deadline:
                raise JobError(f"{self} has not started, or has failed; its page tells why")
            time.sleep(0.5)

    def cancel(self, seconds: float = 60.0) -> None:
        """Cancels it and waits for its end.

        Raises:
            OSError: the cluster cannot be asked, or the job goes on for so many seconds.
        """
        start, found = time.monotonic(), False
        while time.monotonic() < start + seconds:
            ids = self.ids()
            found = found or bool(ids)
            if not ids and (found or time.monotonic() > start + LISTED_WITHIN):
                return
            for job in ids:
                _ask(f"{self.at}/jobs/{job}?mode=cancel", "PATCH")
            time.sleep(0.5)
        raise OSError(f"it still runs after {seconds:.0f} s")


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
    at = cluster(options)
    return None if at is None else RemoteJob(at, cloud.job_name)


def cluster(options: PipelineOptions) -> str | None:
    """The address of the cluster that can be asked for a job, as ``http://HOST:PORT``."""
    runner = (options.view_as(StandardOptions).runner or "").rpartition(".")[2].lower()
    master = options.view_as(FlinkRunnerOptions).flink_master.strip()
    if runner != FLINK or master.startswith("[") or options.view_as(PortableOptions).job_endpoint:
        return None
    at = master if "://" in master else f"http://{master}"
    return at.rstrip("/")


def spread(options: PipelineOptions, slots: int) -> None:
    """Lets a job run in so many streams, unless it was told how many.

    Beam would make it one, whatever the cluster's settings say: it looks for them on the machine
    that submits (https://beam.apache.org/documentation/runners/flink/, ``parallelism``).
    """
    flink = options.view_as(FlinkRunnerOptions)
    if flink.parallelism < 1 <= slots:
        flink.parallelism = slots


def lives(noted: Any) -> bool | None:
    """Whether a job that a lock has noted still runs; None where its cluster cannot be asked.

    Args:
        noted: see :meth:`RemoteJob.to_json`.
    """
    try:
        return bool(RemoteJob(noted["at"], noted["name"]).ids())
    except (OSError, KeyError, TypeError):  # the latter of a crafted lock
        return None


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
