import io

import numpy as np
import pytest
from PIL import Image

from model_build.common.errors import UserError
from model_build.data.layouts import DataFolder
from model_build.data.survey import report, survey

VOID = 255


def write(root, name, ids, palette_png):
    """A pair whose mask is ``ids``."""
    Image.fromarray(np.zeros((*ids.shape, 3), np.uint8)).save(root / "images" / f"{name}.png")
    palette_png(root / "masks" / f"{name}.png", ids)


@pytest.fixture
def paired(make_paired, tmp_path):
    """Two training pairs and one for validation, with known pixels."""
    root = make_paired(tmp_path / "data", [])
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("c\n")
    return root


@pytest.fixture
def counted(paired, palette_png):
    ids = np.zeros((4, 10), np.uint8)
    ids[0] = VOID
    write(paired, "a", ids, palette_png)
    ids[1, :5] = 1
    write(paired, "b", ids, palette_png)
    write(paired, "c", np.full((8, 20), 2, np.uint8), palette_png)
    return paired


def test_pixels_and_images_are_counted_by_split_and_label(counted):
    found = survey(DataFolder(str(counted)))
    assert (found.errors, found.notes) == ([], [])
    train, val = found.splits
    assert (train.name, train.sizes, val.name, val.sizes) == (
        "train",
        ((4, 10), (4, 10)),
        "val",
        ((8, 20),),
    )
    assert train.pixels[[0, 1, 2, VOID]].tolist() == [55, 5, 0, 20]
    assert train.images[[0, 1, 2, VOID]].tolist() == [2, 1, 0, 2]
    assert train.pixels.sum() == 80
    assert val.pixels[[0, 1, 2, VOID]].tolist() == [0, 0, 160, 0]


def test_the_report_shows_shares_bars_and_what_never_occurs(counted):
    lines = list(report(survey(DataFolder(str(counted)))))
    train = lines[lines.index("train: 2 pairs, 10 × 4 pixels") :]
    assert [line.split()[:4] for line in train[2:6]] == [
        ["0", "ground", "68.750%", "2"],
        ["1", "box", "6.250%", "1"],
        ["2", "disc", "0.000%", "0"],
        ["255", "(void)", "25.000%", "2"],
    ]
    bars = [line.split()[-1] for line in train[2:6]]
    assert train[4].endswith("never occurs")
    assert [len(bars[index]) for index in (0, 1, 3)] == [30, 9, 18]
    assert "val: 1 pair, 20 × 8 pixels" in lines
    assert lines[-1] == "no errors"


def test_a_rare_label_shows_and_void_may_be_absent(paired, palette_png):
    ids = np.zeros((200, 200), np.uint8)
    ids[0, 0] = 1
    for name in "abc":
        write(paired, name, ids, palette_png)
    lines = list(report(survey(DataFolder(str(paired)))))
    rows = [line for line in lines if line.split()[:1] in (["1"], ["255"])]
    assert [row.split()[-1] for row in rows] == ["#", "0"] * 2
    assert all(row == row.rstrip() for row in lines)


def test_sizes_are_a_range(paired, palette_png):
    for name, shape in (("a", (4, 10)), ("b", (6, 8)), ("c", (1, 1))):
        write(paired, name, np.zeros(shape, np.uint8), palette_png)
    assert "train: 2 pairs, 8–10 × 4–6 pixels" in list(report(survey(DataFolder(str(paired)))))


