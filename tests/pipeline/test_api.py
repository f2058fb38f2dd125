"""The calls as other people's programs make them: here, and in programs of their own."""

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipeline
from model_build.data.labels import VOC
from pipeline import api, child_process
from pipeline.cli import main
from pipeline.evaluation import run as evaluation
from pipeline.outputs.summary import Summary
from pipeline.segmentation import run as segmentation
from tests.pipeline.segmentation import reliability
from tests.waiting import wait_until


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command in this process; returns its status, and what it printed."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["fcn-beam", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main.main()
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return run


def masks(out):
    return {path.relative_to(out): path.read_bytes() for path in out.glob("masks/**/*.png")}


@pytest.fixture
def model(stub_model, monkeypatch):
    """A network that costs nothing, with which jobs run in this process."""
    reliability.stub_network(monkeypatch.setattr)
    monkeypatch.setattr(api, "threads_differ", lambda: False)
    return stub_model()


# The calls in this process


@pytest.mark.slow
def test_a_call_makes_the_masks_of_the_command(model, command, photos, tmp_path):
    out, other = tmp_path / "out", tmp_path / "command"
    summary = pipeline.segment(photos, out, model=model)
    assert isinstance(summary, Summary)
    written = json.loads((out / "summary.json").read_text())
    found = json.loads(json.dumps(dataclasses.asdict(summary)))
    assert {name: found[name] for name in written} == written
    assert (summary.images, summary.masks, summary.rejected) == (5, 5, 0)
    assert summary.output == str(out)
    assert summary.stages["infer"] > 0
    assert command("segment", photos, "--output", other, "--model", model)[0] == 0
    assert len(masks(out)) == 5
    assert masks(out) == masks(other)
    assert pipeline.segment(photos, out, model=model).kept == 5


@pytest.mark.slow
def test_inputs_are_one_or_many_and_paths_or_text(model, photos, tmp_path):
    for index, (inputs, count) in enumerate(
        [
            (photos, 5),
            ([photos / "a", f"{photos}/b"], 5),
            (iter([f"{photos}/a/0.jpg"]), 1),
        ]
    ):
        found = pipeline.segment(inputs, tmp_path / f"out{index}", model=Path(model))
        assert found.masks == count


@pytest.mark.slow
def test_a_thread_that_is_not_the_main_one_may_call(model, photos, tmp_path):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(pipeline.segment(photos, tmp_path / "out", model=model))
    )
    thread.start()
    thread.join()
    assert (found[0].masks, found[0].kept) == (5, 0)


SEGMENT_OPTIONS = {
    "overlays": True,
    "long_side": 64,
    "tile": True,
    "all_files": True,
    "limit": 3,
    "overwrite": True,
    "moved": True,
    "verify": True,
    "max_pixels": 10_000,
    "engine": "graph",
    "precision": "float32",
    "batch_size": 2,
    "workers": 2,
    "shared_disk": True,
    "storage_options": {"s3.anon": "true"},
    "beam_options": ["--runner", "DirectRunner"],
}
EVALUATE_OPTIONS = {
    "masks": "masks",
    "split": "test",
    "skip_missing": True,
    **{
        name: SEGMENT_OPTIONS[name]
        for name in ("long_side", "tile", "max_pixels", "engine", "precision", "batch_size")
    },
    **{name: SEGMENT_OPTIONS[name] for name in ("workers", "storage_options", "beam_options")},
}


class Asked(Exception):
    """Records the requests for jobs."""


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize(
    ("function", "required", "options"),
    [
        ("segment", {"inputs": ["in"], "output": "out", "model": "m"}, SEGMENT_OPTIONS),
        ("evaluate", {"data": "d", "model": "m"}, EVALUATE_OPTIONS),
    ],
)
def test_every_argument_arrives(monkeypatch, function, required, options, elsewhere):
    def ask(request):
        raise Asked(request)

    module = {"segment": segmentation, "evaluate": evaluation}[function]
    monkeypatch.setattr(module, function, ask)
    monkeypatch.setattr(api, "threads_differ", lambda: elsewhere)
    monkeypatch.setattr(api, "run_in_child", through_the_child)
    with pytest.raises(Asked) as asked:
        getattr(pipeline, function)(**required | options)
    (request,) = asked.value.args
    expected = module.Request(**required | options)
    assert request == expected
    unset = module.Request(**required)
    for name in options:
        assert getattr(request, name) != getattr(unset, name), f"{name} is at its default"


def through_the_child(function, request):
    """Runs a request in the child's code after a round trip through JSON."""
    return child_process._run(function, json.loads(json.dumps(dataclasses.asdict(request))))


