"""A stub of the Dataflow service, which executes what is submitted to it.

It speaks what Beam's client asks of https://cloud.google.com/dataflow/docs/reference/rest: a token
for a service account, and projects.locations.jobs with their messages and metrics. A job is read
as the types of Google's own client. Its pipeline is fetched from where it was staged and run on
Prism, with workers that are processes of this machine in the place of containers; its state, its
messages and its metrics are those of that run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from apache_beam.metrics.metric import MetricResults
from apache_beam.portability import common_urns
from apache_beam.portability.api import (
    beam_job_api_pb2,
    beam_job_api_pb2_grpc,
    beam_runner_api_pb2,
)
from apache_beam.runners.portability.portable_runner import PortableMetrics
from google.protobuf import struct_pb2

from pipeline.storage import Files
from tests.servers.answers import JsonHandler
from tests.servers.process import running
from tools.flink_cluster import reserved_port

TOKEN = "a-token"
ACCOUNT = "someone@made-up.iam.gserviceaccount.com"
JOBS = re.compile(r"/v1b3/projects/made-up/locations/here/jobs(?:/([^/]+))?(/\w+)?")
NOT_YET = {"STARTING": "PENDING", "STOPPED": "PENDING"}  # how Dataflow calls what Prism says
ENDED = {"JOB_STATE_DONE", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_DRAINED"}


class Job:
    """A job that was submitted.

    Attributes:
        submitted: as the client has sent it, a ``google.cloud.dataflow.Job``.
        pipeline: what it had staged; None of one that is not run.
        state: its name.
    """

    def __init__(self, submitted: Any, number: int):
        self.id = f"2026-01-01_00_00_00-{number}"
        self.submitted, self.pipeline = submitted, None
        self.state = "JOB_STATE_PENDING"
        self.messages: list[dict[str, Any]] = []
        self.run: Run | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options that its workers get."""
        environment = type(self.submitted).to_dict(self.submitted)["environment"]
        return environment["sdk_pipeline_options"]["options"]

    def cancel(self) -> None:
        if self.state in ENDED:
            return
        if self.run is None:
            self.state = "JOB_STATE_CANCELLED"
        else:
            self.state = "JOB_STATE_CANCELLING"
            self.run.cancel()

    def tell(self, importance: str, text: str) -> None:
        self.messages.append(
            {
                "id": str(len(self.messages)),
                "time": datetime.now(timezone.utc).isoformat(),
                "messageText": text,
                "messageImportance": f"JOB_MESSAGE_{importance}",
            }
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.submitted.name,
            "clientRequestId": self.submitted.client_request_id,
            "currentState": self.state,
            "type": "JOB_TYPE_BATCH",
        }