def test_every_problem_is_listed_and_sound_pairs_are_counted(voc_folder, palette_png):
    photos, masks = voc_folder / "JPEGImages", voc_folder / "SegmentationClass"
    (photos / "train_0.png").unlink()
    (masks / "train_0.png").write_bytes(b"no image")
    wrong = np.zeros((80, 72), np.uint8)
    wrong[3, 3] = 7
    palette_png(masks / "train_1.png", wrong)
    palette_png(masks / "train_2.png", np.zeros((9, 9), np.uint8))
    (masks / "val_0.png").unlink()
    found = survey(DataFolder(str(voc_folder)))
    assert [error.split(": ")[0] for error in found.errors] == [
        str(photos / "train_0.jpg"),
        str(masks / "train_0.png"),
        str(masks / "train_1.png"),
        str(masks / "train_2.png"),
        str(masks / "val_0.png"),
    ]
    assert [len(split.sizes) for split in found.splits] == [1, 1]
    lines = list(report(found))
    assert lines[:5] == [f"error: {error}" for error in found.errors]
    assert lines[-1] == "5 errors"


def test_a_split_without_a_valid_pair_has_no_table(voc_folder):
    for path in (voc_folder / "SegmentationClass").glob("val_*"):
        path.unlink()
    lines = list(report(survey(DataFolder(str(voc_folder)), ["val"])))
    assert lines[-3:] == ["val: no usable pair", "", "2 errors"]


def test_names_in_train_and_val_are_a_leak(voc_folder):
    lists = voc_folder / "ImageSets" / "Segmentation"
    with open(lists / "val.txt", "a") as file:
        file.write("train_2\n")
    (lists / "trainval.txt").write_text("train_0\ntrain_2\nval_0\n")
    found = survey(DataFolder(str(voc_folder)))
    assert found.errors == ["train_2: is in both train and val; remove it from one"]
    assert [split.name for split in found.splits] == ["train", "val", "trainval"]
    assert [len(split.sizes) for split in found.splits] == [4, 3, 3]
    assert list(report(found))[-1] == "1 error"


def test_a_name_listed_twice_is_a_note_and_counts_once(voc_folder):
    listing = voc_folder / "ImageSets" / "Segmentation" / "val.txt"
    listing.write_text("val_0\nval_1\nval_0\n")
    found = survey(DataFolder(str(voc_folder)))
    assert found.errors == []
    assert found.notes == ["val: lists val_0 2 times"]
    assert len(found.splits[1].sizes) == 2


def test_photos_in_no_split_are_a_note(voc_folder):
    listing = voc_folder / "ImageSets" / "Segmentation" / "train.txt"
    listing.write_text("train_1\n")
    found = survey(DataFolder(str(voc_folder)))
    assert found.errors == []
    assert found.notes == [f"{voc_folder / 'JPEGImages'}: 3 photos are in no split"]
    assert survey(DataFolder(str(voc_folder)), ["train"]).notes == [], "other splits may list them"


def test_two_photos_of_one_name_are_a_note(counted):
    Image.new("RGB", (10, 4)).save(counted / "images" / "a.jpg")
    found = survey(DataFolder(str(counted)))
    assert found.notes == [f"a: 2 photos have this name; {counted / 'images' / 'a.jpg'} is used"]


def test_unknown_colours_are_counted(counted):
    colours = np.zeros((4, 10, 3), np.uint8)
    colours[0, :3] = 9
    Image.fromarray(colours).save(counted / "masks" / "a.png")
    found = survey(DataFolder(str(counted)))
    assert found.errors == []
    assert [split.unknown for split in found.splits] == [3, 0]
    assert "  3 pixels have an unknown colour, and count as void" in list(report(found))


def test_an_empty_or_missing_split_is_one_error_among_others(voc_folder):
    listing = voc_folder / "ImageSets" / "Segmentation" / "val.txt"
    listing.write_text("")
    (voc_folder / "SegmentationClass" / "train_3.png").unlink()
    found = survey(DataFolder(str(voc_folder)), ["val", "train", "tset", "val"])
    assert [error.split(": ")[0] for error in found.errors] == [
        str(listing),
        str(listing.with_name("tset.txt")),
        str(voc_folder / "SegmentationClass" / "train_3.png"),
    ]
    assert [split.name for split in found.splits] == ["train"]