def test_errors_are_the_commands_line(model, command, tmp_path, photos, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = ["--output", tmp_path / "out", "--model", model]
    asked = {"output": tmp_path / "out", "model": model}
    no_runner = ["--runner", "None"]
    for call, arguments in (
        (lambda: pipeline.segment("nowhere", **asked), ["segment", "nowhere", *out]),
        (
            lambda: pipeline.segment(photos, **asked | {"model": photos}),
            ["segment", photos, *out[:3], photos],
        ),
        (
            lambda: pipeline.segment(photos, **asked, beam_options=no_runner),
            ["segment", photos, *out, *no_runner],
        ),
        (lambda: pipeline.segment([], **asked), ["segment", *out]),
        (lambda: pipeline.segment(iter(["nowhere"]), **asked), ["segment", "nowhere", *out]),
        (
            lambda: pipeline.evaluate(photos, model=model),
            ["evaluate", "--data", photos, *out[2:]],
        ),
        (lambda: pipeline.evaluate(photos), ["evaluate", "--data", photos]),
    ):
        with pytest.raises(pipeline.UserError) as failed:
            call()
        assert command(*arguments) == (2, "", f"fcn-beam: {failed.value}\n")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def unreadable(tmp_path):
    """An output folder that cannot be looked into: the world's fault, and no image's."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").symlink_to("run.json")
    return tmp_path / "out"


def test_an_exception_that_ends_a_job_is_a_job_error(model, command, photos, unreadable):
    with pytest.raises(pipeline.JobError) as failed:
        pipeline.segment(photos, unreadable, model=model)
    message = str(failed.value)
    assert message.startswith(f"{unreadable}/run.json: Too many levels of symbolic links")
    assert "\n" not in message
    status, _, err = command("segment", photos, "--output", unreadable, "--model", model)
    assert status == 1
    assert err.splitlines()[-1].startswith(f"fcn-beam: {message}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"inputs": b"in"}, "inputs=b'in': must be a string or a path"),
        ({"inputs": 5}, "inputs=5: must be a string or a path"),
        ({"inputs": ["in", None]}, "inputs=None: must be a string or a path"),
        ({"output": b"out"}, "output=b'out': must be a string or a path"),
        ({"model": 7}, "model=7: must be a string or a path"),
        ({"limit": 0}, "limit=0: must be a whole number of 1 or more"),
        ({"workers": -1}, "workers=-1: must be a whole number of 1 or more"),
    ],
)
def test_an_argument_that_cannot_serve_is_named(tmp_path, tiny_model, change, told):
    asked = {"inputs": tmp_path, "output": tmp_path / "out", "model": tiny_model} | change
    with pytest.raises(pipeline.UserError) as refused:
        pipeline.segment(**asked)
    assert str(refused.value) == told


def test_an_argument_of_an_evaluation_that_cannot_serve_is_named(tmp_path, tiny_model):
    for change, told in (({"data": b"x"}, "data=b'x'"), ({"workers": 0}, "workers=0")):
        with pytest.raises(pipeline.UserError, match=f"^{told}: "):
            pipeline.evaluate(**{"data": tmp_path, "model": tiny_model} | change)


@pytest.fixture
def data(photos, tmp_path):
    """Three photos and their true masks, in two folders."""
    folder = tmp_path / "data"
    rng = np.random.default_rng(1)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    names = []
    for photo in sorted(photos.glob("a/*.jpg")):
        shutil.copy(photo, folder / "images")
        with Image.open(photo) as image:
            width, height = image.size
        mask = Image.fromarray(rng.integers(0, 21, (height, width), np.uint8))
        mask.putpalette(VOC.palette)
        mask.save(folder / "masks" / f"{photo.stem}.png")
        names.append(photo.stem)
    (folder / "labels.json").write_text(json.dumps(VOC.to_json()))
    (folder / "val.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def test_a_call_scores_a_model_as_the_command_does(model, command, data):
    result = pipeline.evaluate(data, model=model, workers=1)
    status, printed, err = command("evaluate", "--data", data, "--model", model, "--json", "-")
    assert status == 0, err
    assert result.report == json.loads(printed)
    assert result.scores == result.report["scores"]
    assert 0 < result.scores["miou"] < 1
    assert result.images == len(list(data.glob("images/*"))) == 3


@pytest.mark.parametrize("elsewhere", [False, True])
def test_without_scores_evaluate_raises_the_commands_message(command, data, monkeypatch, elsewhere):
    monkeypatch.setattr(api, "threads_differ", lambda: elsewhere)
    monkeypatch.setattr(
        api, "run_in_child", lambda *asked: dataclasses.asdict(through_the_child(*asked))
    )
    min(data.glob("masks/*.png")).unlink()
    with pytest.raises(pipeline.UserError, match=r"0\.png: no prediction") as failed:
        pipeline.evaluate(data, masks=data / "masks")
    remedy, fault = str(failed.value).rsplit("; ", 1)
    status, printed, err = command("evaluate", "--data", data, "--masks", data / "masks")
    assert (status, printed) == (1, "")
    assert err.startswith(f"fcn-beam: {remedy}:\n  {fault}\n")


# The child's two ends, each by itself


@pytest.fixture
def answer(monkeypatch, capsys):
    """Lets the child answer a request in this process: its status, and its answer."""
    monkeypatch.setattr(child_process, "claim_process", lambda: None)
    monkeypatch.setattr(child_process, "_end_with_parent", lambda: None)

    def ask(function, request):
        line = json.dumps({"function": function, "request": dataclasses.asdict(request)})
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{line}\n"))
        try:
            child_process.main()
        except SystemExit as stop:
            return stop.code, None
        return 0, json.loads(capsys.readouterr().out)

    return ask


def test_a_child_answers_with_what_the_job_returns(answer, model, photos, tmp_path):
    request = segmentation.Request([str(photos)], str(tmp_path / "out"), model=model)
    status, told = answer("segment", request)
    assert status == 0
    summary = Summary(**told["result"])
    assert (summary.masks, summary.output) == (5, str(tmp_path / "out"))


def test_a_child_answers_with_the_error_that_ends_the_job(answer, model, photos, unreadable):
    request = segmentation.Request([str(photos)], str(unreadable), model=model)
    told = {}
    for change in ({}, {"inputs": ["nowhere"]}):
        changed = dataclasses.replace(request, **change)
        status, found = answer("segment", changed)
        with pytest.raises((pipeline.JobError, pipeline.UserError)) as failed:
            segmentation.segment(changed)
        assert (status, found) == (
            0,
            {"error": type(failed.value).__name__, "message": str(failed.value)},
        )
        told[found["error"]] = found["message"]
    assert sorted(told) == ["JobError", "UserError"]


def test_a_child_that_is_interrupted_ends_with_status_130(answer, monkeypatch, capsys):
    def interrupted(request):
        raise KeyboardInterrupt("the job was cancelled")

    monkeypatch.setattr(segmentation, "segment", interrupted)
    assert answer("segment", segmentation.Request(["in"], "out")) == (130, None)
    assert capsys.readouterr().err == "fcn-beam: the job was cancelled\n"


@pytest.fixture
def program(monkeypatch):
    """Replaces the child by a small program."""

    def use(code):
        monkeypatch.setattr(child_process, "_CODE", f"path = {{path!r}}\n{code}")

    return use


ECHO = "import sys; print('noise'); print('{{\"result\": ' + sys.stdin.readline().strip() + '}}')"


def test_a_request_is_passed_to_the_child_through_a_pipe_not_arguments(program, monkeypatch):
    program(ECHO)
    commands = []
    start = subprocess.Popen.__init__

    def note(self, command, **options):
        commands.append(repr([command, options]))
        start(self, command, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", note)
    request = segmentation.Request(["in"], "out", storage_options={"s3.secret": "hush-hush"})
    told = child_process.run_in_child("segment", request)
    asked = json.loads(json.dumps(dataclasses.asdict(request)))  # which knows no tuples
    assert told == {"function": "segment", "request": asked}
    assert len(commands) == 1
    assert "hush-hush" not in commands[0]


@pytest.mark.parametrize("error", [pipeline.UserError, pipeline.JobError])
def test_an_error_of_the_child_is_raised_in_the_parent(program, error):
    told = json.dumps({"error": error.__name__, "message": "out: no such disk"})
    program(f"print({told!r})".replace("{", "{{").replace("}", "}}"))
    with pytest.raises(error, match=r"^out: no such disk$"):
        child_process.run_in_child("segment", segmentation.Request(["in"], "out"))


@pytest.mark.parametrize("code", ["raise SystemExit(7)", "print('no JSON'); raise SystemExit(7)"])
def test_a_child_that_ends_without_an_answer_is_a_job_error(program, code):
    program(code)
    with pytest.raises(pipeline.JobError, match=r"its process ended with status 7$"):
        child_process.run_in_child("segment", segmentation.Request(["in"], "out"))


# Programs of their own

ENVIRONMENT = os.environ | {"PYTHONPATH": os.getcwd()}

# Before a program's own code: nothing, or what a notebook has done with TensorFlow by then.
FRESH = ""
IN_USE = """
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(5)
assert float(tf.reduce_sum(tf.zeros(3) + 1)) == 3
"""


@pytest.fixture
def script(tmp_path, photos, tiny_model, data):
    """Starts a program that knows ``photos``, ``model``, ``data`` and ``out``."""
    names = {"photos": photos, "model": tiny_model, "data": data, "out": tmp_path / "out"}
    started = []

    def start(code, before=FRESH):
        known = [f"{name} = {str(value)!r}" for name, value in names.items()]
        program = "\n".join(["import json, sys", before, *known, "import pipeline", code])
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def answered(process):
    """Returns the JSON in the last line that a program printed."""
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    return json.loads(printed.splitlines()[-1])


SCRIPT = """
found = pipeline.segment(photos, out, model=model)
scores = pipeline.evaluate(data, model=model).scores
ran_here = "pipeline.network.segmenter" in sys.modules
print(json.dumps([found.masks, found.stages["infer"] > 0, scores, ran_here]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("before", [FRESH, IN_USE], ids=["fresh", "in use"])
def test_a_program_makes_the_masks_and_scores_of_the_command(
    script, command, tmp_path, photos, data, tiny_model, before
):
    count, timed, scores, ran_here = answered(script(SCRIPT, before))
    assert (count, timed, ran_here) == (5, True, before == FRESH)
    other = tmp_path / "command"
    assert command("segment", photos, "--output", other, "--model", tiny_model)[0] == 0
    assert len(masks(other)) == 5
    assert masks(tmp_path / "out") == masks(other)
    options = ("--data", data, "--model", tiny_model, "--json", "-")
    status, printed, err = command("evaluate", *options)
    assert status == 0, err
    assert scores == json.loads(printed)["scores"]


@pytest.mark.slow
def test_masks_are_scored_without_tensorflow(script):
    code = """
result = pipeline.evaluate(data, masks=data + "/masks")
print(json.dumps([result.scores["miou"], "tensorflow" in sys.modules]))
"""
    assert answered(script(code)) == [1.0, False]


# The child runs a job that waits when it has written masks. A shell's background job ignores
# Ctrl-C, and so would a program that it starts.
HELD = """
import signal
from pipeline import api
from pipeline import child_process
api.threads_differ = lambda: True
child_process._CODE = child_process._CODE.replace("from pipeline.child_process", "from "
    "tests.pipeline.segmentation import reliability; reliability.stub_network(); "
    "reliability.small_steps(); "
    "reliability.hold_masks(8); from pipeline.child_process")
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    pipeline.segment(photos, out, model=model, workers=1)
except KeyboardInterrupt:
    print(json.dumps("interrupted"))
"""


@pytest.fixture
def held(script, photos, tmp_path):
    """A program whose child has written masks and goes on until it is ended; the child."""
    reliability.pictures(photos, 20)
    process = script(HELD)

    def wrote():
        assert process.poll() is None, process.communicate()
        return masks(tmp_path / "out")

    wait_until(wrote, "the child has written masks")
    (number,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return process, number


in_proc = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="looks for the child in /proc"
)


@in_proc
@pytest.mark.slow
def test_an_interrupt_reaches_the_child(held, tmp_path):
    process, number = held
    process.send_signal(signal.SIGINT)  # only to the program; a terminal would send it to both
    assert answered(process) == "interrupted"
    assert not Path(f"/proc/{number}").exists()
    assert 0 < len(masks(tmp_path / "out")) < 25
    assert not (tmp_path / "out/summary.json").exists()


@in_proc
@pytest.mark.slow
def test_a_child_ends_with_its_program(held, tmp_path):
    process, number = held
    process.kill()
    process.wait()
    # A zombie has none.
    wait_until(lambda: not Path(f"/proc/{number}/exe").exists(), "the child has ended")
    assert not (tmp_path / "out/summary.json").exists()


# What `import pipeline` imports


@pytest.mark.slow
def test_exports_are_lazy():
    code = (
        "import sys, pipeline\n"
        "heavy = {'apache_beam', 'tensorflow', 'keras', 'numpy', 'PIL', 'fsspec', 'click'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert {*pipeline.__all__} <= {*dir(pipeline)}\n"
        "pipeline.UserError, pipeline.JobError\n"
        "assert not (heavy - {'click'}) & set(sys.modules), heavy & set(sys.modules)\n"
        "pipeline.segment, pipeline.evaluate, pipeline.SegmentImages\n"
        "assert 'tensorflow' not in sys.modules\n"
        "from pipeline import *\n"
        "assert segment is pipeline.segment and SegmentImages is pipeline.SegmentImages\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_exported_names_are_the_documented_ones():
    assert sorted(pipeline.__all__) == [
        "JobError",
        "SegmentImages",
        "UserError",
        "evaluate",
        "segment",
    ]
    assert {*pipeline.__all__} <= {*dir(pipeline)}
    for name in pipeline.__all__:
        assert getattr(pipeline, name).__name__ == name
    assert not hasattr(pipeline, "segmnt")
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'segmnt'"):
        pipeline.segmnt  # noqa: B018
