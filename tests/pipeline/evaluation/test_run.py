"""Evaluations of data, masks and models on disk and in the in-memory store."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from model_build.common.errors import UserError
from model_build.data.labels import VOC, VOID
from model_build.data.layouts import DataFolder
from pipeline.evaluation import run as evaluation
from pipeline.evaluation.run import Request, data_folder
from pipeline.storage import Files

FILES = Files()
STORE = "memory://bucket/a [1]"


@pytest.fixture
def voc(tmp_path):
    """Makes a VOC folder with a number of small photos and true masks; returns its path."""

    def make(count):
        folder = tmp_path / "data"
        for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (folder / part).mkdir(parents=True)
        rng = np.random.default_rng(1)
        names = [f"n{index:02}" for index in range(count)]
        for index, name in enumerate(names):
            height, width = 24 + 8 * (index % 3), 32 + 8 * (index % 2)
            pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"JPEGImages/{name}.jpg")
            ids = rng.choice(np.array([0, 0, 2, 7, 20, VOID], np.uint8), (height, width))
            Image.fromarray(ids).save(folder / f"SegmentationClass/{name}.png")
        (folder / "ImageSets/Segmentation/val.txt").write_text("\n".join(names))
        return folder

    return make


def predict(data, masks):
    """Predictions for a data folder: random masks, every third at half its size."""
    masks.mkdir()
    for index, path in enumerate(sorted((data / "SegmentationClass").iterdir())):
        with Image.open(path) as image:
            width, height = image.size
        divisor = 2 if index % 3 == 0 else 1
        ids = np.random.default_rng(index).integers(
            0, 21, (height // divisor, width // divisor), np.uint8
        )
        Image.fromarray(ids).save(masks / path.name)
    return masks


def upload(folder, target):
    """Copies a local folder into a store; gives its URI."""
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            with open(path, "rb") as file:
                FILES.write(f"{target}/{os.path.relpath(path, folder)}", file.read())
    return target


def evaluate(data, **options):
    options = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in options.items()
    }
    return evaluation.evaluate(Request(os.fspath(data), **options))


def describe_error(result):
    """The report, less where things lie."""
    report = json.loads(json.dumps(result.report))
    for part, key in ((report, "data"), (report["source"], "model"), (report["source"], "masks")):
        part.pop(key, None)
    return report


def test_masks_in_a_store_score_as_on_disk(voc, tmp_path, memory):
    data = voc(40)
    masks = predict(data, tmp_path / "predicted")
    here = evaluate(data, masks=masks, workers=1)
    assert here.report["images"] == 40
    assert len(here.report["scaled"]) == 14
    there = evaluate(
        upload(data, f"{STORE}/data"), masks=upload(masks, f"{STORE}/predicted"), workers=2
    )
    assert describe_error(there) == describe_error(here)
    assert there.table() == here.table()
    assert there.report["data"] == f"{STORE}/data"
    assert there.report["source"] == {"masks": f"{STORE}/predicted"}


@pytest.mark.slow
def test_a_model_in_a_store_scores_as_on_disk(voc, tiny_model, memory):
    data = voc(36)
    here = evaluate(data, model=tiny_model)
    there = evaluate(upload(data, f"{STORE}/data"), model=upload(tiny_model, f"{STORE}/model"))
    assert here.report["images"] == 36
    assert describe_error(there) == describe_error(here)
    assert there.report["source"]["model"] == f"{STORE}/model"
    assert there.report["source"]["fingerprint"] == here.report["source"]["fingerprint"]


@pytest.mark.slow
def test_faults_in_a_store_are_those_on_disk(voc, tiny_model, memory):
    data = voc(70)
    for index in range(0, 70, 3):
        (data / f"JPEGImages/n{index:02}.jpg").write_text("no image")
    for index in range(0, 70, 10):
        (data / f"SegmentationClass/n{index:02}.png").unlink()
    (data / "JPEGImages/n69.jpg").unlink()
    uri = upload(data, f"{STORE}/data")
    here, there = (evaluate(where, model=tiny_model, workers=2) for where in (data, uri))
    assert here.scores is there.scores is None
    found = [(fault["name"], fault["what"]) for fault in there.report["faults"]]
    assert found == [
        (f"n{index:02}", what)
        for index in range(70)
        for what, step in (("prediction", 3), ("truth", 10))
        if index % step == 0
    ]
    for one, other in zip(here.report["faults"], there.report["faults"], strict=True):
        assert other["file"].removeprefix(uri) == one["file"].removeprefix(str(data))
        assert other | {"file": ""} == one | {"file": ""}
    assert "28 of 70 images cannot be scored" in there.complaint()[0]
    scored = evaluate(uri, model=tiny_model, skip_missing=True)
    assert len(scored.report["skipped"]) == 28
    assert scored.report["images"] == 70 - 28
    on_disk = evaluate(data, model=tiny_model, skip_missing=True)
    assert describe_error(scored) | {"faults": []} == describe_error(on_disk) | {"faults": []}
    assert scored.table() == on_disk.table()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "test.txt: cannot be read: "),
        ({"split": "vall"}, "did you mean val?"),
        (
            {"data": f"{STORE}/none"},
            f"{STORE}/none: has neither the folders images and masks nor lists in ",
        ),
        ({"data": "memory://"}, "no bucket given"),
        ({"data": "gopher://bucket/data"}, "unknown scheme gopher://"),
        ({"masks": f"{STORE}/none"}, f"{STORE}/none: no such folder"),
        ({"masks": STORE}, f"{STORE}: has none of the split's masks; did you mean "),
        ({"masks": "gopher://bucket/masks"}, "unknown scheme gopher://"),
        ({"masks": None, "model": f"{STORE}/none"}, "not a saved model"),
        ({"masks": None, "model": f"{STORE}/data"}, "not a saved model"),
    ],
)
def test_a_missing_folder_is_reported_in_one_line(voc, tmp_path, memory, options, message):
    data = voc(2)
    upload(predict(data, tmp_path / "predicted"), f"{STORE}/predicted")
    asked = {"data": upload(data, f"{STORE}/data"), "masks": f"{STORE}/predicted"} | options
    with pytest.raises(UserError) as error:
        evaluate(**asked)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_list_that_cannot_be_read_is_no_missing_list(voc, tmp_path, memory):
    data = voc(2)
    (data / "ImageSets/Segmentation/val.txt").write_bytes("n\xe9\n".encode("latin-1"))
    uri = upload(data, f"{STORE}/data")
    with pytest.raises(UserError, match=r"val\.txt: is not UTF-8 text"):
        evaluate(uri, masks=tmp_path)


def test_a_data_folder_reads_the_same_from_disk_and_store(voc, memory):
    data = voc(5)
    (data / "labels.json").write_text(json.dumps(VOC.to_json()))
    uri = upload(data, f"{STORE}/data")
    for where in (str(data), f"{data}/", uri, f"{uri}/"):
        root = where.rstrip("/")
        folder = data_folder(where, FILES)
        assert folder.names("val") == folder.photos() == ["n00", "n01", "n02", "n03", "n04"]
        assert folder.labels().names == VOC.names
        assert folder.photo("n03") == f"{root}/JPEGImages/n03.jpg"
        assert folder.mask("n03") == f"{root}/SegmentationClass/n03.png"
        assert folder.photo("none") is None


def test_a_data_folder_on_local_disk_is_listed_as_in_training(voc, monkeypatch):
    data = voc(2)
    photos = data / "JPEGImages"
    (photos / "gone.jpg").symlink_to("nowhere")
    assert (
        data_folder(str(data), FILES).photos() == DataFolder(str(data)).photos() == ["n00", "n01"]
    )
    (photos / "more").mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path) == f"{photos}/more":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"JPEGImages: cannot be listed: Permission denied"):
        data_folder(str(data), FILES).photos()
