import io
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from model_build.common.errors import UserError
from model_build.data.labels import label2image
from model_build.data.layouts import DataFolder
from model_build.data.pairs import Pair, check_pair, read_pair, read_split


def refused(folder, labels, split="train"):
    with pytest.raises(UserError) as caught:
        read_split(DataFolder(str(folder)), split, labels)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def toy(make_voc, tmp_path_factory):
    return make_voc(tmp_path_factory.mktemp("voc") / "data", train=5)


@pytest.fixture(scope="module")
def pairs(toy, toy_labels):
    return read_split(DataFolder(str(toy)), "train", toy_labels)


def test_a_split_lists_photos_masks_and_their_sizes(toy, pairs):
    assert [(pair.height, pair.width) for pair in pairs] == [
        (64, 96),
        (80, 72),
        (100, 90),
        (64, 96),
        (80, 72),
    ]
    assert pairs[1] == Pair(
        str(toy / "JPEGImages" / "train_1.png"),
        str(toy / "SegmentationClass" / "train_1.png"),
        80,
        72,
        pairs[1].ids,
    )


def test_a_missing_photo_is_named(voc_folder, toy_labels):
    (voc_folder / "JPEGImages" / "train_2.png").unlink()
    message = refused(voc_folder, toy_labels)
    assert message.startswith(str(voc_folder / "JPEGImages" / "train_2"))
    assert "missing" in message


def test_a_missing_mask_is_named(voc_folder, toy_labels):
    path = voc_folder / "SegmentationClass" / "train_2.png"
    path.unlink()
    assert refused(voc_folder, toy_labels).startswith(f"{path}: not found")


def test_a_listed_suffix_is_pointed_out(voc_folder, toy_labels):
    listing = voc_folder / "ImageSets" / "Segmentation" / "train.txt"
    listing.write_text("train_0.png\n")
    assert refused(voc_folder, toy_labels).endswith("list names without their suffix")


def test_a_name_may_contain_a_space(voc_folder, toy_labels):
    for folder in ("JPEGImages", "SegmentationClass"):
        shutil.copy(voc_folder / folder / "train_0.png", voc_folder / folder / "train 0.png")
    (voc_folder / "ImageSets" / "Segmentation" / "train.txt").write_text("train 0\n")
    (pair,) = read_split(DataFolder(str(voc_folder)), "train", toy_labels)
    assert pair.image == str(voc_folder / "JPEGImages" / "train 0.png")


def test_a_mask_of_another_size_is_named_with_both_sizes(voc_folder, toy_labels, palette_png):
    path = voc_folder / "SegmentationClass" / "train_0.png"
    palette_png(path, np.zeros((96, 64), np.uint8))
    assert refused(voc_folder, toy_labels) == f"{path}: is 64×96, but its photo is 96×64"


@pytest.mark.parametrize("mode", ["P", "L"])
def test_a_label_value_outside_the_set_is_named(voc_folder, toy_labels, palette_png, mode):
    path = voc_folder / "SegmentationClass" / "train_0.png"
    ids = np.zeros((64, 96), np.uint8)
    ids[5, 7] = 3
    if mode == "P":
        palette_png(path, ids)
    else:
        Image.fromarray(ids).save(path)
    message = refused(voc_folder, toy_labels)
    assert message.startswith(f"{path}: has class id 3, but the 3 labels have the ids 0 to 2")


def test_a_mask_of_another_mode_is_named(voc_folder, toy_labels):
    path = voc_folder / "SegmentationClass" / "train_0.png"
    Image.fromarray(np.zeros((64, 96), np.float32)).save(path, "TIFF")
    message = refused(voc_folder, toy_labels)
    assert message.startswith(f"{path}: a mask must be palette, grey or RGB, but this is F")


@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass"])
@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_file_that_is_no_image_is_named(voc_folder, toy_labels, folder, content):
    path = voc_folder / folder / "train_0.png"
    path.write_bytes(content)
    assert refused(voc_folder, toy_labels).startswith(f"{path}: cannot be read")


@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_truncated_image_is_named(make_voc, tmp_path, toy_labels, folder, suffix):
    root = make_voc(tmp_path / "data", suffix=suffix)
    path = root / folder / f"train_0{suffix if folder == 'JPEGImages' else '.png'}"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert refused(root, toy_labels).startswith(f"{path}: cannot be read")


@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass"])
def test_a_png_with_a_broken_chunk_is_named(voc_folder, toy_labels, folder):
    path = voc_folder / folder / "train_0.png"
    content = path.read_bytes()
    start = content.index(b"IDAT") - 4
    size = int.from_bytes(content[start : start + 4], "big") // 2
    path.write_bytes(
        content[:start] + size.to_bytes(4, "big") + content[start + 4 : start + 8 + size]
        + b"\0" * 40
    )  # fmt: skip
    assert refused(voc_folder, toy_labels).startswith(f"{path}: cannot be read")


