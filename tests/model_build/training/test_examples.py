import json

import numpy as np
import pytest
from PIL import Image

from model_build.data.layouts import DataFolder
from model_build.training.examples import read_examples


@pytest.fixture
def folder(make_paired, tmp_path, toy_labels):
    """Two pairs to train on and one to score on, of grey masks in 0 and 255."""
    root = make_paired(tmp_path / "data", ["a", "b", "c"])
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("c\n")
    (root / "labels.json").write_text(json.dumps(toy_labels.to_json()))
    ids = np.zeros((4, 5), np.uint8)
    ids[0] = 255
    for name in "abc":
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(root / f"images/{name}.png")
        Image.fromarray(ids).save(root / f"masks/{name}.png")
    return root


def said(root):
    lines = []
    folder = DataFolder(str(root))
    examples = read_examples(folder, folder.labels(), ("train", "val"), (4, 5), say=lines.append)
    return examples, lines[1:]


def test_labels_without_a_pixel_are_reported_per_split_with_a_remedy(folder):
    _, lines = said(folder)
    asked = (
        'which means void: if it is one of your classes, give that label "id": 255 in labels.json'
    )
    assert lines == [
        f"{folder}: {split}: no pixel is of 2 of 3 labels (box, disc); {count} pixels have the "
        f"value 255, {asked}"
        for split, count in (("train", 10), ("val", 5))
    ]
    rows = json.loads((folder / "labels.json").read_text())
    rows["labels"][1]["id"] = 255
    (folder / "labels.json").write_text(json.dumps(rows))
    examples, lines = said(folder)
    assert examples.labels.names == ("ground", "disc", "box")  # in the order of their values
    assert lines == [
        f"{folder}: {split}: no pixel is of 1 of 3 labels (disc)" for split in ("train", "val")
    ]
    assert np.bincount(examples.pairs[0].read_ids().ravel()).tolist() == [15, 0, 5]


def test_there_is_no_note_if_each_label_has_a_pixel(folder):
    for name in "abc":
        Image.fromarray(np.array([[0, 1, 2, 255, 0]] * 4, np.uint8)).save(
            folder / f"masks/{name}.png"
        )
    assert said(folder)[1] == []


def test_reordered_palettes_and_labels_of_voc_are_reported_once(folder, toy_labels):
    for name in "ab":
        mask = Image.fromarray(np.array([[0, 1, 2, 0, 0]] * 4, np.uint8), "P")
        mask.putpalette([c for index in (1, 0, 2) for c in toy_labels.colors[index]])
        mask.save(folder / f"masks/{name}.png")
    Image.fromarray(np.array([[0, 1, 2, 1, 0]] * 4, np.uint8)).save(folder / "masks/c.png")
    examples, lines = said(folder)
    assert lines == [
        f"{folder}/masks/a.png: its palette has the labels' colours in another order, so it is "
        "mapped by colour; 2 of 3 masks are"
    ]
    assert examples.pairs[0].read_ids()[0].tolist() == [1, 0, 2, 1, 1]
    (folder / "labels.json").unlink()
    assert (
        f"{folder}/labels.json: not found, so the 21 labels of PASCAL VOC are used"
        in said(folder)[1]
    )
