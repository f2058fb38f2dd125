import errno
import os
import signal
import subprocess
import sys
import threading

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.worker import data_plane

from model_build.common import limits
from model_build.common.errors import JobError, Terminated, UserError
from pipeline.network import threads
from pipeline.runners import local, remote
from pipeline.runners.failures import explain_failure
from pipeline.runners.progress import COUNTS, stage_seconds
from pipeline.runners.run import run_pipeline
from pipeline.storage import as_job_error

LOCAL = [
    [],
    ["--runner", "DirectRunner"],
    ["--runner", "directrunner"],
    ["--runner=direct"],
    ["--runner", "FnApiRunner"],
]


@pytest.mark.parametrize("arguments", LOCAL)
@pytest.mark.parametrize(("workers", "mode"), [(1, "in_memory"), (3, "multi_threading")])
def test_a_local_run_is_in_this_process(arguments, workers, mode):
    options = PipelineOptions(arguments)
    assert local.is_local(options)
    local.run_here(options, workers)
    assert options.view_as(StandardOptions).runner == "FnApiRunner"
    direct = options.view_as(DirectOptions)
    assert (direct.direct_num_workers, direct.direct_running_mode) == (workers, mode)


def test_a_local_run_has_one_stream_per_core_by_default(monkeypatch):
    options = PipelineOptions([])
    local.run_here(options, None)
    assert options.view_as(DirectOptions).direct_num_workers == threads.usable_cores()
    monkeypatch.setattr(threads, "has_accelerator", lambda: True)
    local.run_here(options, None)
    assert options.view_as(DirectOptions).direct_num_workers == 1


# An element that is slow to encode in Python, in a process with limited memory: if it is decoded
# from its middle, Beam may read a number of thousands of millions of windows.
SLOWLY = """
import contextlib, sys, time
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from pipeline.runners import local
from pipeline.runners import remote
from pipeline.runners.failures import explain_failure
from pipeline.runners.run import run_pipeline

with contextlib.suppress(ImportError):
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))

class Slow:
    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        time.sleep(0.01)
        return Slow, (self.number,)

options = PipelineOptions([])
local.run_here(options, 2)
pipeline = beam.Pipeline(options=options)
groups = (
    pipeline
    | beam.Create(range(8))
    | beam.FlatMap(lambda part: [(number % 7, Slow(number)) for number in range(part, 800, 8)])
    | beam.GroupByKey()
)
groups | beam.MapTuple(lambda _, all: sys.stdout.write("".join(f"{one.number}\\n" for one in all)))
run_pipeline(pipeline)
"""


@pytest.mark.slow
def test_streams_pass_on_only_whole_elements(tmp_path):
    script = tmp_path / "slowly.py"
    script.write_text(SLOWLY)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert sorted(map(int, done.stdout.split())) == list(range(800))


@pytest.mark.parametrize("runner", ["FlinkRunner", "SparkRunner", "PrismRunner", "PortableRunner"])
def test_other_runners_are_unchanged(runner):
    options = PipelineOptions(["--runner", runner, "--project", "p"])
    before = options.get_all_options()
    assert not local.is_local(options)
    assert options.get_all_options() == before


def test_dataflow_without_its_extra_is_a_user_error(monkeypatch):
    options = PipelineOptions(["--runner", "DataflowRunner", "--project", "p"])
    monkeypatch.setattr(
        "model_build.common.errors._installed", lambda module: "google" not in module
    )
    with pytest.raises(UserError, match=r"--runner DataflowRunner needs .*pip install 'fcn-beam\["):
        local.is_local(options)


def test_an_unknown_runner_is_the_users_error():
    with pytest.raises(UserError, match=r"--runner None: .*None"):
        local.is_local(PipelineOptions(["--runner", "None"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["--temp_location", "a/b"], "Invalid GCS path"),
        ([], "Missing GCS path option: temp_location"),
    ],
)
def test_missing_dataflow_options_are_a_user_error(arguments, missing):
    with pytest.raises(UserError, match=f"--runner DataflowRunner: {missing}"):
        remote.check_options(PipelineOptions(["--runner", "DataflowRunner", *arguments]))


@pytest.mark.parametrize("runner", ["FlinkRunner", "SparkRunner", "PrismRunner"])
def test_other_runners_need_no_further_options(runner):
    remote.check_options(PipelineOptions(["--runner", runner]))


@pytest.mark.parametrize("limit", [None, 7])
def test_beam_reads_the_buffers_time_limit_that_local_runs_set(monkeypatch, limit):
    """It is a private constant of Beam's: renamed, it would be set to no effect."""
    if limit is not None:
        monkeypatch.setattr(worker_handlers, "DATA_BUFFER_TIME_LIMIT_MS", limit)
    create, limits = data_plane.ClosableOutputStream.create, set()

    def noted(close, flush, milliseconds):
        limits.add(milliseconds)
        return create(close, flush, milliseconds)

    monkeypatch.setattr(data_plane.ClosableOutputStream, "create", noted)
    options = PipelineOptions([])
    local.run_here(options, 2)
    pipeline = beam.Pipeline(options=options)
    pipeline | beam.Create([(1, 2)]) | beam.GroupByKey()
    run_pipeline(pipeline)
    assert limits == {limit or 0}


class Ended:
    """A pipeline elsewhere that ends in a state, in the place of Beam's."""

    def __init__(self, state):
        self.options, self.state = PipelineOptions([]), state

    def run(self):
        return self

    def wait_until_finish(self):
        return self.state

    def metrics(self):
        raise OSError("no metrics")