def test_unknown_colours_of_an_rgb_mask_become_void_and_are_counted(voc_folder, toy_labels):
    path = voc_folder / "SegmentationClass" / "train_1.png"
    colours = label2image(np.ones((80, 72), np.uint8), toy_labels)
    colours[:2, :5] = (1, 2, 3)
    Image.fromarray(colours).save(path)
    pairs = read_split(DataFolder(str(voc_folder)), "train", toy_labels)
    ids = pairs[1].read_ids()
    assert (ids == 255).sum() == 10
    assert (ids[:2, :5] == 255).all()
    assert [pair.unknown for pair in pairs] == [0, 10, 0, 0]


def test_the_labels_of_the_folder_decide_which_values_are_allowed(voc_folder):
    (voc_folder / "labels.json").write_text(
        json.dumps({"labels": [{"name": "all", "color": [0, 0, 0]}]})
    )
    assert "but the 1 labels have the ids" in refused(
        voc_folder, DataFolder(str(voc_folder)).labels()
    )


def test_every_problem_of_a_pair_is_reported(voc_folder, toy_labels):
    image = voc_folder / "JPEGImages" / "train_0.png"
    mask = voc_folder / "SegmentationClass" / "train_0.png"
    image.write_bytes(b"no image")
    mask.unlink()
    pair, problems = check_pair(DataFolder(str(voc_folder)), "train_0", toy_labels)
    assert pair is None
    assert [str(problem).split(": ")[0] for problem in problems] == [str(image), str(mask)]
    assert refused(voc_folder, toy_labels) == str(problems[0])


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "BMP"])
def test_a_photo_may_be_of_any_format_that_the_job_reads(voc_folder, toy_labels, kind):
    path = voc_folder / "JPEGImages" / "train_0.png"
    content = io.BytesIO()
    with Image.open(path) as photo:
        size = photo.size[::-1]
        photo.save(content, kind)
    path.write_bytes(content.getvalue())
    pair = read_split(DataFolder(str(voc_folder)), "train", toy_labels)[0]
    assert (pair.height, pair.width) == size


def test_a_damaged_photo_is_named(voc_folder, toy_labels):
    path = voc_folder / "JPEGImages" / "train_0.png"
    content = io.BytesIO()
    with Image.open(path) as photo:
        photo.save(content, "JPEG")
    data = content.getvalue()
    path.write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    assert refused(voc_folder, toy_labels) == (
        f"{path}: cannot be read as an image: damaged or cut short: premature end of data segment"
    )


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_ids_are_read_from_every_kind_of_mask(tmp_path_factory, make_paired, toy_labels, data):
    shape = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    value = st.sampled_from([0, 1, 2, 255])
    size = shape[0] * shape[1]
    ids = np.array(data.draw(st.lists(value, min_size=size, max_size=size)), np.uint8)
    ids = ids.reshape(shape)
    root = make_paired(tmp_path_factory.mktemp("pair"), ["a"])
    Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(root / "images" / "a.png")
    mask = {
        "palette": lambda: Image.fromarray(ids, "P"),
        "grey": lambda: Image.fromarray(ids),
        "rgb": lambda: Image.fromarray(label2image(ids, toy_labels)),
    }[data.draw(st.sampled_from(["palette", "grey", "rgb"]))]()
    if mask.mode == "P":
        mask.putpalette(toy_labels.palette)
    mask.save(root / "masks" / "a.png")
    pair = read_pair(DataFolder(str(root)), "a", toy_labels)
    assert (pair.height, pair.width, pair.unknown) == (*shape, 0)
    read = pair.read_ids()
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, ids)
    with Image.open(io.BytesIO(pair.ids)) as grey:
        assert (grey.format, grey.mode) == ("PNG", "L")


def test_a_photo_turned_by_exif_has_its_upright_size(voc_folder, toy_labels):
    path = voc_folder / "JPEGImages" / "train_0.png"
    mask = voc_folder / "SegmentationClass" / "train_0.png"
    with Image.open(path) as photo:
        exif = photo.getexif()
        exif[ExifTags.Base.Orientation] = 6
        (width, height), mode = photo.size, photo.mode
        photo.save(path, exif=exif)
    assert (width, height, mode) == (96, 64, "RGB")
    assert refused(voc_folder, toy_labels) == (
        f"{mask}: is 96×64, but its photo is 64×96 once it is turned upright by its EXIF "
        "orientation; turn the mask alike"
    )
    with Image.open(mask) as stored:
        stored.transpose(Image.Transpose.ROTATE_270).save(mask)
    pair = read_split(DataFolder(str(voc_folder)), "train", toy_labels)[0]
    assert (pair.height, pair.width) == (96, 64)
