import json
import shutil

import numpy as np
import pytest
from PIL import Image

from model_build import voc
from model_build.errors import UserError
from model_build.labels import VOC, label2image


def arrays(dataset):
    return [(images.numpy(), ids.numpy()) for images, ids in dataset]


def crops(pairs, labels, **options):
    options = {"crop": (32, 64), "batch_size": 2, **options}
    dataset, steps = voc.training_crops(pairs, labels, **options)
    return arrays(dataset), steps


def same(first, second):
    return len(first) == len(second) and all(
        np.array_equal(a, b)
        for one, two in zip(first, second, strict=True)
        for a, b in zip(one, two, strict=True)
    )


def refused(folder, labels, split="train"):
    with pytest.raises(UserError) as caught:
        voc.read_split(folder, split, labels)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def toy(make_voc, tmp_path_factory):
    return make_voc(tmp_path_factory.mktemp("voc") / "data", train=5)


@pytest.fixture(scope="module")
def pairs(toy, toy_labels):
    return voc.read_split(toy, "train", toy_labels)


def test_a_folder_without_labels_json_has_the_labels_of_voc(voc_folder, toy_labels):
    assert voc.read_label_set(voc_folder) == toy_labels
    (voc_folder / "labels.json").unlink()
    assert voc.read_label_set(voc_folder) == VOC


def test_a_bad_labels_json_is_not_passed_over(voc_folder):
    (voc_folder / "labels.json").write_text("{")
    with pytest.raises(UserError, match=r"labels\.json"):
        voc.read_label_set(voc_folder)


def test_a_split_lists_photos_masks_and_their_sizes(toy, pairs):
    assert [(pair.height, pair.width) for pair in pairs] == [
        (64, 96),
        (80, 72),
        (100, 90),
        (64, 96),
        (80, 72),
    ]
    assert pairs[1] == voc.Pair(
        str(toy / "JPEGImages" / "train_1.png"),
        str(toy / "SegmentationClass" / "train_1.png"),
        80,
        72,
        0,
    )


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_photos_may_be_jpegs(make_voc, tmp_path, toy_labels, suffix):
    folder = make_voc(tmp_path / "data", suffix=suffix)
    pairs = voc.read_split(folder, "val", toy_labels)
    assert [pair.image for pair in pairs] == [
        str(folder / "JPEGImages" / f"val_{index}{suffix}") for index in range(2)
    ]
    images, _ = next(iter(voc.whole_images(pairs, toy_labels)))
    assert images.shape == (1, 64, 96, 3)


def test_a_missing_photo_is_named(voc_folder, toy_labels):
    (voc_folder / "JPEGImages" / "train_2.png").unlink()
    message = refused(voc_folder, toy_labels)
    assert message.startswith(str(voc_folder / "JPEGImages" / "train_2"))
    assert "missing" in message


def test_a_missing_mask_is_named(voc_folder, toy_labels):
    path = voc_folder / "SegmentationClass" / "train_2.png"
    path.unlink()
    assert refused(voc_folder, toy_labels).startswith(f"{path}: missing")


def test_a_missing_list_is_named(voc_folder, toy_labels):
    path = voc_folder / "ImageSets" / "Segmentation" / "test.txt"
    message = refused(voc_folder, toy_labels, "test")
    assert message.startswith(f"{path}: cannot be read: No such file")
    assert "PASCAL VOC layout" in message


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_an_empty_list_is_named(voc_folder, toy_labels, content):
    path = voc_folder / "ImageSets" / "Segmentation" / "train.txt"
    path.write_text(content)
    assert refused(voc_folder, toy_labels) == f"{path}: lists no image"


def test_a_list_that_is_no_text_is_named(voc_folder, toy_labels):
    path = voc_folder / "ImageSets" / "Segmentation" / "train.txt"
    path.write_bytes(b"\xff\xfe\x00train_0")
    assert refused(voc_folder, toy_labels).startswith(f"{path}: ")


def test_lists_may_have_windows_line_ends_and_blank_lines(voc_folder, toy_labels):
    path = voc_folder / "ImageSets" / "Segmentation" / "train.txt"
    path.write_bytes(b"train_1\r\n\r\n  train_0 \r\n")
    pairs = voc.read_split(voc_folder, "train", toy_labels)
    assert [pair.mask[-11:] for pair in pairs] == ["train_1.png", "train_0.png"]


