"""Predictions read from a folder, on masks in real files and in the in-memory store."""

import io

import numpy as np
import pytest
from PIL import Image

from model_build.common.errors import UserError
from model_build.data.labels import VOID, LabelSet, label2image
from pipeline.evaluation.predictions import (
    Example,
    Fault,
    as_predictions,
    as_task,
    check_folder,
    decode_ids,
    read_predictions,
)
from pipeline.records import Photo, Reject, Window
from pipeline.storage import Files

FILES = Files()
LABELS = LabelSet(("ground", "box", "disc", "star"), ((0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9)))


def encoded(ids, mode="P"):
    image = Image.fromarray(label2image(ids, LABELS) if mode == "RGB" else ids)
    if mode == "P":
        image.putpalette(LABELS.palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def example(name):
    return Example(name, f"photos/{name}.jpg", f"truths/{name}.png")


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    """Where predictions lie: on disk, or in a store."""
    if request.param == "disk":
        return str(tmp_path)
    request.getfixturevalue("memory")
    return "memory://bucket/predicted"


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_predictions_may_be_palette_grey_or_rgb(folder, mode):
    ids = np.random.default_rng(3).choice(np.array([0, 1, 2, 3], np.uint8), (4, 5))
    FILES.write(f"{folder}/sub/n.png", encoded(ids, mode))
    (found,) = read_predictions([example("sub/n")], folder, LABELS, FILES)
    np.testing.assert_array_equal(found.class_map, ids)
    assert found.size == (4, 5)
    assert (found.name, found.file) == ("sub/n", f"{folder}/sub/n.png")
    assert found.truth == "truths/sub/n.png"


def test_many_predictions_keep_their_order_and_each_fault_is_by_itself(folder):
    for index in range(40):
        if index not in (3, 35):
            FILES.write(f"{folder}/{index}.png", encoded(np.full((1, index + 1), 2, np.uint8)))
    FILES.write(f"{folder}/20.png", b"no image")
    found = list(read_predictions([example(str(n)) for n in range(40)], folder, LABELS, FILES))
    assert [prediction.name for prediction in found] == [str(n) for n in range(40)]
    faults = {p.name: p.class_map for p in found if isinstance(p.class_map, Fault)}
    assert {name: fault.missing for name, fault in faults.items()} == {
        "3": True,
        "20": False,
        "35": True,
    }
    assert faults["35"] == Fault("35", "prediction", True, f"{folder}/35.png", "no such file")
    assert all(p.size == (1, int(p.name) + 1) for p in found if p.name not in faults)


def test_a_prediction_in_a_format_of_no_mask_is_a_fault(folder):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3)).save(buffer, "JPEG")
    FILES.write(f"{folder}/n.png", buffer.getvalue())
    (found,) = read_predictions([example("n")], folder, LABELS, FILES)
    assert isinstance(found.class_map, Fault)
    assert found.class_map.detail.startswith("is actually JPEG, but a mask must be lossless")


def test_read_errors_of_a_mask_are_faults_but_not_missing():
    error = PermissionError("a.png: permission denied (403)")
    fault = decode_ids("a", "a.png", error, "truth", LABELS)
    assert fault == Fault("a", "truth", False, "a.png", "permission denied (403)")


def test_unknown_ids_and_unknown_colours_are_distinguished():
    pixels = label2image(np.zeros((2, 3), np.uint8), LABELS).copy()
    pixels[0, :2] = 1, 2, 3
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    found = decode_ids("a", "a.png", buffer.getvalue(), "truth", LABELS)
    assert (found.unknown, (found.ids == VOID).sum()) == (2, 2)
    fault = decode_ids("a", "a.png", encoded(np.full((2, 2), 7, np.uint8)), "truth", LABELS)
    assert isinstance(fault, Fault)
    assert "class id 7" in fault.detail
    assert not fault.detail.startswith("a.png")


def test_a_segmented_window_becomes_predictions():
    tasks = tuple(as_task(example(name)) for name in ("fine", "bad", "gone"))
    bad = Reject("photos/bad.jpg", "decode", "UnidentifiedImageError", "the file is empty")
    gone = Reject("photos/gone.jpg", "read", "FileNotFoundError", "No such file or directory")
    photo = Photo(np.zeros((2, 3, 3), np.uint8), 20, 30)
    class_map = np.ones((2, 3), np.uint8)
    window = Window(tasks, (photo, bad, gone), (class_map, bad, gone))
    fine, *others = as_predictions(window)
    assert fine.class_map is class_map
    assert fine.size == (20, 30)  # that of the source, which the mask has
    assert (fine.name, fine.file, fine.truth) == ("fine", "photos/fine.jpg", "truths/fine.png")
    assert [prediction.class_map for prediction in others] == [
        Fault(
            "bad",
            "prediction",
            True,
            "photos/bad.jpg",
            "decode: UnidentifiedImageError: the file is empty",
        ),
        Fault("gone", "prediction", True, "photos/gone.jpg", "no such file"),
    ]
    assert [prediction.truth for prediction in others] == ["truths/bad.png", "truths/gone.png"]


@pytest.mark.parametrize("below", ["masks", "masks/photos"])
def test_a_folder_above_the_masks_is_reported(folder, below):
    FILES.write(f"{folder}/{below}/sub/a[1].png", encoded(np.zeros((2, 2), np.uint8)))
    with pytest.raises(UserError, match=f"did you mean .*/{below}\\?"):
        check_folder(folder, ["sub/a[1]", "b"], FILES)
    check_folder(f"{folder}/{below}", ["b", "sub/a[1]"], FILES)


def test_a_folder_of_other_files_is_left_to_the_list_of_faults(folder):
    FILES.write(f"{folder}/notes.txt", b"of something else")
    check_folder(folder, ["a"], FILES)
    check_folder(f"{folder}/", ["a"], FILES)
    with pytest.raises(UserError, match="no such folder"):
        check_folder(f"{folder}/none", ["a"], FILES)


def test_an_empty_local_folder_is_one(tmp_path):
    check_folder(str(tmp_path), ["a"], FILES)
