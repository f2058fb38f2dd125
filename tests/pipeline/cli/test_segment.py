"""``fcn-beam segment``; the job itself is tested in ``segmentation/test_run.py``."""

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from model_build import artifact
from model_build.data.labels import LabelSet
from pipeline.cli import main
from tests.pipeline.segmentation import reliability
from tests.waiting import wait_until


def in_a_process(*arguments, **options):
    """The command as users start it."""
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs ``segment`` in this process; its status, and what it printed."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["fcn-beam", "segment", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main.main()
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return run


@pytest.fixture
def segment_with(command, photos, tmp_path):
    """``segment`` of the photos by a network in this process; see ``command``, and OUT."""

    def run(*arguments, model, inputs=(photos,), out="out"):
        target = tmp_path / out
        return *command(*inputs, "--output", target, "--model", model, *arguments), target

    return run


@pytest.fixture
def segment(segment_with, tmp_path, monkeypatch):
    """The same by a network that costs nothing."""
    (tmp_path / "stub").mkdir()
    reliability.stub_network(monkeypatch.setattr)
    return functools.partial(segment_with, model=reliability.save_stub(tmp_path / "stub"))


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
def test_a_user_error_is_one_line_and_status_2(
    command, photos, tiny_model, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/readme.txt").write_text("no image")
    if "--model" not in arguments:
        arguments = [*arguments, "--model", tiny_model]
    status, printed, err = command(*arguments)
    assert (status, printed) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["@-", "@/dev/stdin"])
def test_a_list_may_be_standard_input(photos, tiny_model, tmp_path, name):
    lines = "".join(f"{path}\n" for path in photos.glob("*/*.jpg"))
    options = ["--output", tmp_path / "out", "--model", tiny_model, "--dry-run"]
    done = in_a_process("segment", name, *options, input=lines)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("5 images: 5 to do")


def test_a_model_with_a_label_too_few_is_one_line(command, photos, tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    described = artifact.describe(model)
    labels = LabelSet(described.labels.names[:-1], described.labels.colors[:-1])
    artifact.write_description(model, dataclasses.replace(described, labels=labels))
    status, _, err = command(photos, "--output", tmp_path / "out", "--model", model)
    assert status == 2
    assert "20 labels" in err
    assert err.count("\n") == 1, err


@pytest.mark.slow
def test_a_truncated_model_is_one_line(photos, tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    program = model / "saved_model/saved_model.pb"
    program.write_bytes(program.read_bytes()[:-1000])
    done = in_a_process("segment", photos, "--output", tmp_path / "out", "--model", model)
    assert done.returncode == 2
    assert "truncated" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.slow
def test_a_run_prints_its_summary_and_nothing_else(photos, tiny_model, tmp_path):
    done = in_a_process("segment", photos, "--output", tmp_path / "out", "--model", tiny_model)
    assert done.returncode == 0
    assert reliability.without_progress(done.stderr) == ""
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert (lines["images"], lines["masks"], lines["rejected"]) == ("5", "5", "0")
    assert lines["results:"] == str(tmp_path / "out")


@pytest.mark.slow
def test_the_summary_is_that_of_the_run(segment):
    status, printed, _, out = segment()
    assert status == 0
    assert len(masks(out)) == 5
    assert "nothing to do" not in printed
    status, printed, _, _ = segment()
    assert status == 0
    assert re.search(r"^masks +5 \(5 kept from an earlier run\)$", printed, re.MULTILINE)
    assert "nothing to do: all masks are up to date" in printed


@pytest.mark.slow
def test_exit_status_reports_too_many_rejects(segment, photos):
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_output_may_be_named_like_a_pattern(segment):
    status, _, err, out = segment(out="o[u]t*?")
    assert status == 0, err
    assert len(masks(out)) == 5
    assert segment(out="o[u]t*?")[0] == 0


@pytest.mark.slow
def test_large_photos_go_in_tiles_and_small_ones_whole(segment_with, photos, tiny_model):
    segment = functools.partial(segment_with, model=tiny_model)
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


@pytest.mark.slow
def test_masks_in_tiles_do_not_mix_with_others(segment):
    assert segment("--tile")[0] == 0
    status, _, err, _ = segment()
    assert status == 2
    assert "made with tile 256, not none; add --overwrite" in err
    status, printed, _, _ = segment("--tile")
    assert status == 0
    assert "nothing to do" in printed
    assert segment("--tile", "--dry-run")[1].splitlines()[-1].startswith("5 images: 0 to do")


def held(photos, tiny_model, out):
    """The real command on many photos: it has written masks, and waits until it is ended."""
    reliability.pictures(photos, 80)
    code = (
        "from pipeline.cli import main\n"
        "from tests.pipeline.segmentation import reliability\n"
        "reliability.hold_masks(8)\n"
        "main.main()"
    )
    arguments = ["segment", photos, "--output", out, "--model", tiny_model]
    process = subprocess.Popen(
        # A shell's background jobs ignore Ctrl-C, and so do their children.
        [sys.executable, "-c", f"import signal\n{DEFAULT}\n{code}", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )

    def wrote():
        assert process.poll() is None, process.communicate()
        return masks(out)

    wait_until(wrote, "the command has written masks")
    return process


DEFAULT = "signal.signal(signal.SIGINT, signal.default_int_handler)"


@pytest.mark.slow
def test_a_killed_run_is_completed_with_the_same_masks(segment_with, photos, tiny_model, tmp_path):
    segment = functools.partial(segment_with, model=tiny_model)
    process = held(photos, tiny_model, tmp_path / "cut")
    process.kill()
    process.communicate()
    assert 0 < len(masks(tmp_path / "cut")) < 85
    status, printed, err, cut = segment(out="cut")
    assert status == 0, err
    assert "kept from an earlier run" in printed
    *_, whole = segment(out="whole")
    assert masks(cut) == masks(whole)
    assert len(masks(cut)) == 85
    assert rows(cut) == rows(whole)
    assert sorted(path.name for path in cut.iterdir() if path.is_dir()) == ["masks"]


@pytest.mark.slow
def test_an_interrupt_prints_how_to_resume(photos, tiny_model, tmp_path):
    out = tmp_path / "out"
    process = held(photos, tiny_model, out)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "fcn-beam: interrupted; " in stderr
    assert "run the same command again" in stderr
    assert "Traceback" not in stderr
    assert len(masks(out)) < 85
    assert not list(out.glob(".unfinished/**/*.*"))
    assert not (out / "summary.json").exists()


@pytest.mark.slow
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


@pytest.mark.slow
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