def test_a_name_may_hold_a_space(voc_folder, toy_labels):
    for folder in ("JPEGImages", "SegmentationClass"):
        shutil.copy(voc_folder / folder / "train_0.png", voc_folder / folder / "train 0.png")
    (voc_folder / "ImageSets" / "Segmentation" / "train.txt").write_text("train 0\n")
    (pair,) = voc.read_split(voc_folder, "train", toy_labels)
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
    assert message.startswith(f"{path}: label value 3 is outside the set of 3 labels (0 to 2")


def test_the_last_label_and_void_are_inside_the_set(voc_folder, toy_labels, palette_png):
    path = voc_folder / "SegmentationClass" / "train_0.png"
    ids = np.full((64, 96), 2, np.uint8)
    ids[0] = 255
    palette_png(path, ids)
    read, unknown = voc.read_mask(str(path), toy_labels)
    np.testing.assert_array_equal(read, ids)
    assert unknown == 0


def test_a_mask_of_another_mode_is_named(voc_folder, toy_labels):
    path = voc_folder / "SegmentationClass" / "train_0.png"
    Image.fromarray(np.zeros((64, 96), np.uint16)).save(path)
    message = refused(voc_folder, toy_labels)
    assert message.startswith(f"{path}: a mask is palette, grey or RGB, but is I;16")


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


def test_palette_grey_and_rgb_masks_give_the_same_ids(tmp_path, toy_labels, palette_png):
    ids = np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), (9, 7))
    palette_png(tmp_path / "palette.png", ids)
    Image.fromarray(ids).save(tmp_path / "grey.png")
    colours = label2image(ids, toy_labels)
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([colours, np.full((9, 7), 255, np.uint8)])).save(
        tmp_path / "rgba.png"
    )
    for name in ("palette", "grey", "rgb", "rgba"):
        read, unknown = voc.read_mask(str(tmp_path / f"{name}.png"), toy_labels)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, ids)
        assert unknown == 0


def test_unknown_colours_of_an_rgb_mask_become_void_and_are_counted(voc_folder, toy_labels):
    path = voc_folder / "SegmentationClass" / "train_1.png"
    colours = label2image(np.ones((80, 72), np.uint8), toy_labels)
    colours[:2, :5] = (1, 2, 3)
    Image.fromarray(colours).save(path)
    ids, unknown = voc.read_mask(str(path), toy_labels)
    assert unknown == 10
    assert (ids == 255).sum() == 10
    assert (ids[:2, :5] == 255).all()
    pairs = voc.read_split(voc_folder, "train", toy_labels)
    assert [pair.unknown for pair in pairs] == [0, 10, 0, 0]


def test_drop_small_keeps_what_holds_a_whole_crop(pairs):
    assert [(p.height, p.width) for p in voc.drop_small(pairs, (64, 90))] == [
        (64, 96),
        (100, 90),
        (64, 96),
    ]
    assert voc.drop_small(pairs, (64, 72)) == pairs
    assert voc.drop_small(pairs, (101, 10)) == []


def test_crops_come_in_uint8_batches_without_a_partial_one(pairs, toy_labels):
    batches, steps = crops(pairs, toy_labels, epochs=range(2))
    assert steps == 2
    assert len(batches) == 4
    for images, ids in batches:
        assert (images.dtype, images.shape) == (np.uint8, (2, 32, 64, 3))
        assert (ids.dtype, ids.shape) == (np.uint8, (2, 32, 64))


def test_a_batch_is_no_larger_than_the_split(pairs, toy_labels):
    batches, steps = crops(pairs, toy_labels, batch_size=32)
    assert steps == 1
    assert batches[0][0].shape == (5, 32, 64, 3)


def test_an_epoch_shows_every_image_once(tmp_path, toy_labels, palette_png):
    pairs = []
    for index in range(6):
        image, mask = tmp_path / f"image{index}.png", tmp_path / f"mask{index}.png"
        Image.fromarray(np.full((32, 32, 3), index, np.uint8)).save(image)
        palette_png(mask, np.zeros((32, 32), np.uint8))
        pairs.append(voc.Pair(str(image), str(mask), 32, 32))
    batches, steps = crops(pairs, toy_labels, crop=(32, 32), epochs=range(2))
    orders = np.concatenate([images[:, 0, 0, 0] for images, _ in batches]).reshape(2, 6).tolist()
    assert steps == 3
    assert [sorted(order) for order in orders] == [list(range(6))] * 2
    assert orders[0] != orders[1]


def test_crops_depend_on_the_seed_and_the_epoch_alone(pairs, toy_labels):
    options = {"scales": (0.75, 1.5), "flip": True, "epochs": range(2)}
    both, steps = crops(pairs, toy_labels, seed=1, **options)
    again, _ = crops(pairs, toy_labels, seed=1, **options)
    other, _ = crops(pairs, toy_labels, seed=2, **options)
    second, _ = crops(pairs, toy_labels, seed=1, **{**options, "epochs": range(1, 2)})
    assert same(both, again)
    assert not same(both, other)
    assert not same(both[:steps], both[steps:])
    assert same(both[steps:], second)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.75, 1.5)])
