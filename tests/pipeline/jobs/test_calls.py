"""The calls as other people's programs make them: each in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipeline
from model_build.data.labels import VOC
from pipeline.cli import main

ENVIRONMENT = os.environ | {"PYTHONPATH": os.getcwd()}

# Before the script: nothing, or what a notebook has done with TensorFlow by then.
FRESH = ""
IN_USE = """
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(5)
assert float(tf.reduce_sum(tf.zeros(3) + 1)) == 3
"""
TENSORFLOW = pytest.mark.parametrize("before", [FRESH, IN_USE], ids=["fresh", "in use"])


@pytest.fixture
def script(tmp_path, photos, tiny_model):
    """Runs a program that knows ``photos``, ``model`` and ``out``; what it tells comes as JSON."""

    def run(code, before=FRESH, out="out"):
        names = {"photos": str(photos), "model": tiny_model, "out": str(tmp_path / out)}
        program = "\n".join(
            [
                "import json, sys",
                before,
                *(f"{name} = {value!r}" for name, value in names.items()),
                "import pipeline",
                code,
            ]
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


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
def by_command(command, tmp_path, photos, tiny_model):
    """The masks that the command makes."""
    out = tmp_path / "command"
    assert command("segment", photos, "--output", out, "--model", tiny_model)[0] == 0
    return masks(out)


SEGMENT = """
from dataclasses import asdict
summary = pipeline.segment(photos, out, model=model)
assert type(summary).__name__ == "Summary"
print(json.dumps(asdict(summary) | {"ran here": "pipeline.network.segmenter" in sys.modules}))
"""


@TENSORFLOW
def test_a_script_makes_the_masks_of_the_command(script, by_command, tmp_path, photos, before):
    told = script(SEGMENT, before)
    assert told.pop("ran here") == (before == FRESH)
    out = tmp_path / "out"
    written = json.loads((out / "summary.json").read_text())
    assert {name: told[name] for name in written} == written
    assert (told["images"], told["masks"], told["rejected"]) == (5, 5, 0)
    assert told["output"] == str(out)
    assert told["stages"]["infer"] > 0
    assert len(by_command) == 5
    assert masks(out) == by_command
    again = script(SEGMENT, before)
    assert again["kept"] == 5


def test_inputs_are_one_or_many_and_paths_or_text(script):
    told = script(
        """
from pathlib import Path
found = [pipeline.segment(inputs, out + str(index), model=Path(model)).masks for index, inputs in
    enumerate([Path(photos), [Path(photos) / "a", photos + "/b"], iter([photos + "/a/0.jpg"])])]
print(json.dumps(found))
"""
    )
    assert told == [5, 5, 1]


def test_every_argument_arrives(script, tmp_path):
    told = script(
        """
summary = pipeline.segment(photos, out, model=model, overlays=True, long_side=64, tile=True,
    all_files=True, limit=3, max_pixels=10_000, engine="graph", batch_size=2, workers=2,
    storage_options={"s3.anon": "true"}, beam_options=["--runner", "DirectRunner"])
print(json.dumps(summary.options | summary.recipe))
""",
        IN_USE,
    )
    expected = {
        "overlays": True,
        "long_side": 64,
        "tile": 256,
        "all_files": True,
        "limit": 3,
        "max_pixels": 10_000,
        "engine": "graph",
        "batch_size": 2,
    }
    assert {name: told[name] for name in expected} == expected
    overlays = (tmp_path / "out/overlays").rglob("*.jpg")
    assert sorted(path.name for path in overlays) == ["0.jpg", "2.jpg"]  # the third is too large


ERRORS = """
told = []
for call in {calls!r}:
    try:
        eval(call)
    except (pipeline.UserError, pipeline.JobError) as error:
        told.append([type(error).__name__, str(error)])
