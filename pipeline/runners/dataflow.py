"""A job on Dataflow, which is asked by Google's REST interface.

https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.locations.jobs
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from pipeline.runners.remote_job import RemoteJob
from pipeline.storage import google_token

_AT = re.compile(
    r"https?://[^/?#@\s]+/v1b3/projects/(?P<project>[^/?#\s]+)/locations/(?P<region>[^/?#\s]+)"
)


class RefusedError(OSError):
    """What Dataflow does not do, by its HTTP status."""

    def __init__(self, status: int, why: str):
        super().__init__(f"{why} ({status})")
        self.status = status


class DataflowJob(RemoteJob):
    """A job at ``https://dataflow.googleapis.com/v1b3/projects/PROJECT/locations/REGION``."""

    ENDED = tuple(f"JOB_STATE_{s}" for s in ("DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED"))
    STARTED = tuple(f"JOB_STATE_{s}" for s in ("QUEUED", "PENDING", "RUNNING", "DONE"))
    FAILED = ("JOB_STATE_FAILED", "JOB_STATE_CANCELLED")
    CANCELLING = "JOB_STATE_CANCELLING"
    OPTION = "--runner DataflowRunner:"

    def states(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        token = ""
        while True:
            asked = urllib.parse.urlencode(
                {"name": self.name, "filter": "ALL", **({"pageToken": token} if token else {})}
            )
            page = _ask(f"{self.at}/jobs?{asked}")
            for job in page.get("jobs", ()):
                if job.get("name") == self.name:
                    found[job["id"]] = job.get("currentState", "JOB_STATE_UNKNOWN")
            token = page.get("nextPageToken", "")
            if not token:
                return found

    def request_end(self, job: str) -> None:
        try:
            _ask(f"{self.at}/jobs/{job}", "PUT", {"requestedState": "JOB_STATE_CANCELLED"})
        except RefusedError as error:
            if error.status not in (400, 409):  # it has just ended, or has only just begun
                raise

    def page(self) -> str:
        match = _AT.fullmatch(self.at)
        assert match is not None
        jobs = [
            f"https://console.cloud.google.com/dataflow/jobs/{match['region']}/{job}"
            f"?project={match['project']}"
            for job in self.ids()
        ]
        return "".join(jobs[:1])


def address(options: PipelineOptions) -> str:
    """Where the jobs of a project and region are."""
    cloud = options.view_as(GoogleCloudOptions)
    endpoint = cloud.dataflow_endpoint.strip().rstrip("/")
    if "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    return f"{endpoint}/v1b3/projects/{cloud.project}/locations/{cloud.region}"


def is_address(at: str) -> bool:
    """Whether Dataflow is asked there."""
    return _AT.fullmatch(at) is not None


def _ask(url: str, method: str = "GET", body: Any = None) -> Any:
    """What Dataflow answers.

    Raises:
        OSError: it does not, or there are no credentials for it.
    """
    headers = {"Content-Type": "application/json"}
    if is_googles(url):
        headers["Authorization"] = f"Bearer {google_token()}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return _parsed(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            told = _parsed(error.read()).get("error")
        why = told.get("message") if isinstance(told, dict) else None
        raise RefusedError(error.code, str(why or error.reason)) from error


def _parsed(data: bytes) -> dict[str, Any]:
    """What an answer holds; nothing if it is none of Dataflow's."""
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def is_googles(url: str) -> bool:
    """Whether a URL is one of Google's: no other gets credentials, as a lock may be crafted."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == "https" and (parts.hostname or "").endswith(".googleapis.com")
