import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
)

from model_build.errors import JobError, UserError
from pipeline.jobs import progress, remote
from pipeline.jobs.remote import RemoteJob, cluster, lives, name_job

RUN = "20261126T175823Z-abc123"
ON_FLINK = ["--runner", "FlinkRunner", "--flink_master", "somewhere:8081"]


class Flink(ThreadingHTTPServer):
    """What Flink's REST interface answers of its jobs; ``states`` are by id, all of one name."""

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


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self._send(self.server.answer(self.path))

    def do_PATCH(self):
        self.server.cancel(self.path)
        self._send({})

    def _send(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def flink():
    with Flink() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        (ON_FLINK, "http://somewhere:8081"),
        (["--runner", "flinkrunner", "--flink_master=https://a/"], "https://a"),
        (["--runner", "FlinkRunner"], None),
        (["--runner", "FlinkRunner", "--flink_master", "[local]"], None),
        ([*ON_FLINK, "--job_endpoint", "localhost:8099"], None),
        (["--runner", "SparkRunner"], None),
        ([], None),
    ],
)
def test_only_a_flink_cluster_can_be_asked(arguments, address):
    assert cluster(PipelineOptions(arguments)) == address


def test_a_job_gets_a_name_that_no_other_has():
    options = PipelineOptions(ON_FLINK)
    job = name_job(options, RUN)
    assert job == RemoteJob("http://somewhere:8081", "fcn-beam-20261126t175823z-abc123")
    assert options.view_as(GoogleCloudOptions).job_name == job.name


def test_a_name_of_the_users_stays():
    options = PipelineOptions([*ON_FLINK, "--job_name", "mine"])
    assert name_job(options, RUN).name == "mine"


@pytest.mark.parametrize(
    ("state", "expected"),
    [("CREATED", True), ("RUNNING", True), ("RESTARTING", True), ("CANCELLING", True)]
    + [(state, False) for state in remote.ENDED],
)
def test_a_job_lives_until_it_has_ended(flink, state, expected):
    flink.states = {"a": "FAILED", "b": state}
    assert lives(RemoteJob(flink.address, "ours").to_json()) is expected


def test_a_job_that_the_cluster_does_not_know_does_not_live(flink):
    assert lives(RemoteJob(flink.address, "ours").to_json()) is False


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
def test_where_no_cluster_answers_nobody_knows(noted):
    assert lives(noted) is None


def test_a_cluster_that_does_not_answer_is_the_users_error(flink):
    RemoteJob(flink.address, "ours").slots()
    with pytest.raises(UserError, match=r"--flink_master http://127.0.0.1:1: no Flink answers"):
        RemoteJob("http://127.0.0.1:1", "ours").slots()


@pytest.mark.parametrize(("free", "total", "slots"), [(3, 4, 3), (0, 4, 4), (0, 0, 0)])
def test_a_job_may_have_the_free_slots_or_wait_for_all(flink, free, total, slots):
    flink.free, flink.slots = free, total
    assert RemoteJob(flink.address, "ours").slots() == slots


@pytest.mark.parametrize(
    ("arguments", "slots", "streams"),
    [([], 8, 8), (["--parallelism", "3"], 8, 3), ([], 0, -1)],
)
def test_a_job_runs_in_as_many_streams_as_there_are_slots(arguments, slots, streams):
    options = PipelineOptions([*ON_FLINK, *arguments])
    remote.spread(options, slots)
    assert options.view_as(FlinkRunnerOptions).parallelism == streams


def test_cancelling_waits_for_the_end(flink):
    flink.states = {"a": "FINISHED", "b": "RUNNING"}
    RemoteJob(flink.address, "ours").cancel()
    assert flink.cancelled == ["b"]


def test_a_job_that_is_never_listed_needs_no_cancelling(flink, monkeypatch):
    monkeypatch.setattr(remote, "LISTED_WITHIN", 0.0)
    RemoteJob(flink.address, "ours").cancel()
    assert flink.cancelled == []


def test_a_job_that_goes_on_is_told(flink, monkeypatch):
    flink.states = {"a": "RUNNING"}
    monkeypatch.setattr(flink, "cancel", lambda path: None)
    with pytest.raises(OSError, match="still runs"):
        RemoteJob(flink.address, "ours").cancel(seconds=0.6)


def test_a_job_is_left_once_it_runs(flink):
    flink.states = {"a": "RUNNING"}
    job = RemoteJob(flink.address, "ours")
    job.wait_until_listed()
    assert job.page() == f"{flink.address}/#/job/running/a/overview"


@pytest.mark.parametrize("states", [{}, {"a": "FAILED"}])
def test_a_job_that_does_not_start_is_told(flink, states):
    flink.states = states
    with pytest.raises(JobError, match=f"the job ours on {flink.address} .*its page tells why"):
        RemoteJob(flink.address, "ours").wait_until_listed(seconds=0)


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
        {"name": remote.METRICS, "type": "MetricsAccumulator", "value": value},
    ]
    metrics = RemoteJob(flink.address, "ours").metrics()
    counts = progress.metric_counts(metrics)
    assert counts == {"listed": 7, "masks": 3, "kept": 0, "rejects": 0}