print(json.dumps(told))
"""


@TENSORFLOW
def test_errors_are_the_commands_line(script, command, tmp_path, photos, tiny_model, before):
    out = ["--output", tmp_path / "out", "--model", tiny_model]
    cases = {
        "segment('nowhere', out, model=model)": ["segment", "nowhere", *out],
        "segment(photos, out, model=photos)": ["segment", photos, *out[:3], photos],
        "segment(photos, out, model=model, beam_options=['--runner', 'None'])": [
            *("segment", photos, *out, "--runner", "None")
        ],
        "segment([], out, model=model)": ["segment", *out],
        "segment(iter(['nowhere']), out, model=model)": ["segment", "nowhere", *out],
        "evaluate(photos, model=model)": ["evaluate", "--data", photos, *out[2:]],
        "evaluate(photos)": ["evaluate", "--data", photos],
    }
    told = script(ERRORS.format(calls=[f"pipeline.{call}" for call in cases]), before)
    assert len(told) == len(cases)
    for (kind, message), arguments in zip(told, cases.values(), strict=True):
        assert kind == "UserError"
        assert command(*arguments) == (2, "", f"fcn-beam: {message}\n")
    assert not (tmp_path / "out").exists()


@TENSORFLOW
def test_what_ends_a_job_is_a_job_error(script, command, tmp_path, photos, tiny_model, before):
    # The world's fault and no image's: nobody can tell what OUT holds.
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").symlink_to("run.json")
    call = "pipeline.segment(photos, out, model=model)"
    ((kind, message),) = script(ERRORS.format(calls=[call]), before)
    assert kind == "JobError"
    assert message.startswith(f"{tmp_path}/out/run.json: Too many levels of symbolic links")
    assert "\n" not in message
    status, _, err = command("segment", photos, "--output", tmp_path / "out", "--model", tiny_model)
    assert status == 1
    assert err.splitlines()[-1].startswith(f"fcn-beam: {message}")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"inputs": b"in"}, "inputs=b'in': must be a string or a path"),
        ({"inputs": 5}, "inputs=5: must be a string or a path"),
        ({"inputs": ["in", None]}, "inputs=None: must be a string or a path"),
        ({"output": b"out"}, "output=b'out': must be a string or a path"),
        ({"model": None}, "model=None: must be a string or a path"),
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


EVALUATE = """
result = pipeline.evaluate({data!r}, model=model, workers=1)
print(json.dumps([result.scores, result.report, result.images]))
"""


@TENSORFLOW
def test_a_script_scores_a_model_as_the_command_does(script, command, data, tiny_model, before):
    scores, report, images = script(EVALUATE.format(data=str(data)), before)
    status, printed, err = command("evaluate", "--data", data, "--model", tiny_model, "--json", "-")
    assert status == 0, err
    expected = json.loads(printed)
    assert scores == report["scores"] == expected["scores"]
    assert 0 < scores["miou"] < 1
    assert report == expected
    assert images == len(list(data.glob("images/*"))) == 3


@TENSORFLOW
def test_without_scores_evaluate_says_what_the_command_says(script, command, data, before):
    min(data.glob("masks/*.png")).unlink()
    call = f"pipeline.evaluate({str(data)!r}, masks={str(data / 'masks')!r})"
    ((kind, message),) = script(ERRORS.format(calls=[call]), before)
    assert kind == "UserError"
    assert "0.png: no prediction" in message
    assert command("evaluate", "--data", data, "--masks", data / "masks") == (
        1,
        "",
        f"fcn-beam: {message}\n",
    )


def test_masks_are_scored_without_tensorflow(script, data):
    told = script(
        f"""
result = pipeline.evaluate({str(data)!r}, masks={str(data / "masks")!r})
print(json.dumps([result.scores["miou"], "tensorflow" in sys.modules]))
"""
    )
    assert told == [1.0, False]


THREAD = """
import threading
found = []
thread = threading.Thread(target=lambda: found.append(pipeline.segment(photos, out, model=model)))
thread.start()
thread.join()
print(json.dumps([found[0].masks, found[0].kept]))
"""


@TENSORFLOW
def test_a_thread_that_is_not_the_main_one_may_call(script, by_command, tmp_path, before):
    assert script(THREAD, before) == [5, 0]
    assert masks(tmp_path / "out") == by_command


# A shell's background job ignores Ctrl-C, and so would a program that it starts.
INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    pipeline.segment(photos, out, model=model, workers=1)
except KeyboardInterrupt:
    print(json.dumps("interrupted"))
"""


def children(process):
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the child in /proc")
def test_an_interrupt_reaches_the_child(photos, tiny_model, tmp_path):
    for index in range(600):
        Image.new("RGB", (96, 96), (index % 256, 0, 0)).save(photos / f"{index}.png")
    out = tmp_path / "out"
    names = f"photos, out, model = {str(photos)!r}, {str(out)!r}, {tiny_model!r}"
    program = "\n".join(["import json", IN_USE, names, "import pipeline", INTERRUPTED])
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    while process.poll() is None and not list(out.glob("masks/*.png")):
        time.sleep(0.01)
    (child,) = children(process.pid)
    process.send_signal(signal.SIGINT)  # to the program alone, not as a terminal does to both
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(told) == "interrupted"
    assert not Path(f"/proc/{child}").exists()
    assert 0 < len(list(out.glob("masks/**/*.png"))) < 605
    assert not (out / "summary.json").exists()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the child in /proc")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_ends_with_its_program(photos, tiny_model, tmp_path, sent):
    for index in range(600):
        Image.new("RGB", (96, 96), (index % 256, 0, 0)).save(photos / f"{index}.png")
    out = tmp_path / "out"
    call = f"pipeline.segment({str(photos)!r}, {str(out)!r}, model={tiny_model!r}, workers=1)"
    program = "\n".join([IN_USE, "import pipeline", call])
    process = subprocess.Popen([sys.executable, "-c", program], env=ENVIRONMENT)
    while process.poll() is None and not list(out.glob("masks/*.png")):
        time.sleep(0.01)
    (child,) = children(process.pid)
    process.send_signal(sent)
    process.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}/exe").exists()  # a zombie has none
    assert not (out / "summary.json").exists()


def test_secrets_are_not_in_the_childs_arguments(photos, tiny_model, tmp_path):
    arguments = tmp_path / "arguments"
    watch = f"""
import subprocess
start = subprocess.Popen.__init__
def note(self, command, **options):
    open({str(arguments)!r}, "a").write(repr([command, options.get("env")]))
    start(self, command, **options)
subprocess.Popen.__init__ = note
pipeline.segment({str(photos)!r}, {str(tmp_path / "out")!r}, model={tiny_model!r},
    storage_options={{"s3.secret": "hush-hush"}})
"""
    done = subprocess.run(
        [sys.executable, "-c", f"{IN_USE}\nimport pipeline\n{watch}"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "pipeline.jobs.child" in arguments.read_text()
    assert "hush-hush" not in arguments.read_text() + done.stdout + done.stderr


# What `import pipeline` brings


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


def test_what_is_exported_is_what_is_promised():
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