def test_an_external_termination_is_reported():
    with pytest.raises(JobError, match=r"^the job was cancelled there$"):
        run_pipeline(Ended("CANCELLED"), journalled=lambda: (0, 0))


def test_a_job_that_is_done_needs_no_metrics():
    result = run_pipeline(Ended("DONE"), journalled=lambda: (0, 0))
    assert stage_seconds(result) == {}


def pipeline(step, workers=1):
    options = PipelineOptions([])
    local.run_here(options, workers)
    made = beam.Pipeline(options=options)
    _ = made | beam.Create([1, 2]) | beam.Map(step)
    return made


def _two_lines(number):
    raise OSError("quota exceeded\nNo space left on device")


def test_a_workers_exception_ends_the_job_in_one_line():
    with pytest.raises(JobError) as failed:
        run_pipeline(pipeline(_two_lines))
    message = str(failed.value)
    assert message.startswith("the job failed: No space left on device")
    assert "\n" not in message
    assert failed.value.__cause__ is not None  # for --log-level debug


def _full(number):
    with as_job_error():
        raise OSError(errno.ENOSPC, "No space left on device", "/out/a [b]'s.png")


def _key(number):
    return {}["it's gone"]


def _divide(number):
    return number / 0


def _missing(number):
    raise UserError("model: cannot be loaded; choose another --model")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (_full, "/out/a [b]'s.png: No space left on device; free some space"),
        (_missing, "model: cannot be loaded; choose another --model"),
        (_divide, "a bug in fcn-beam: ZeroDivisionError: division by zero; please report it"),
    ],
)
def test_a_failed_job_is_reported_with_its_own_message(step, message, workers):
    with pytest.raises(JobError) as failed:
        run_pipeline(pipeline(step, workers))
    assert str(failed.value) == message


@pytest.mark.parametrize("workers", [1, 2])
def test_a_missing_key_is_also_reported_as_a_bug(workers):
    with pytest.raises(JobError, match=r"^a bug in fcn-beam: KeyError: .*gone.*report it$"):
        run_pipeline(pipeline(_key, workers))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the job failed: no cause was given"),
        (" \n", "the job failed: no cause was given"),
        ("quota exceeded", "the job failed: quota exceeded"),
        (
            "DataflowRuntimeException: Dataflow pipeline failed. State: DRAINED, Error:\nNone",
            "the job was drained there",
        ),
        (
            "Dataflow pipeline failed. State: FAILED, Error:\nNone",
            "the job failed, and its runner does not say why; its page there may",
        ),
        (
            "Dataflow pipeline failed. State: FAILED, Error:\nTraceback (most recent call last):\n"
            "  File x\nJobError: disk full [while running 'A-ptransform-9']\n",
            "disk full",
        ),
        (
            "Traceback (most recent call last):\n  File x\nOSError: a\n",
            "the job failed: OSError: a",
        ),
        ("model_build.common.errors.JobError: disk full; free some", "disk full; free some"),
        ("JobError: disk full [while running 'A/B']", "disk full"),
        ("JobError: disk full [while running 'A'] [while running 'B']", "disk full"),
        (
            "java.lang.Exception: x\nmodel_build.errors.UserError: no [while running 'A']\nat y",
            "no",
        ),
        (
            "ValueError: of a store's [while running 'A']\nJobError: the cause\n",
            "the cause",
        ),
        (
            "ValueError: bad [while running 'A/B-1']",
            "a bug in fcn-beam: ValueError: bad; please report it",
        ),
        (
            "ValueError: first\nTypeError: then [while running 'A']",
            "a bug in fcn-beam: TypeError: then; please report it",
        ),
    ],
)
def test_a_runners_message_is_reported_in_one_line(text, why):
    assert explain_failure(text) == why


def _count(number):
    from pipeline.runners.progress import COUNTS  # this process's, not a pickled copy

    COUNTS.add(masks=1)


def test_the_number_of_images_may_be_known_before():
    run_pipeline(pipeline(_count), listed=7)
    assert (COUNTS.listed, COUNTS.masks) == (7, 2)


def _interrupt(number):
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(30)  # the main thread is on its way


def _terminate(number):
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(30)


@pytest.mark.parametrize(
    ("step", "kind"), [(_interrupt, KeyboardInterrupt), (_terminate, Terminated)]
)
def test_a_signal_raises_its_interrupt_and_handlers_are_restored(step, kind):
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(KeyboardInterrupt) as interrupted:
        run_pipeline(pipeline(step))
    assert interrupted.type is kind
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_thread_that_is_not_the_main_one_may_run_a_job():
    outcomes = []

    def work():
        try:
            run_pipeline(pipeline(_count))
            outcomes.append(COUNTS.masks)
        except BaseException as error:
            outcomes.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcomes == [2]


def test_a_job_without_enough_memory_is_not_started(monkeypatch):
    monkeypatch.setattr(limits, "address_space_left", lambda: 700_000_000)
    local.check_memory(1)
    with pytest.raises(JobError, match=r"2 streams needs 1\.1 GB .* leaves 0\.7 GB; .* --workers$"):
        local.check_memory(2)
    monkeypatch.setattr(limits, "address_space_left", lambda: 100_000_000)
    with pytest.raises(JobError, match=r"1 stream needs .* \(`ulimit -v unlimited`\)$"):
        local.check_memory(1)
