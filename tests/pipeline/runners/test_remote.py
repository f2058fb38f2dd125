import json
import threading
from http.server import ThreadingHTTPServer

import pytest
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
)

from model_build.common.errors import JobError, UserError
from pipeline.runners import flink as flinks
from pipeline.runners import progress
from pipeline.runners import remote_job as jobs
from pipeline.runners.dataflow import DataflowJob
from pipeline.runners.flink import FlinkJob
from pipeline.runners.remote import address, is_running, name_job
from tests.servers.answers import JsonHandler

RUN = "20261126T175823Z-abc123"
PARENT = "/v1b3/projects/p/locations/r"
ON_DATAFLOW = ["--runner", "DataflowRunner", "--project", "p", "--region", "r"]
ON_FLINK = ["--runner", "FlinkRunner", "--flink_master", "somewhere:8081"]


class Flink(ThreadingHTTPServer):
    """Flink's REST API with jobs of one name; ``states`` are by id."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.states, self.accumulators, self.cancelled = {}, {}, []
        self.free, self.slots = 3, 4

    def answer(self, path):
        if path == "/overview":
            return {"slots-available": self.free, "slots-total": self.slots}
        if path == "/jobs/overview":
            jobs = [{"jid": i, "name": "ours", "state": s} for i, s in self.states.items()]
            return {"jobs": [*jobs, {"jid": "x", "name": "another", "state": "RUNNING"}]}
        return {"user-task-accumulators": self.accumulators[path.split("/")[2]]}

    def cancel(self, path):
        job = path.removeprefix("/jobs/").removesuffix("?mode=cancel")
        self.cancelled.append(job)
        self.states[job] = "CANCELED"


class Answers(JsonHandler):
    def do_GET(self):
        self.send_json(self.server.answer(self.path))

    def do_PATCH(self):
        self.server.cancel(self.path)
        self.send_json({})


@pytest.fixture
def flink():
    with Flink() as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (ON_FLINK, "http://somewhere:8081"),
        (["--runner", "flinkrunner", "--flink_master=https://a/"], "https://a"),
        (["--runner", "FlinkRunner"], None),
        (["--runner", "FlinkRunner", "--flink_master", "[local]"], None),
        ([*ON_FLINK, "--job_endpoint", "localhost:8099"], None),
        (ON_DATAFLOW, f"https://dataflow.googleapis.com{PARENT}"),
        ([*ON_DATAFLOW, "--dataflow_endpoint", "localhost:1/"], f"https://localhost:1{PARENT}"),
        (["--runner", "SparkRunner"], None),
        ([], None),
    ],
)
def test_only_flink_and_dataflow_can_be_queried(arguments, expected):
    assert address(PipelineOptions(arguments)) == expected


def test_a_job_gets_a_unique_name():
    options = PipelineOptions(ON_FLINK)
    job = name_job(options, RUN)
    assert job == FlinkJob("http://somewhere:8081", "fcn-beam-20261126t175823z-abc123")
    assert options.view_as(GoogleCloudOptions).job_name == job.name
    assert isinstance(name_job(PipelineOptions(ON_DATAFLOW), RUN), DataflowJob)


def test_a_name_of_the_users_stays():
    options = PipelineOptions([*ON_FLINK, "--job_name", "mine"])
    assert name_job(options, RUN).name == "mine"


@pytest.mark.parametrize(
    ("state", "expected"),
    [("CREATED", True), ("RUNNING", True), ("RESTARTING", True), ("CANCELLING", True)]
    + [(state, False) for state in FlinkJob.ENDED],
)
def test_a_job_is_running_until_it_has_ended(flink, state, expected):
    flink.states = {"a": "FAILED", "b": state}
    assert is_running(FlinkJob(flink.address, "ours").to_json()) is expected


def test_a_job_that_the_cluster_does_not_know_does_not_live(flink):
    assert is_running(FlinkJob(flink.address, "ours").to_json()) is False


@pytest.mark.parametrize(
    "noted",
    [
        None,
        {},
        "text",
        {"at": 3, "name": "a"},
        {"at": "file:///etc", "name": "a"},
        {"at": "http://127.0.0.1:1", "name": "a"},
    ],
)
def test_without_an_answering_cluster_the_state_is_unknown(noted):
    assert is_running(noted) is None


def test_a_cluster_that_does_not_answer_is_the_users_error(flink):
    FlinkJob(flink.address, "ours").prepare(PipelineOptions(ON_FLINK))
    with pytest.raises(UserError, match=r"--flink_master http://127.0.0.1:1: cannot be asked"):
        FlinkJob("http://127.0.0.1:1", "ours").prepare(PipelineOptions(ON_FLINK))


@pytest.mark.parametrize(
    ("free", "total", "arguments", "streams"),
    [(3, 4, [], 3), (0, 4, [], 4), (0, 0, [], -1), (3, 4, ["--parallelism", "2"], 2)],
)
def test_a_job_runs_in_as_many_streams_as_there_are_free_slots(
    flink, free, total, arguments, streams
):
    flink.free, flink.slots = free, total
    options = PipelineOptions([*ON_FLINK, *arguments])
    FlinkJob(flink.address, "ours").prepare(options)
    assert options.view_as(FlinkRunnerOptions).parallelism == streams


def test_cancelling_waits_for_the_end(flink):
    flink.states = {"a": "FINISHED", "b": "RUNNING"}
    assert FlinkJob(flink.address, "ours").cancel()
    assert flink.cancelled == ["b"]


def test_a_job_that_is_never_listed_needs_no_cancelling(flink, monkeypatch):
    monkeypatch.setattr(jobs, "SECONDS_UNTIL_LISTED", 0.0)
    FlinkJob(flink.address, "ours").cancel()
    assert flink.cancelled == []


def test_a_job_that_cannot_be_cancelled_is_reported(flink, monkeypatch):
    flink.states = {"a": "RUNNING"}
    monkeypatch.setattr(flink, "cancel", lambda path: None)
    with pytest.raises(OSError, match="still runs"):
        FlinkJob(flink.address, "ours").cancel(seconds=0.6)


def test_a_slow_cancellation_is_reported(flink):
    flink.states = {"a": "CANCELLING"}
    assert not FlinkJob(flink.address, "ours").cancel(seconds=0)
    assert flink.cancelled == []


def test_the_client_returns_once_the_job_runs(flink):
    flink.states = {"a": "RUNNING"}
    job = FlinkJob(flink.address, "ours")
    job.wait_until_listed()
    assert job.page() == f"{flink.address}/#/job/running/a/overview"


@pytest.mark.parametrize("states", [{}, {"a": "FAILED"}])
def test_a_job_that_does_not_start_is_reported(flink, states):
    flink.states = states
    with pytest.raises(JobError, match=f"the job ours on {flink.address} .*its page says why"):
        FlinkJob(flink.address, "ours").wait_until_listed(seconds=0)


def counter(name, step, payload):
    labels = {"NAMESPACE": "fcn_beam", "NAME": name, "PTRANSFORM": step}
    info = {"urn": "beam:metric:user:sum_int64:v1", "type": "beam:metrics:sum_int64:v1"}
    return info | {"payload": payload, "labels": labels}


def test_metrics_of_a_job_that_runs_are_beams(flink):
    flink.states = {"a": "RUNNING"}
    attempted = [
        counter("listed", "List", "Bw=="),
        counter("masks", "Write", "AQ=="),
        counter("masks", "Keep", "Ag=="),
        counter("other", "Keep", "Ag=="),
    ]
    value = json.dumps({"metrics": {"attempted": attempted}})
    flink.accumulators["a"] = [
        {"name": "another", "type": "IntCounter", "value": "3"},
        {"name": flinks.METRICS, "type": "MetricsAccumulator", "value": value},
    ]
    metrics = FlinkJob(flink.address, "ours").metrics(None)
    counts = progress.metric_counts(metrics)
    assert counts == {"listed": 7, "masks": 3, "kept": 0, "rejects": 0}