def test_image_and_mask_stay_aligned(pairs, toy_labels, scales):
    batches, _ = crops(pairs, toy_labels, crop=(64, 64), scales=scales, flip=True, epochs=range(4))
    seen = np.concatenate([images[..., 0].ravel() for images, _ in batches])
    ids = np.concatenate([ids.ravel() for _, ids in batches])
    agrees = np.round(seen[ids != 255] / 100) == ids[ids != 255]
    assert set(np.unique(ids)) >= {0, 1, 2}
    assert agrees.mean() >= (1 if scales == (1.0, 1.0) else 0.97)


def test_crops_are_whole_windows_at_random_places(tmp_path, toy_labels, palette_png):
    rows, columns = np.mgrid[:40, :70].astype(np.uint8)
    Image.fromarray(np.dstack([rows, columns, columns])).save(tmp_path / "image.png")
    palette_png(tmp_path / "mask.png", np.zeros((40, 70), np.uint8))
    pair = voc.Pair(str(tmp_path / "image.png"), str(tmp_path / "mask.png"), 40, 70)
    batches, _ = crops([pair], toy_labels, crop=(32, 64), epochs=range(60))
    corners = set()
    for images, _ in batches:
        top, left = (int(value) for value in images[0, 0, 0, :2])
        corners.add((top, left))
        np.testing.assert_array_equal(images[0, :, 0, 0], np.arange(top, top + 32))
        np.testing.assert_array_equal(images[0, 0, :, 1], np.arange(left, left + 64))
    assert {top for top, _ in corners} == set(range(9))
    assert {left for _, left in corners} == set(range(7))


def test_about_half_of_the_crops_are_mirrored(tmp_path, toy_labels, palette_png):
    ramp = np.tile(np.arange(32, dtype=np.uint8)[None, :, None], (32, 1, 3))
    Image.fromarray(ramp).save(tmp_path / "image.png")
    palette_png(tmp_path / "mask.png", np.zeros((32, 32), np.uint8))
    pair = voc.Pair(str(tmp_path / "image.png"), str(tmp_path / "mask.png"), 32, 32)

    def mirrored(flip):
        batches, _ = crops([pair], toy_labels, crop=(32, 32), flip=flip, epochs=range(60))
        return sum(int(images[0, 0, 0, 0]) == 31 for images, _ in batches)

    assert mirrored(False) == 0
    assert 15 < mirrored(True) < 45


def test_small_images_are_padded_with_their_edge_and_void(tmp_path, toy_labels, palette_png):
    image = np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    palette_png(tmp_path / "mask.png", np.ones((20, 50), np.uint8))
    pair = voc.Pair(str(tmp_path / "image.png"), str(tmp_path / "mask.png"), 20, 50)
    ((images, ids),), _ = crops([pair], toy_labels)
    np.testing.assert_array_equal(images[0], np.pad(image, ((0, 12), (0, 14), (0, 0)), mode="edge"))
    assert (ids[0, :20, :50] == 1).all()
    assert (ids[0, 20:] == 255).all()
    assert (ids[0, :, 50:] == 255).all()


def test_whole_images_are_padded_to_a_multiple(pairs, toy_labels):
    batches = arrays(voc.whole_images(pairs, toy_labels))
    assert [ids.shape for _, ids in batches] == [
        (1, 64, 96),
        (1, 96, 96),
        (1, 128, 96),
        (1, 64, 96),
        (1, 96, 96),
    ]
    images, ids = batches[1]
    assert (images.dtype, images.shape) == (np.uint8, (1, 96, 96, 3))
    expected = np.array(Image.open(pairs[1].image))
    np.testing.assert_array_equal(
        images[0], np.pad(expected, ((0, 16), (0, 24), (0, 0)), mode="edge")
    )
    mask, _ = voc.read_mask(pairs[1].mask, toy_labels)
    np.testing.assert_array_equal(ids[0], np.pad(mask, ((0, 16), (0, 24)), constant_values=255))


def test_the_labels_of_the_folder_decide_which_values_are_allowed(voc_folder):
    (voc_folder / "labels.json").write_text(
        json.dumps({"labels": [{"name": "all", "color": [0, 0, 0]}]})
    )
    assert "outside the set of 1 labels" in refused(voc_folder, voc.read_label_set(voc_folder))
