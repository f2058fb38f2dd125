"""The command as users start it: in a process of its own."""

import os
import signal
import subprocess
import sys
import time

import pytest


def fcn_beam(*arguments, **options):
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from pipeline.cli import fcn_beam\n"
        "for arguments in (['--help'], ['segment', '--help'], ['train', '--help']):\n"
        "    fcn_beam.main(arguments, standalone_mode=False)\n"
        "heavy = {'tensorflow', 'keras', 'apache_beam', 'numpy', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("segment", "train", "info"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segmnt"], "did you mean segment"),
        (["segment", "photos", "--output", "out", "--overlay"], "did you mean --overlays"),
        (["segment", "photos", "--output", "out", "--regoin", "x"], "did you mean --region"),
        (["segment", "photos"], "--output"),
        (["segment", "photos", "--output", "out", "--runner", "None"], "--runner None"),
        (["segment", "--output", "out"], "no INPUT"),
        (["segment", "nowhere", "--output", "out"], "nowhere: no such file or folder"),
        (["segment", "photos", "--output", "out", "--long-side", "0"], "native"),
        (["segment", "photos", "--output", "out", "--max-rejected", "x%"], "percentage"),
        (["segment", "photos", "--output", "out", "--model", "photos"], "is no saved model"),
        (["segment", "photos", "--output", "photos/a/0.jpg"], "must be a folder"),
        (["segment", "photos", "--output", "out*"], "must not hold *"),
        (["segment", "empty", "--output", "out"], "holds no file"),
        (["segment", "other", "--output", "out"], "--all-files"),
        (["segment", "@photos/none.txt", "--output", "out"], "list cannot be read"),
        (["info", "photos"], "is no saved model"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_status_2(
    photos, tiny_model, tmp_path, arguments, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/readme.txt").write_text("no image")
    if arguments[0] == "segment" and "--model" not in arguments:
        arguments = [*arguments, "--model", tiny_model]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = fcn_beam(*arguments, cwd=tmp_path, env=environment)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["truncated", "labels"])
def test_a_damaged_model_is_one_line(photos, tiny_model, tmp_path, damage):
    import json
    import shutil

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    if damage == "truncated":
        (weights,) = model.glob("saved_model/variables/*.data-*")
        weights.write_bytes(weights.read_bytes()[:-1000])
    else:
        description = json.loads((model / "model.json").read_text())
        description["labels"].pop()
        (model / "model.json").write_text(json.dumps(description))
    done = fcn_beam("segment", photos, "--output", tmp_path / "out", "--model", model)
    assert done.returncode == 2
    assert ("truncated" if damage == "truncated" else "20 labels") in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_killed_run_is_completed_with_the_same_masks(photos, tiny_model, tmp_path):
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for index in range(150):
        noise = rng.integers(0, 255, (96, 96, 3), np.uint8)
        Image.fromarray(noise).save(photos / f"{index}.png")
    options = ["--model", tiny_model, "--output"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert fcn_beam("segment", photos, *options, whole).returncode == 0
    command = [sys.executable, "-m", "pipeline", "segment", str(photos), *options, str(cut)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(cut.glob("masks/*.png")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(list(cut.glob("masks/**/*.png"))) < 155
    done = fcn_beam("segment", photos, *options, cut)
    assert done.returncode == 0
    assert "kept from an earlier run" in done.stdout
    for path in whole.glob("masks/**/*.png"):
        assert (cut / path.relative_to(whole)).read_bytes() == path.read_bytes()
    rows = [sorted(p.read_text() for p in out.glob("histograms-*")) for out in (whole, cut)]
    assert sorted(rows[0][0].splitlines()) == sorted(rows[1][0].splitlines())


def test_interrupt_says_that_the_run_can_go_on(photos, tiny_model, tmp_path):
    from PIL import Image

    for index in range(400):
        Image.new("RGB", (96, 96), (index % 256, 0, 0)).save(photos / f"{index}.png")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline", "segment", photos, "--output", out]
    process = subprocess.Popen([*command, "--model", tiny_model], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(out.glob("masks/*.png")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr
    assert len(list(out.glob("masks/**/*.png"))) < 405
