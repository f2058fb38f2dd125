"""Whole jobs on real servers of s3:// and gs://: masks equal to those of a local run.

What a store does is tested of each in ``storage/test_files.py``: here one job runs on both, and the
others, which ask no more of a store than that one does, on s3:// alone.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation import run as evaluation
from pipeline.segmentation import run as segmentation
from pipeline.segmentation.plan import Request
from pipeline.storage import File, Files

FILES = Files()


def upload(folder, where):
    """Copies a local folder into a bucket."""
    for path in folder.rglob("*"):
        if path.is_file():
            FILES.write(f"{where}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def contents(where, ending=""):
    """Names and bytes of the files below a folder, local or remote."""
    found = [file for file in FILES.list(where) if isinstance(file, File)]
    return {
        file.path[len(where) + 1 :]: FILES.read(file.path)
        for file in found
        if file.path.endswith(ending)
    }


def rows(out, kind="histograms"):
    """The lines of the shards, which are those that ``summary.json`` names."""
    named = json.loads(FILES.read(f"{out}/summary.json"))["shards"]
    found = [file.path for file in FILES.starting_with(f"{out}/{kind}-")]
    assert sorted(found) == sorted(f"{out}/{name}" for name in named if name.startswith(kind))
    lines = b"".join(map(FILES.read, found)).splitlines()
    return sorted(map(json.loads, lines), key=lambda row: row["image"])


@pytest.fixture
def run(stub_job):
    """Runs a job with a network that costs nothing: ``run(input, out, **options)``."""
    return stub_job


@pytest.fixture
def local(run, photos, tmp_path):
    """The masks and rows of a local run over the photos."""
    run(str(photos), f"{tmp_path}/local", overlays=True)
    return f"{tmp_path}/local"


@pytest.mark.slow
def test_a_first_run_writes_what_a_local_run_writes(run, bucket, photos, local):
    upload(photos, f"{bucket}/photos")
    summary = run(f"{bucket}/photos", f"{bucket}/out", overlays=True)
    assert (summary.images, summary.masks, summary.rejected) == (5, 5, 0)
    for kind in ("masks", "overlays"):
        assert contents(f"{bucket}/out/{kind}") == contents(f"{local}/{kind}")
    ours, theirs = rows(f"{bucket}/out"), rows(local)
    assert [row["pixels"] for row in ours] == [row["pixels"] for row in theirs]
    assert {row["image"] for row in ours} == {
        f"{bucket}/photos/{path.relative_to(photos).as_posix()}" for path in photos.glob("*/*.jpg")
    }
    assert rows(f"{bucket}/out", "rejected") == []
    for row in ours:
        for version in row["versions"].values():
            assert version["size"] > 0
            assert version["version"]
    assert set(contents(f"{bucket}/out")) - set(contents(f"{bucket}/out", "g")) == {
        "run.json",
        "summary.json",
        *summary.shards,
    }


def test_rejects_are_listed_and_a_second_run_keeps_the_rest(run, s3, photos, local):
    (photos / "bad.jpg").write_text("no image")
    upload(photos, f"{s3}/photos")
    summary = run(f"{s3}/photos", f"{s3}/out")
    assert (summary.masks, summary.rejected) == (5, 1)
    (reject,) = rows(f"{s3}/out", "rejected")
    assert (reject["image"], reject["stage"]) == (f"{s3}/photos/bad.jpg", "decode")
    before = contents(f"{s3}/out/masks")
    again = run(f"{s3}/photos", f"{s3}/out")
    assert (again.kept, again.rejected) == (5, 1)
    assert contents(f"{s3}/out/masks") == before == contents(f"{local}/masks")


@pytest.mark.slow
def test_a_redo_replaces_and_a_failing_one_leaves_no_stale_mask(run, bucket, photos):
    upload(photos, f"{bucket}/photos")
    run(f"{bucket}/photos", f"{bucket}/out")
    Image.new("RGB", (40, 40), "red").save(photos / "a/0.jpg")
    FILES.write(f"{bucket}/photos/a/0.jpg", (photos / "a/0.jpg").read_bytes())
    FILES.write(f"{bucket}/photos/a/2.jpg", b"bad")
    summary = run(f"{bucket}/photos", f"{bucket}/out")
    assert (summary.masks, summary.kept, summary.rejected) == (4, 3, 1)
    masks = contents(f"{bucket}/out/masks")
    assert "a/2.png" not in masks
    assert len(masks) == 4


@pytest.mark.slow
def test_hostile_names_get_the_masks_of_a_local_run(run, s3, tmp_path):
    folder = tmp_path / "odd"
    for name in ("a[1].jpg", "a1.jpg", "*.jpg", "x?y/#.jpg", "%20 é.jpg", "-x.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "gray").save(folder / name)
    upload(folder, f"{s3}/odd [photos]")
    run(str(folder), f"{tmp_path}/out")
    run(f"{s3}/odd [photos]", f"{s3}/out *")
    assert contents(f"{s3}/out */masks") == contents(f"{tmp_path}/out/masks")
    FILES.write(f"{s3}/odd [photos]/*.jpg", b"bad")
    run(f"{s3}/odd [photos]", f"{s3}/out *")
    assert set(contents(f"{tmp_path}/out/masks")) - set(contents(f"{s3}/out */masks")) == {"*.png"}


@pytest.mark.slow
def test_what_a_store_can_hold_but_no_folder_is_rejected(run, s3, photos):
    data = (photos / "a/0.jpg").read_bytes()
    for key in ("a//b.jpg", "x/../y.jpg", f"{'n' * 252}.jpg", "good.jpg", "t\tab.jpg"):
        FILES.write(f"{s3}/photos/{key}", data)
    summary = run(f"{s3}/photos", f"{s3}/out")
    assert set(contents(f"{s3}/out/masks")) == {"good.png", f"{'n' * 252}.png"}
    assert summary.causes == {"list: BadName": 3}
    details = " ".join(reject["detail"] for reject in rows(f"{s3}/out", "rejected"))
    assert "control character" in details


@pytest.mark.slow
def test_a_component_too_long_for_a_disk_is_rejected_there(run, s3, photos, tmp_path):
    data = (photos / "a/0.jpg").read_bytes()
    for key in (f"{'n' * 252}.jpg", "good.jpg", "a.jpg", "a.png/b.jpg"):
        FILES.write(f"{s3}/photos/{key}", data)
    summary = run(f"{s3}/photos", f"{tmp_path}/out")
    assert summary.masks + summary.rejected == 4
    details = [reject["detail"] for reject in rows(f"{tmp_path}/out", "rejected")]
    assert any("over 255 bytes" in detail for detail in details)
    assert summary.rejected == 1, "a.png is the mask of a.jpg, and a folder is not called so"


@pytest.mark.slow
def test_model_and_list_in_the_store(s3, photos, tiny_model, tmp_path):
    upload(photos, f"{s3}/photos")
    upload(Path(tiny_model), f"{s3}/models/tiny")
    listed = sorted(path.relative_to(photos).as_posix() for path in photos.glob("*/*.jpg"))
    text = "".join(f"{s3}/photos/{name}\n" for name in listed)
    FILES.write(f"{s3}/list.txt", text.encode())
    segmentation.segment(Request([str(photos)], f"{tmp_path}/local", model=tiny_model))
    segmentation.segment(Request([f"@{s3}/list.txt"], f"{s3}/out", model=f"{s3}/models/tiny"))
    assert len(contents(f"{s3}/out/masks")) == 5
    assert contents(f"{s3}/out/masks") == contents(f"{tmp_path}/local/masks")


@pytest.mark.slow
def test_a_list_with_a_remote_line_among_local_ones(run, s3, photos, tmp_path):
    FILES.write(f"{s3}/far.jpg", (photos / "a/0.jpg").read_bytes())
    (tmp_path / "list.txt").write_text(f"{photos}/a/2.jpg\n{s3}/far.jpg\n{s3}/gone.jpg\n")
    summary = run(f"@{tmp_path}/list.txt", f"{tmp_path}/out")
    assert (summary.masks, summary.rejected) == (2, 1)
    assert len(contents(f"{tmp_path}/out/masks")) == 2


@pytest.mark.slow
def test_evaluate_reads_all_of_it_from_the_store(s3, run, photos, stub_model, tmp_path):
    data = tmp_path / "data"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (data / part).mkdir(parents=True)
    names = []
    for photo in sorted(photos.glob("*/*.jpg")):
        (data / "JPEGImages" / photo.name).write_bytes(photo.read_bytes())
        with Image.open(photo) as image:
            ids = np.random.default_rng(0).integers(0, 3, image.size[::-1], np.uint8)
        Image.fromarray(ids).save(data / f"SegmentationClass/{photo.stem}.png")
        names.append(f"{photo.stem}\n")
    (data / "ImageSets/Segmentation/val.txt").write_text("".join(names))
    upload(data, f"{s3}/data")
    run(f"{s3}/data/JPEGImages", f"{s3}/out")

    def report(**options):
        found = evaluation.evaluate(evaluation.Request(**options)).report
        return {name: found[name] for name in ("scores", "confusion_matrix", "images")}

    model = stub_model()
    expected = report(data=str(data), model=model)
    assert expected["images"] == 5
    assert report(data=f"{s3}/data", model=model) == expected
    assert report(data=f"{s3}/data", masks=f"{s3}/out/masks") == expected
