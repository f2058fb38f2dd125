"""The whole job on real files, in this process."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from model_build.labels import VOC
from pipeline.cli import fcn_beam
from pipeline.progress import COUNTS


@pytest.fixture
def segment(tiny_model, tmp_path):
    """Runs ``fcn-beam segment`` with the tiny model; returns the result and OUT."""

    def run(*arguments, out="out", status=0):
        target = tmp_path / out
        arguments = [
            "segment",
            *map(str, arguments),
            "--output",
            str(target),
            "--model",
            tiny_model,
        ]
        result = CliRunner().invoke(fcn_beam, arguments, standalone_mode=False)
        if result.exception:
            raise result.exception
        assert result.return_value == status, result.output
        return result, target

    return run


def rows(out, kind="histograms"):
    lines = [line for path in sorted(out.glob(f"{kind}-*")) for line in path.open()]
    return sorted(map(json.loads, lines), key=lambda row: row["image"])


def masks(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes() for path in out.glob("masks/**/*.png")
    }


def test_every_photo_gets_a_mask_of_its_size_and_a_row_that_adds_up(segment, photos):
    _, out = segment(photos)
    names = sorted(path.relative_to(photos).with_suffix(".png") for path in photos.glob("*/*"))
    assert sorted(masks(out)) == [f"masks/{name.as_posix()}" for name in names]
    found = rows(out)
    assert len(found) == len(names) == 5
    for row in found:
        with Image.open(row["image"]) as photo, Image.open(out / row["mask"]) as mask:
            assert mask.mode == "P"
            assert mask.size == photo.size == (row["width"], row["height"])
            assert bytes(mask.getpalette()) == VOC.palette
            counts = np.bincount(np.asarray(mask).ravel(), minlength=len(VOC))
        assert row["pixels"] == {
            name: count for name, count in zip(VOC.names, counts, strict=True) if count
        }
        assert sum(row["pixels"].values()) == row["width"] * row["height"]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["images"], summary["masks"], summary["rejected"]) == (5, 5, 0)
    assert sum(summary["pixels"].values()) == sum(row["width"] * row["height"] for row in found)
    assert not (out / ".unfinished").exists()


def test_mask_equals_the_argmax_of_the_keras_model(segment, tiny_model, tmp_path):
    import keras

    from model_build import fcn  # noqa: F401

    rng = np.random.default_rng(2)
    pixels = np.kron(rng.integers(0, 255, (8, 12, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    source = tmp_path / "exact"
    source.mkdir()
    Image.fromarray(pixels).save(source / "photo.png")
    _, out = segment(source)
    model = keras.models.load_model(f"{tiny_model}/model.keras")
    expected = np.argmax(model.predict(pixels[None], verbose=0)[0], axis=-1)
    with Image.open(out / "masks/photo.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), expected)


def test_a_local_run_uses_no_network(segment, photos, monkeypatch):
    import socket

    def refuse(*arguments, **options):
        raise AssertionError(f"network: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    _, out = segment(photos)
    assert len(masks(out)) == 5


def test_a_job_that_fails_is_one_line_and_status_1(
    photos, tiny_model, tmp_path, monkeypatch, capsys
):
    from pipeline import cli, job

    def fail(*arguments):
        raise RuntimeError("Traceback of a worker\n  here\nOSError: No space left on device")

    monkeypatch.setattr(job, "run", fail)
    command = ["fcn-beam", "segment", str(photos), "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", [*command, "--model", tiny_model])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        "fcn-beam: the job failed: OSError: No space left on device "
        "(--log-level debug tells where)\n"
    )


def test_second_run_does_nothing_and_says_so(segment, photos):
    first, out = segment(photos)
    before = {path: path.stat().st_mtime_ns for path in out.glob("masks/**/*.png")}
    expected = rows(out)
    second, _ = segment(photos)
    assert "nothing to do" in second.output
    assert "nothing to do" not in first.output
    assert {path: path.stat().st_mtime_ns for path in out.glob("masks/**/*.png")} == before
    assert rows(out) == expected
    assert json.loads((out / "summary.json").read_text())["kept"] == 5
    assert [path.name for path in out.glob("rejected-*")] == ["rejected-00000-of-00001.jsonl"]


def test_a_run_cut_off_is_completed_with_the_same_masks(segment, photos):
    _, out = segment(photos)
    whole, expected = masks(out), rows(out)
    lost = sorted(out.glob("masks/**/*.png"))[::2]
    for path in lost:
        path.unlink()
    (out / "summary.json").unlink()
    (out / "beam-temp-histograms-1").mkdir()
    (out / "beam-temp-histograms-1/shard").write_text("half")
    damaged = sorted(out.glob("masks/**/*.png"))[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    segment(photos)
    assert masks(out) == whole
    assert rows(out) == expected
    assert not list(out.glob("beam-temp-*"))


@pytest.mark.parametrize("variant", [["--workers", "2"], ["--batch-size", "3"]])
def test_masks_do_not_depend_on_workers_or_order(segment, photos, variant):
    _, one = segment(photos, out="one")
    _, other = segment(photos, *variant, out="other")
    assert masks(other) == masks(one)


def test_broken_files_are_rejected_one_by_one(segment, photos):
    whole = next(photos.glob("a/*.jpg")).read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.PNG").write_bytes(b"")
    (photos / "text.gif").write_text("no image")
    (photos / "notes.txt").write_text("no image either")
    (photos / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    Image.new("RGB", (300, 300)).save(photos / "huge.png")
    result, out = segment(photos, "--max-pixels", "80000")
    rejects = {Path(row["image"]).name: row for row in rows(out, "rejected")}
    assert {name: row["stage"] for name, row in rejects.items()} == {
        "cut.jpg": "decode",
        "empty.PNG": "decode",
        "text.gif": "decode",
        "gone.jpg": "read",
        "huge.png": "decode",
    }
    assert "300×300" in rejects["huge.png"]["detail"]
    assert set(rejects["cut.jpg"]) == {"image", "stage", "error", "detail"}
    assert len(rows(out)) == 5
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["images"], summary["masks"], summary["rejected"]) == (10, 5, 5)
    assert summary["skipped"] == 1
    assert "decode: TooManyPixels" in result.output


def test_exit_status_tells_of_too_many_rejects(segment, photos):
    (photos / "bad.jpg").write_text("bad")
    segment(photos, "--max-rejected", "1")
    segment(photos, "--max-rejected", "50%")
    segment(photos, "--max-rejected", "0", status=3)
    segment(photos, "--max-rejected", "10%", status=3)
    segment(photos / "bad.jpg", out="none", status=3)


def test_a_newer_source_is_done_again_and_a_failing_one_loses_its_mask(segment, photos):
    import os
    import time

    _, out = segment(photos)
    later = time.time() + 100
    changed, broken = photos / "a/0.jpg", photos / "a/2.jpg"
    Image.new("RGB", (40, 40), "red").save(changed)
    broken.write_text("bad")
    for path in (changed, broken):
        os.utime(path, (later, later))
    segment(photos)
    with Image.open(out / "masks/a/0.png") as mask:
        assert mask.size == (40, 40)
    assert not (out / "masks/a/2.png").exists()
    assert [Path(row["image"]).name for row in rows(out, "rejected")] == ["2.jpg"]
    assert len(rows(out)) == 4


def test_a_newer_source_in_a_list_is_done_again(segment, photos, tmp_path):
    import os
    import time

    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"{path}\n" for path in photos.glob("*/*.jpg")))
    _, out = segment(f"@{listing}")
    later = time.time() + 100
    os.utime(photos / "a/0.jpg", (later, later))
    segment(f"@{listing}")
    assert json.loads((out / "summary.json").read_text())["kept"] == 4


@pytest.mark.parametrize("change", [["--long-side", "64"], ["--engine", "graph"]])
def test_other_options_for_the_same_output_are_refused_until_overwrite(segment, photos, change):
    from model_build.errors import UserError

    _, out = segment(photos)
    first = masks(out)
    with pytest.raises(UserError, match="--overwrite"):
        segment(photos, *change)
    assert masks(out) == first
    segment(photos, *change, "--overwrite")
    result, _ = segment(photos, *change)
    assert "nothing to do" in result.output


def test_overwrite_cut_off_does_not_leave_masks_of_the_old_kind(segment, photos, monkeypatch):
    from pipeline import job

    _, out = segment(photos)

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "run", stop)
        segment(photos, "--long-side", "64", "--overwrite", status=130)
    segment(photos, "--long-side", "64")
    assert json.loads((out / "summary.json").read_text())["kept"] == 0
    _, fresh = segment(photos, "--long-side", "64", out="fresh")
    assert masks(out) == masks(fresh)


def test_shards_of_an_earlier_run_are_replaced_however_many(segment, photos):
    _, out = segment(photos)
    expected = rows(out)
    (shard,) = out.glob("histograms-*")
    for index in range(3):
        shutil.copy(shard, out / f"histograms-0000{index}-of-00003.jsonl")
    segment(photos)
    assert rows(out) == expected


def test_clashing_names_keep_their_extensions_and_resume(segment, tmp_path):
    source = tmp_path / "clash"
    source.mkdir()
    for name in ("a.jpg", "a.png", "a.jpg.png", "b.jpg"):
        Image.new("RGB", (40, 30), "gray").save(source / name)
    _, out = segment(source)
    assert sorted(masks(out)) == [
        "masks/a.jpg.png",
        "masks/a.jpg.png.png",
        "masks/a.png.png",
        "masks/b.png",
    ]
    result, _ = segment(source)
    assert "nothing to do" in result.output


def test_a_mask_name_that_passes_to_another_photo_is_done_again(segment, tmp_path):
    source = tmp_path / "clash"
    source.mkdir()
    Image.new("RGB", (40, 30), "gray").save(source / "a.jpg")
    Image.new("RGB", (70, 50), "gray").save(source / "a.jpg.png")
    segment(source)
    Image.new("RGB", (20, 20), "gray").save(source / "a.png")
    _, out = segment(source)
    sizes = {Path(row["image"]).name: (row["width"], row["height"]) for row in rows(out)}
    assert sizes == {"a.jpg": (40, 30), "a.jpg.png": (70, 50), "a.png": (20, 20)}


def test_a_foreign_mask_is_done_again(segment, photos):
    _, out = segment(photos)
    expected = masks(out)
    foreign = Image.new("P", (10, 10))
    foreign.save(out / "masks/a/0.png")
    segment(photos)
    assert masks(out) == expected


def test_overlays_are_written_and_added_later(segment, photos):
    _, out = segment(photos)
    segment(photos, "--overlays")
    assert sorted(path.name for path in out.glob("overlays/**/*.jpg")) == [
        f"{index}.jpg" for index in range(5)
    ]
    result, _ = segment(photos, "--overlays")
    assert "nothing to do" in result.output


def test_an_overlay_goes_with_its_mask(segment, photos):
    _, out = segment(photos, "--overlays")
    segment(photos, "--long-side", "64", "--overwrite")
    assert not list(out.glob("overlays/**/*.jpg"))
    segment(photos, "--long-side", "64", "--overlays")
    assert len(list(out.glob("overlays/**/*.jpg"))) == 5


def test_limit_takes_the_first_by_name(segment, photos):
    _, out = segment(photos, "--limit", "2")
    assert sorted(masks(out)) == ["masks/a/0.png", "masks/a/2.png"]


def test_output_inside_input_is_not_segmented(segment, photos):
    segment(photos, out="photos/out")
    segment(photos, out="photos/out")
    _, out = segment(photos, out="photos/out")
    assert len(rows(out)) == 5


def test_all_files_tries_files_without_an_extension(segment, photos):
    (photos / "a/0.jpg").rename(photos / "a/zero")
    _, out = segment(photos, "--all-files")
    assert "masks/a/zero.png" in masks(out)


def test_dry_run_lists_and_writes_nothing(segment, photos):
    result, out = segment(photos, "--dry-run")
    assert "5 to do" in result.output
    assert "masks/a/0.png: to do" in result.output
    assert not out.exists()


def test_exif_orientation_decides_the_masks_size(segment, tmp_path):
    source = tmp_path / "turned"
    source.mkdir()
    photo = Image.new("RGB", (60, 40), "blue")
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(source / "turned.jpg", exif=exif)
    _, out = segment(source)
    with Image.open(out / "masks/turned.png") as mask:
        assert mask.size == (40, 60)


def test_progress_counts_every_image(segment, photos):
    (photos / "bad.jpg").write_text("bad")
    segment(photos)
    assert (COUNTS.listed, COUNTS.done, COUNTS.rejects) == (6, 6, 1)
