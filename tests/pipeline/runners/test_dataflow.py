"""Jobs on Dataflow, whose service is a stub that runs what is submitted: tests.servers.dataflow."""

import json
import shlex
import signal
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from model_build.common.errors import JobError, UserError
from pipeline.runners.dataflow import DataflowJob, is_google_url
from pipeline.runners.remote import is_running
from pipeline.segmentation import plan, run
from pipeline.storage import Files, google_token
from pipeline.storage.stores import gs as google
from tests.pipeline.segmentation import reliability
from tests.pipeline.segmentation.reliability import Job
from tests.servers.dataflow import Dataflow
from tests.servers.dataflow import Job as Submitted
from tests.servers.flink import worker
from tests.servers.process import program
from tests.waiting import wait_until

FILES = Files()
ROOT = Path(__file__).parent.parent.parent.parent
IMAGE = "registry/fcn-beam:1"
GPU = "worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver"
OF_USER = [
    *("--machine_type", "n2-standard-4", "--disk_size_gb", "60", "--max_num_workers", "7"),
    *("--labels", "team=birds", "--dataflow_service_options", GPU),
]


def arguments(server, *options):
    """The arguments of ``make run-dataflow`` for photos in the server's bucket."""
    more = shlex.join(["--dataflow_endpoint", server.address, *options])
    command = ["make", "--no-print-directory", "run-dataflow", "DRY=1", f"ARGS={more}"]
    command += [f"INPUT={server.bucket}/photos", f"OUTPUT={server.bucket}/out"]
    command += ["PROJECT=made-up", "REGION=here", f"IMAGE={IMAGE}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return shlex.split(done.stdout)[1:]


@pytest.fixture
def start(dataflow, stub_model, tmp_path):
    """Submits a job as the command does: ``start(*options)``."""
    jobs = []

    def run(*options, model=None):
        model = model or stub_model()
        jobs.append(
            Job(arguments(dataflow, "--model", model, *options), tmp_path / "logs", prepare=[])
        )
        return jobs[-1]

    yield run
    for job in jobs:
        job.send(signal.SIGKILL)


def complaint(job):
    """The one line by which a command ends that is not done."""
    assert "Traceback" not in job.errors
    (line,) = [line for line in job.errors.splitlines() if line.startswith("fcn-beam: ")]
    return line


def lock_of(out):
    (file,) = FILES.starting_with(f"{out}/lock/")
    return json.loads(FILES.read(file.path))


@pytest.mark.slow
def test_a_job_is_submitted_whole_and_makes_the_masks_of_a_local_run(
    dataflow, start, photos, tiny_model, tmp_path
):
    dataflow.worker = program("fcn-beam-worker")
    (photos / "bad.jpg").write_text("no image")
    where, out, here = (
        f"{dataflow.bucket}/photos",
        f"{dataflow.bucket}/out",
        f"{tmp_path}/here",
    )
    reliability.upload(photos, where)
    job = start(*OF_USER, model=tiny_model)
    options = {"model": tiny_model, "precision": "float32"}  # as it is on other machines
    run.segment(plan.Request(inputs=[where], output=here, **options))
    assert job.wait() == 0, job.errors

    assert "fcn-beam:" not in job.errors
    assert "Traceback" not in job.errors
    table = {line.split("  ")[0].strip(): line for line in job.output.splitlines()}
    assert [table[name].split()[-1] for name in ("images", "masks", "rejected")] == ["6", "5", "1"]
    # Beam keeps the metrics that it has asked for just before the end: there may be none.
    if "spent on" in table:
        assert table["spent on"].count(" 0.0 s") < 4, "stage times are the workers'"
    assert reliability.masks(out) == reliability.masks(here)
    for kind in ("histograms", "rejected"):
        of_both = [
            [{key: row[key] for key in row if key != "versions"} for row in found]
            for found in (reliability.rows(out, kind), reliability.rows(here, kind))
        ]
        assert of_both[0] == of_both[1]
    assert not FILES.has_any(f"{out}/lock")

    (submitted,) = dataflow.jobs.values()
    check_submission(submitted, out)
    assert ("POST", "/token") in dataflow.asked


def check_submission(job, out):
    """The job as Dataflow receives it."""
    told = type(job.submitted).to_dict(job.submitted, use_integers_for_enums=False)
    environment = told["environment"]
    (pool,) = environment["worker_pools"]
    assert told["type_"] == "JOB_TYPE_BATCH"
    assert environment["service_options"] == [GPU]
    assert told["labels"] == {"team": "birds"}
    assert {"use_runner_v2", "no_use_multiple_sdk_containers"} <= set(environment["experiments"])
    assert "use_multiple_sdk_containers" not in environment["experiments"]
    # Dataflow chooses the number of threads: one per core.
    assert pool["num_threads_per_worker"] == 0
    assert (pool["machine_type"], pool["disk_size_gb"]) == ("n2-standard-4", 60)
    assert pool["autoscaling_settings"]["max_num_workers"] == 7
    assert [image["container_image"] for image in pool["sdk_harness_container_images"]] == [IMAGE]
    staged = f"{out}/dataflow-tmp/{told['name']}."
    for package in pool["packages"]:
        place = package["location"].replace("storage.googleapis.com/", "gs://")
        assert place.startswith(staged)
        assert FILES.exists(place)
    options = job.options
    assert options["pipelineUrl"].startswith(staged)
    assert (options["project"], options["region"]) == ("made-up", "here")
    assert options["sdk_location"] == "container"
    assert not options.get("requirements_file")


@pytest.mark.slow
def test_a_workers_job_error_is_reported_with_its_own_message(dataflow, start, tmp_path):
    dataflow.worker = program("fcn-beam-worker")
    reliability.pictures(tmp_path / "photos", 3)
    reliability.upload(tmp_path / "photos", f"{dataflow.bucket}/photos")
    job = start()  # of a model that is no more than its description
    assert job.wait() == 1, job.errors
    assert dataflow.newest().state == "JOB_STATE_FAILED"
    assert "/saved_model: does not match model.json" in complaint(job)
    assert lock_of(f"{dataflow.bucket}/out")["ended"]


@pytest.mark.slow
def test_an_interrupt_cancels_the_job(dataflow, start, stub_job, tmp_path):
    dataflow.worker = worker(tmp_path / "worker")
    (tmp_path / "worker/hold").touch()
    reliability.pictures(tmp_path / "photos", 40)
    where, out = f"{dataflow.bucket}/photos", f"{dataflow.bucket}/out"
    reliability.upload(tmp_path / "photos", where)
    job = start()
    wait_until(lambda: FILES.has_any(f"{out}/masks"), "a mask is written")
    job.send(signal.SIGINT)
    assert job.wait() == 130
    assert dataflow.newest().state == "JOB_STATE_CANCELLED"
    assert complaint(job).startswith("fcn-beam: interrupted; the job fcn-beam-2")
    assert "has been cancelled; run the same command again to continue" in complaint(job)
    assert lock_of(out)["ended"]
    assert stub_job(where, out, precision="float32").images == 40


@pytest.fixture
def photo(dataflow, image_bytes):
    """A bucket with one photo: its folder."""
    FILES.write(f"{dataflow.bucket}/photos/a.png", image_bytes("PNG"))
    return f"{dataflow.bucket}/photos"


@pytest.mark.slow
def test_other_ends_of_a_job_are_reported(dataflow, start, photo):
    ends = {"CANCELLED": "was cancelled", "DRAINED": "was drained"}
    jobs = {}
    for state in ends:
        dataflow.states[state.lower()] = f"JOB_STATE_{state}"
        # An output each, as they are submitted at once.
        out = f"{dataflow.bucket}/{state}"
        jobs[state] = start("--job_name", state.lower(), "--output", out)
    for state, job in jobs.items():
        assert job.wait() == 1, job.errors
        told = f"fcn-beam: the job {ends[state]} there; run the same command again"
        assert complaint(job).startswith(told)


@pytest.mark.slow
def test_a_job_may_be_left_to_dataflow(dataflow, start, photo, stub_job):
    dataflow.states["mine"] = "JOB_STATE_RUNNING"
    out = f"{dataflow.bucket}/out"
    job = start("--detach", "--job_name", "mine")
    assert job.wait() == 0, job.errors
    (submitted,) = dataflow.jobs.values()
    assert f"dataflow/jobs/here/{submitted.id}?project=made-up" in job.output
    assert lock_of(out)["job"]["name"] == "mine"
    with pytest.raises(UserError, match=r"another job is writing there .mine on http://localhost"):
        stub_job(photo, out)
    submitted.state = "JOB_STATE_FAILED"
    assert stub_job(photo, out, precision="float32").masks == 1


@pytest.mark.slow
def test_a_terminated_or_killed_client(dataflow, start, photo, stub_job):
    dataflow.states |= {"ends": "JOB_STATE_RUNNING", "lasts": "JOB_STATE_RUNNING"}
    jobs = {
        name: start("--job_name", name, "--output", f"{dataflow.bucket}/{name}")
        for name in dataflow.states
    }
    wait_until(lambda: len(dataflow.jobs) == 2, "both are submitted")
    jobs["ends"].send(signal.SIGTERM)
    jobs["lasts"].send(signal.SIGKILL)
    assert jobs["ends"].wait() == 143
    assert "the job ends on http://localhost" in complaint(jobs["ends"])
    jobs["lasts"].wait()
    states = {job.submitted.name: job.state for job in dataflow.jobs.values()}
    assert states == {"ends": "JOB_STATE_CANCELLED", "lasts": "JOB_STATE_RUNNING"}
    with pytest.raises(UserError, match=r"another job is writing there .lasts on "):
        stub_job(photo, f"{dataflow.bucket}/lasts")


@pytest.mark.slow
def test_a_refusal_by_the_service_is_reported(dataflow, start, photo):
    job = start("--project", "another")
    assert job.wait() == 2
    assert "--runner DataflowRunner: http://localhost" in complaint(job)
    assert "cannot be asked for jobs" in complaint(job)
    assert not FILES.has_any(f"{dataflow.bucket}/out")


# The service, asked for a job


@pytest.fixture
def service():
    """The stub, of jobs that are not run; ``add(name, state)`` adds one and returns its id."""
    with Dataflow("localhost:1", {}) as server:

        def add(name, state):
            job = Submitted(SimpleNamespace(name=name, client_request_id=""), len(server.jobs))
            job.state = f"JOB_STATE_{state}"
            server.jobs[job.id] = job
            return job.id

        server.add = add
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield server
        server.shutdown()


def ours(service):
    return DataflowJob(f"{service.address}/v1b3/projects/made-up/locations/here", "ours")


@pytest.mark.parametrize(
    ("state", "expected"),
    [("PENDING", True), ("RUNNING", True), ("CANCELLING", True), ("DRAINING", True)]
    + [(state.removeprefix("JOB_STATE_"), False) for state in DataflowJob.ENDED],
)
def test_a_job_is_running_until_it_has_ended(service, state, expected):
    service.add("ours", "DONE")
    service.add("another", "RUNNING")
    service.add("ours", state)
    assert is_running(ours(service).to_json()) is expected


def test_cancelling_ends_running_jobs(service):
    service.add("ours", "DONE")
    job = service.add("ours", "RUNNING")
    another = service.add("another", "RUNNING")
    assert ours(service).cancel()
    assert service.jobs[job].state == "JOB_STATE_CANCELLED"
    assert service.jobs[another].state == "JOB_STATE_RUNNING"


def test_a_cancelling_that_takes_long_is_waited_for_no_longer(service):
    service.add("ours", "CANCELLING")
    assert not ours(service).cancel(seconds=0)


def test_a_job_has_a_web_page(service):
    assert ours(service).page() == ""
    job = service.add("ours", "RUNNING")
    ours(service).wait_until_listed()
    assert ours(service).page().endswith(f"/dataflow/jobs/here/{job}?project=made-up")


def test_a_job_that_does_not_start_is_reported(service):
    service.add("ours", "FAILED")
    with pytest.raises(JobError, match="the job ours on http://localhost"):
        ours(service).wait_until_listed()


@pytest.mark.parametrize(
    "at",
    ["http://127.0.0.1:1/v1b3/projects/p/locations/r", "http://127.0.0.1:1/v1b3/projects/p"],
)
def test_without_an_answer_the_state_is_unknown(at):
    assert is_running({"at": at, "name": "ours"}) is None


def test_a_refused_request_is_reported(service):
    job = DataflowJob(f"{service.address}/v1b3/projects/another/locations/here", "ours")
    with pytest.raises(UserError, match=r"cannot be asked for jobs .*\(404\)"):
        job.prepare(PipelineOptions())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://dataflow.googleapis.com/v1b3/projects/p/locations/r/jobs", True),
        ("https://europe-west1-dataflow.googleapis.com/v1b3", True),
        ("http://dataflow.googleapis.com/v1b3", False),
        ("https://dataflow.googleapis.com.example.org/v1b3", False),
        ("https://example.org/.googleapis.com", False),
        ("https://dataflow.googleapis.com@example.org/v1b3", False),
        ("http://localhost:1", False),
    ],
)
def test_only_google_gets_credentials(url, expected):
    assert is_google_url(url) is expected


def test_a_token_is_obtained_with_the_users_credentials(service, tmp_path, monkeypatch):
    from tests.servers import dataflow

    dataflow.account(tmp_path / "account.json", service.address)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    google._credentials.cache_clear()
    assert google_token() == dataflow.TOKEN
    google._credentials.cache_clear()


def test_without_credentials_a_job_cannot_be_queried(tmp_path, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    google._credentials.cache_clear()
    job = DataflowJob("https://dataflow.googleapis.com/v1b3/projects/p/locations/r", "ours")
    assert is_running(job.to_json()) is None
