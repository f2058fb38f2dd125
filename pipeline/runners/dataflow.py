"""A job on Dataflow, queried and cancelled through Google's REST API.

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

_JOBS_URL = re.compile(
    r"https?://[^/?#@\s]+/v1b3/projects/(?P<project>[^/?#\s]+)/locations/(?P<region>[^/?#\s]+)"
)


class DataflowError(OSError):
    """An HTTP error response from Dataflow."""

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
            query = urllib.parse.urlencode(
                {"name": self.name, "filter": "ALL", **({"pageToken": token} if token else {})}
            )
            page = _request(f"{self.at}/jobs?{query}")
            for job in page.get("jobs", ()):
                if job.get("name") == self.name:
                    found[job["id"]] = job.get("currentState", "JOB_STATE_UNKNOWN")
            token = page.get("nextPageToken", "")
            if not token:
                return found

    def request_cancellation(self, job: str) -> None:
        try:
            _request(f"{self.at}/jobs/{job}", "PUT", {"requestedState": "JOB_STATE_CANCELLED"})
        except DataflowError as error:
            if error.status not in (400, 409):  # it has just ended or has just started
                raise

    def page(self) -> str:
        match = _JOBS_URL.fullmatch(self.at)
        assert match is not None
        jobs = [
            f"https://console.cloud.google.com/dataflow/jobs/{match['region']}/{job}"
            f"?project={match['project']}"
            for job in self.ids()
        ]
        return "".join(jobs[:1])


def address(options: PipelineOptions) -> str:
    """Returns the URL below which the jobs of a project and region are found."""
    cloud = options.view_as(GoogleCloudOptions)
    endpoint = cloud.dataflow_endpoint.strip().rstrip("/")
    if "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    return f"{endpoint}/v1b3/projects/{cloud.project}/locations/{cloud.region}"


def is_jobs_url(at: str) -> bool:
    """Whether a URL is one that :func:`address` returns."""
    return _JOBS_URL.fullmatch(at) is not None


def _request(url: str, method: str = "GET", body: Any = None) -> Any:
    """Sends a request to Dataflow and returns its answer.

    Raises:
        OSError: it does not answer, or there are no credentials for it.
    """
    headers = {"Content-Type": "application/json"}
    if is_google_url(url):
        headers["Authorization"] = f"Bearer {google_token()}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return _parse_answer(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            details = _parse_answer(error.read()).get("error")
        why = details.get("message") if isinstance(details, dict) else None
        raise DataflowError(error.code, str(why or error.reason)) from error


def _parse_answer(data: bytes) -> dict[str, Any]:
    """Parses an answer; returns an empty dict if it is not a JSON object."""
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def is_google_url(url: str) -> bool:
    """Whether a URL is Google's: credentials go nowhere else, as a lock may be crafted."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == "https" and (parts.hostname or "").endswith(".googleapis.com")
