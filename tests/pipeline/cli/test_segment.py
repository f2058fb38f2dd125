"""``fcn-beam segment``; the job itself is tested in ``jobs/test_segment.py``."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main


def in_a_process(*arguments, **options):
    """The command as users start it."""
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture
def segment(photos, tiny_model, tmp_path, monkeypatch, capsys):
    """``segment`` of the photos in this process; its status, what it printed, and OUT."""

    def run(*arguments, inputs=(photos,), out="out"):
        target = tmp_path / out
        options = ["--output", target, "--model", tiny_model, *arguments]
        monkeypatch.setattr("sys.argv", ["fcn-beam", "segment", *map(str, (*inputs, *options))])
        with pytest.raises(SystemExit) as stop:
            main.main()
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err, target

    return run


def masks(out):
    return {path.relative_to(out): path.read_bytes() for path in out.glob("masks/**/*.png")}


def rows(out):
    """The rows of OUT, less the times at which its masks were written."""
    (shard,) = out.glob("histograms-*.jsonl")
    found = [json.loads(line) for line in shard.read_text().splitlines()]
    for row in found:
        del row["versions"]["mask"]["version"]
    return found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "--output", "out", "--overlay"], "did you mean --overlays"),
        (["photos", "--output", "out", "--regoin", "x"], "did you mean --region"),
        (["photos", "--ouput", "out"], "did you mean --output"),
        (["photos"], "missing option --output"),
        (["photos", "--output", "out", "--runner", "None"], "--runner None"),
        (["--output", "out"], "no INPUT"),
        (["nowhere", "--output", "out"], "nowhere: no such file or folder"),
        (["photos", "--output", "out", "--long-side", "0"], "native"),
        (["photos", "--output", "out", "--max-rejected", "x%"], "percentage"),
        (["photos", "--output", "out", "--model", "photos"], "not a saved model"),
        (["photos", "--output", "photos/a/0.jpg"], "must be a folder"),
        (["photos", "--output", "gcs://b/out"], "unknown scheme gcs://; did you mean gs?"),
        (["empty", "--output", "out"], "no files found"),
        (["other", "--output", "out"], "--all-files"),
        (["@photos/none.txt", "--output", "out"], "list cannot be read"),
        (["photos", "--output", "out", "--storage-option", "s3.anon"], "SCHEME.KEY=VALUE"),
        (["photos", "--output", "out", "--storage-option", "anon=true"], "must be one of gs.KEY"),
        (["photos", "--output", "out", "--runner", "FlinkRunner"], "add --shared-disk"),
    ],
)
def test_what_a_user_can_fix_is_one_line_and_status_2(
    photos, tiny_model, tmp_path, arguments, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/readme.txt").write_text("no image")
    if "--model" not in arguments:
        arguments = [*arguments, "--model", tiny_model]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = in_a_process("segment", *arguments, cwd=tmp_path, env=environment)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["@-", "@/dev/stdin"])
def test_a_list_may_come_by_standard_input(photos, tiny_model, tmp_path, name):
    lines = "".join(f"{path}\n" for path in photos.glob("*/*.jpg"))
    options = ["--output", tmp_path / "out", "--model", tiny_model, "--dry-run"]
    done = in_a_process("segment", name, *options, input=lines)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("5 images: 5 to do")


@pytest.mark.parametrize("damage", ["truncated", "labels"])
def test_a_damaged_model_is_one_line(photos, tiny_model, tmp_path, damage):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    if damage == "truncated":
        (weights,) = model.glob("saved_model/variables/*.data-*")
        weights.write_bytes(weights.read_bytes()[:-1000])
    else:
        description = json.loads((model / "model.json").read_text())
        description["labels"].pop()
        (model / "model.json").write_text(json.dumps(description))
    done = in_a_process("segment", photos, "--output", tmp_path / "out", "--model", model)
    assert done.returncode == 2
    assert ("truncated" if damage == "truncated" else "20 labels") in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_run_prints_its_summary_and_nothing_else(photos, tiny_model, tmp_path):
    done = in_a_process("segment", photos, "--output", tmp_path / "out", "--model", tiny_model)
    assert done.returncode == 0
    assert done.stderr == ""
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert (lines["images"], lines["masks"], lines["rejected"]) == ("5", "5", "0")
    assert lines["results:"] == str(tmp_path / "out")


def test_the_summary_is_that_of_the_run(segment):
    status, printed, _, out = segment()
    assert status == 0
    assert len(masks(out)) == 5
    assert "nothing to do" not in printed
    status, printed, _, _ = segment()
    assert status == 0
    assert re.search(r"^masks +5 \(5 kept from an earlier run\)$", printed, re.MULTILINE)
    assert "nothing to do: all masks are up to date" in printed


def test_exit_status_tells_of_too_many_rejects(segment, photos):
    bad = photos / "bad.jpg"
    bad.write_text("bad")
    assert segment("--max-rejected", "1")[0] == 0
    assert segment("--max-rejected", "50%")[0] == 0
    assert segment("--max-rejected", "0")[0] == 3
    status, printed, err, _ = segment("--max-rejected", "10%")
    assert status == 3
    assert "rejected" in printed
    assert "fcn-beam: more than 10% of the images were rejected; see " in err
    status, _, err, _ = segment(inputs=[bad], out="none")
    assert status == 3
    assert "fcn-beam: no image got a mask; " in err


def test_dry_run_lists_and_writes_nothing(segment):
    status, printed, _, out = segment("--dry-run")
    assert status == 0
    assert printed.splitlines()[-1].startswith("5 images: 5 to do")
    assert "masks/a/0.png: to do" in printed
    assert not out.exists()


def test_a_job_that_fails_is_one_line_and_status_1(segment, monkeypatch):
    import apache_beam as beam

    def fail(pipeline):
        raise RuntimeError("Traceback of a worker\n  here\nOSError: No space left on device")

    monkeypatch.setattr(beam.Pipeline, "run", fail)
    status, printed, err, _ = segment()
    assert status == 1
    assert printed == ""
    assert err == (
        "fcn-beam: the job failed: OSError: No space left on device; "
        "run the same command again to continue (--log-level info shows where)\n"
    )


def test_every_option_arrives(segment, tmp_path):
    arguments = [
        *("--overlays", "--long-side", "64", "--all-files", "--limit", "3", "--engine", "graph"),
        *("--batch-size", "2", "--max-pixels", "10000", "--workers", "2"),
        *("--storage-option", "s3.anon=true", "--runner", "DirectRunner", "--log-level", "error"),
    ]
    status, _, err, out = segment(*arguments)
    assert status == 0, err
    summary = json.loads((out / "summary.json").read_text())
    expected = {
        "overlays": True,
        "all_files": True,
        "limit": 3,
        "max_pixels": 10_000,
        "out": str(out),
        "root": str(tmp_path / "photos"),
    }
    assert {name: summary["options"][name] for name in expected} == expected
    recipe = {"long_side": 64, "engine": "graph", "batch_size": 2}
    assert {name: summary["recipe"][name] for name in recipe} == recipe
    assert len(list(out.glob("overlays/**/*.jpg"))) == 2  # the third has too many pixels


def test_an_output_may_be_named_like_a_pattern(segment):
    status, _, err, out = segment(out="o[u]t*?")
    assert status == 0, err
    assert len(masks(out)) == 5
    assert segment(out="o[u]t*?")[0] == 0


def test_large_photos_go_in_tiles_and_small_ones_whole(segment, photos):
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 255, (20, 25, 3), np.uint8)
    large = Image.fromarray(np.kron(coarse, np.ones((25, 25, 1), np.uint8)))  # a tile has 256
    large.save(photos / "large.jpg")
    large.save(photos / "large.tif", compression="tiff_lzw")
    status, _, err, out = segment("--tile", out="tiles")
    assert status == 0, err
    assert json.loads((out / "summary.json").read_text())["recipe"]["tile"] == 256
    whole = segment("--long-side", "native", out="whole")[3]
    for path in out.glob("masks/**/*.png"):
        found = np.asarray(Image.open(path))
        expected = np.asarray(Image.open(whole / path.relative_to(out)))
        share = (found == expected).mean()
        assert share > 0.99 if "large" in path.name else share == 1, path
    assert len(masks(out)) == 7


def test_masks_in_tiles_do_not_mix_with_others(segment):
    assert segment("--tile")[0] == 0
    status, _, err, _ = segment()
    assert status == 2
    assert "made with tile 256, not none; add --overwrite" in err
    status, printed, _, _ = segment("--tile")
    assert status == 0
    assert "nothing to do" in printed
    assert segment("--tile", "--dry-run")[1].splitlines()[-1].startswith("5 images: 0 to do")


@pytest.mark.parametrize("workers", ["1", "2", "3"])
def test_masks_do_not_depend_on_workers(segment, workers):
    _, _, _, whole = segment(out="whole")
    status, _, err, out = segment("--workers", workers)
    assert status == 0, err
    assert len(masks(out)) == 5
    assert masks(out) == masks(whole)


def test_a_killed_run_is_completed_with_the_same_masks(photos, tiny_model, tmp_path):
    rng = np.random.default_rng(0)
    for index in range(150):
        noise = rng.integers(0, 255, (96, 96, 3), np.uint8)
        Image.fromarray(noise).save(photos / f"{index}.png")
    options = ["--model", tiny_model, "--output"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert in_a_process("segment", photos, *options, whole).returncode == 0
    command = [sys.executable, "-m", "pipeline", "segment", str(photos), *options, str(cut)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(cut.glob("masks/*.png")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(list(cut.glob("masks/**/*.png"))) < 155
    done = in_a_process("segment", photos, *options, cut)
    assert done.returncode == 0
    assert "kept from an earlier run" in done.stdout
    assert masks(cut) == masks(whole)
    assert len(masks(cut)) == 155
    assert rows(cut) == rows(whole)
    assert sorted(path.name for path in cut.iterdir() if path.is_dir()) == ["masks"]


@pytest.mark.parametrize(
    ("sent", "word", "status"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)],
)
def test_an_interrupt_says_that_the_run_can_go_on(photos, tiny_model, tmp_path, sent, word, status):
    # So many, and so large, that the job would go on for far longer than it takes to end.
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1200, 3), np.uint8)
    Image.fromarray(noise).save(photos / "0.png", compress_level=1)
    for index in range(1, 1200):
        os.link(photos / "0.png", photos / f"{index}.png")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline", "segment", photos, "--output", out]
    process = subprocess.Popen([*command, "--model", tiny_model], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(out.glob("masks/*.png")):
        time.sleep(0.01)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    assert f"fcn-beam: {word}; " in stderr
    assert "run the same command again" in stderr
    assert "Traceback" not in stderr
    assert len(list(out.glob("masks/**/*.png"))) < 1205
    assert not list(out.glob(".unfinished/**/*.*"))
    assert not (out / "summary.json").exists()


def test_another_recipe_or_root_is_refused_with_the_remedy(segment, photos):
    assert segment("--long-side", "64")[0] == 0
    status, printed, err, out = segment()
    assert (status, printed) == (2, "")
    assert f"fcn-beam: {out}: contains masks made with long side 64, not 96; add --overwrite" in err
    before = masks(out)
    assert segment("--overwrite")[0] == 0
    assert masks(out).keys() == before.keys()
    assert masks(out) != before
    status, _, err, _ = segment(inputs=[photos / "a"])
    assert status == 2
    assert "add --moved if it is the same archive in another place" in err


def test_a_second_job_is_refused_while_the_first_runs(segment, photos, tmp_path):
    from pipeline.outputs.folder import OutputFolder
    from pipeline.outputs.lock import Lock
    from pipeline.storage import Files

    (tmp_path / "out").mkdir()
    lock = Lock(OutputFolder(str(tmp_path / "out"), Files(), run="first")).take()
    status, printed, err, out = segment()
    assert (status, printed) == (2, "")
    assert re.search(
        rf"^fcn-beam: {out}: another job is writing there \(process {os.getpid()}", err
    )
    assert err.count("\n") == 1
    lock.release()
    assert segment()[0] == 0


def test_verify_does_a_damaged_mask_again(segment):
    _, _, _, out = segment()
    before = masks(out)
    mask = out / "masks/a/0.png"
    stat = mask.stat()
    data = bytearray(mask.read_bytes())
    data[-30] ^= 1
    mask.write_bytes(data)
    os.utime(mask, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "5 kept" in segment()[1]
    status, printed, _, _ = segment("--verify")
    assert status == 0
    assert "4 kept" in printed
    assert masks(out) == before