def test_a_pair_in_two_splits_is_read_once(voc_folder):
    lists = voc_folder / "ImageSets" / "Segmentation"
    (lists / "trainval.txt").write_text((lists / "train.txt").read_text())
    (voc_folder / "SegmentationClass" / "train_0.png").unlink()
    steps = []
    found = survey(
        DataFolder(str(voc_folder)), advance=lambda done, total: steps.append((done, total))
    )
    assert len(found.errors) == 1
    assert steps == [(done, 6) for done in range(1, 7)]


def test_a_folder_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="has neither the folders images and masks nor lists in"):
        survey(DataFolder(str(tmp_path)))


def test_a_photo_of_another_format_than_its_suffix_is_read(counted):
    disguised = io.BytesIO()
    Image.new("RGB", (20, 8)).save(disguised, "WEBP")
    (counted / "images" / "c.png").write_bytes(disguised.getvalue())
    assert survey(DataFolder(str(counted))).errors == []


def test_a_damaged_photo_is_an_error(counted):
    noise = io.BytesIO()
    Image.effect_noise((20, 8), 90).save(noise, "JPEG", quality=95)
    path = counted / "images" / "c.png"
    path.write_bytes(noise.getvalue()[: -len(noise.getvalue()) // 4])
    assert survey(DataFolder(str(counted))).errors == [
        f"{path}: cannot be read as an image: damaged or cut short: premature end of data segment"
    ]


def test_unused_files_are_a_note(counted):
    for name in ("images/d.heic", "images/._a.png", "images/.ipynb_checkpoints/a.png"):
        path = counted / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (counted / "masks/b.png").rename(counted / "masks/b2.png")
    (counted / "masks/b.npy").write_bytes(b"")
    found = survey(DataFolder(str(counted)))
    images, masks = counted / "images", counted / "masks"
    (error,) = found.errors
    assert error.startswith(f"{masks}/b.png: not found, but b is in the split; {masks}/b.npy is ")
    assert found.notes[:4] == [
        f"{masks}: 1 masks have no photo: b2",
        f"{images}: 1 files are left out by their extension (.heic 1): d.heic",
        f"{masks}: 1 files are left out by their extension (.npy 1): b.npy",
        f"{images}: 2 hidden files, or files of caches and systems, are left out: ._a.png, "
        ".ipynb_checkpoints/a.png",
    ]


def test_palettes_in_another_order_are_a_note(counted, toy_labels):
    order = [2, 0, 1]
    mask = Image.fromarray(np.full((8, 20), order.index(2), np.uint8), "P")
    mask.putpalette([channel for index in order for channel in toy_labels.colors[index]])
    mask.save(counted / "masks/c.png")
    found = survey(DataFolder(str(counted)))
    assert found.notes == [
        f"{counted}/masks/c.png: its palette has the labels' colours in another order, so it is "
        "mapped by colour; 1 of 3 masks are"
    ]
    assert found.splits[1].pixels[2] == 160


def test_labels_without_a_pixel_get_a_note_about_255(counted):
    (counted / "masks/c.png").unlink()
    Image.fromarray(np.full((8, 20), 255, np.uint8)).save(counted / "masks/c.png")
    assert survey(DataFolder(str(counted))).notes == [
        f"{counted}/masks: no pixel is of 1 of 3 labels (disc); 180 pixels have the value 255, "
        'which means void: if it is one of your classes, give that label "id": 255 in labels.json'
    ]
    text = (
        (counted / "labels.json").read_text().replace('"name": "disc"', '"id": 255, "name": "disc"')
    )
    (counted / "labels.json").write_text(text)
    found = survey(DataFolder(str(counted)))
    assert (found.errors, found.notes) == ([], [])
    assert found.splits[1].pixels[2] == 160


def test_missing_labels_are_a_note(counted):
    (counted / "labels.json").rename(counted / "Labels.json")
    assert (
        survey(DataFolder(str(counted)))
        .notes[0]
        .endswith("Labels.json is not read: write labels.json")
    )