class Dataflow(ThreadingHTTPServer):
    """The service.

    Args:
        prism: the address of a Prism.
        environment: variables of the workers.

    Attributes:
        states: of jobs by name that are not run, but are in this state from the beginning.
        worker: the command that starts a worker.
        asked: method and path of each request.
    """

    daemon_threads = True

    def __init__(self, prism: str, environment: Mapping[str, str]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://localhost:{self.server_port}"
        self.worker, self.environment = "", dict(environment)
        self.jobs: dict[str, Job] = {}
        self.states: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        self._prism = beam_job_api_pb2_grpc.JobServiceStub(grpc.insecure_channel(prism))

    def newest(self) -> Job:
        """The job that was submitted last."""
        return list(self.jobs.values())[-1]

    def create(self, submitted: Any) -> Job:
        job = Job(submitted, len(self.jobs))
        self.jobs[job.id] = job
        if submitted.name in self.states:
            job.state = self.states[submitted.name]
            return job
        job.pipeline = staged_pipeline(job.options)
        on_this_machine(job.pipeline, self.worker, self.environment)
        job.run = Run(self._prism, job)
        return job

    def find(self, asked: Mapping[str, str]) -> list[Job]:
        """Jobs by their name, as far as it is asked for."""
        return [
            job for job in self.jobs.values() if asked.get("name") in (None, job.submitted.name)
        ]


def staged_pipeline(options: Mapping[str, Any]) -> Any:
    """The pipeline that a job has staged, which must be what its client hashed."""
    data = Files().read(options["pipelineUrl"])
    assert hashlib.sha256(data).hexdigest() == options["pipelineProtoHash"]
    return beam_runner_api_pb2.Pipeline.FromString(data)


def on_this_machine(pipeline: Any, command: str, environment: Mapping[str, str]) -> None:
    """Puts processes in the place of a pipeline's containers."""
    for found in pipeline.components.environments.values():
        assert found.urn == common_urns.environments.DOCKER.urn
        found.urn = common_urns.environments.PROCESS.urn
        found.payload = beam_runner_api_pb2.ProcessPayload(
            command=command, env=environment
        ).SerializeToString()
        del found.dependencies[:]  # the workers have the code


class Run:
    """A job's run on Prism, which is followed until it ends."""

    def __init__(self, prism: Any, job: Job):
        self._prism, self._job = prism, job
        options = struct_pb2.Struct()
        options.update({f"beam:option:{k}:v1": v for k, v in job.options.items() if v is not None})
        prepared = prism.Prepare(
            beam_job_api_pb2.PrepareJobRequest(
                job_name=job.submitted.name, pipeline=job.pipeline, pipeline_options=options
            )
        )
        started = prism.Run(beam_job_api_pb2.RunJobRequest(preparation_id=prepared.preparation_id))
        self._id = started.job_id
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        asked = beam_job_api_pb2.JobMessagesRequest(job_id=self._id)
        with contextlib.suppress(grpc.RpcError):  # Prism has been ended
            self._listen(self._prism.GetMessageStream(asked))

    def _listen(self, answers: Any) -> None:
        for answer in answers:
            if answer.HasField("message_response"):
                message = answer.message_response
                error = message.importance == message.JOB_MESSAGE_ERROR
                self._job.tell("ERROR" if error else "BASIC", message.message_text)
            else:
                name = beam_job_api_pb2.JobState.Enum.Name(answer.state_response.state)
                self._job.state = f"JOB_STATE_{NOT_YET.get(name, name)}"

    def cancel(self) -> None:
        self._prism.Cancel(beam_job_api_pb2.CancelJobRequest(job_id=self._id))

    def metrics(self) -> MetricResults:
        asked = beam_job_api_pb2.GetJobMetricsRequest(job_id=self._id)
        return PortableMetrics(self._prism.GetJobMetrics(asked))


def metric_updates(metrics: MetricResults) -> list[dict[str, Any]]:
    """Beam's metrics as Dataflow reports them: each as a tentative and as a committed value."""
    found = metrics.query()
    updates = []
    for metric in (*found["counters"], *found["distributions"]):
        attempted, committed = metric.attempted, metric.committed
        if attempted is None and committed is None:
            continue  # it has no value yet
        name = metric.key.metric
        context = {"namespace": name.namespace, "step": metric.key.step or "of no step"}
        for value, tentative in (
            (committed if attempted is None else attempted, {"tentative": "true"}),
            (attempted if committed is None else committed, {}),
        ):
            update = {"name": {"origin": "user", "name": name.name, "context": context | tentative}}
            if isinstance(value, int):
                update["scalar"] = value
            else:
                parts = ("count", "sum", "min", "max")
                update["distribution"] = {part: getattr(value, part) for part in parts}
            updates.append(update)
    return updates


class _Handler(JsonHandler):
    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        asked = dict(urllib.parse.parse_qsl(query))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, path))
        match = JOBS.fullmatch(path)
        try:
            if path == "/token":
                self.send_json({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
            elif self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
                self.send_json({"error": {"code": 401, "message": "who are you?"}}, 401)
            elif match is None or (match[1] and match[1] not in self.server.jobs):
                self.send_json({"error": {"code": 404, "message": path}}, 404)
            else:
                self.send_json(self._jobs(match[1], match[2], asked, body))
        except Exception as error:
            self.send_json({"error": {"code": 500, "message": repr(error)}}, 500)
            raise

    def _jobs(
        self, name: str | None, part: str | None, asked: Mapping[str, str], body: bytes
    ) -> Any:
        from google.cloud import dataflow

        if name is None and self.command == "POST":
            return self.server.create(dataflow.Job.from_json(body)).to_json()
        if name is None:
            return {"jobs": [job.to_json() for job in self.server.find(asked)]}
        job = self.server.jobs[name]
        if part == "/messages":
            return {"jobMessages": job.messages}
        if part == "/metrics":
            return {"metrics": metric_updates(job.run.metrics()) if job.run else []}
        if self.command == "PUT":
            wanted = dataflow.Job.from_json(body).requested_state
            assert wanted == dataflow.JobState.JOB_STATE_CANCELLED
            job.cancel()
        return job.to_json()


def _prism(program: str, port: int) -> list[str]:
    return [program, "-job_port", str(port), "-serve_http=false", "-log_kind", "json"]


@contextlib.contextmanager
def serving(folder: Path, prism: str, environment: Mapping[str, str]) -> Iterator[Dataflow]:
    """The service while its block runs.

    Args:
        folder: for logs.
        prism: Prism's program.
        environment: variables of the workers.
    """
    with (
        reserved_port() as port,
        running(_prism(prism, port), port, folder / "prism.log"),
        Dataflow(f"localhost:{port}", environment) as server,
    ):
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def account(path: Path, address: str) -> None:
    """Writes the key of a service account, for GOOGLE_APPLICATION_CREDENTIALS.

    Args:
        address: of the service that gives it its tokens.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    told = {
        "type": "service_account",
        "project_id": "made-up",
        "private_key_id": "1",
        "private_key": key.decode(),
        "client_email": ACCOUNT,
        "token_uri": f"{address}/token",
    }
    path.write_text(json.dumps(told))
