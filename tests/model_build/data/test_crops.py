import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from model_build.data import crops
from model_build.data.layouts import DataFolder
from model_build.data.masks import read_mask
from model_build.data.pairs import read_pair, read_split
from pipeline.images.decode import DecodeOptions, decode


def arrays(batches):
    return [(images.numpy(), ids.numpy()) for images, ids in batches]


def batches_of(pairs, **options):
    options = {"crop": (32, 64), "batch_size": 2, **options}
    batches, steps = crops.training_crops(pairs, **options)
    return arrays(batches), steps


def same(first, second):
    return len(first) == len(second) and all(
        np.array_equal(a, b)
        for one, two in zip(first, second, strict=True)
        for a, b in zip(one, two, strict=True)
    )


@pytest.fixture(scope="module")
def pairs(make_voc, tmp_path_factory, toy_labels):
    root = make_voc(tmp_path_factory.mktemp("voc") / "data", train=5)
    return read_split(DataFolder(str(root)), "train", toy_labels)


@pytest.fixture
def make_pair(tmp_path, palette_png, toy_labels):
    """A function that writes an image and its class ids, and reads them as a pair."""

    def make(image, ids, name="a"):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
        palette_png(tmp_path / "masks" / f"{name}.png", ids)
        return read_pair(DataFolder(str(tmp_path)), name, toy_labels)

    return make


def test_drop_small_keeps_pairs_as_large_as_a_crop(pairs):
    assert [(p.height, p.width) for p in crops.drop_small(pairs, (64, 90))] == [
        (64, 96),
        (100, 90),
        (64, 96),
    ]
    assert crops.drop_small(pairs, (64, 72)) == pairs
    assert crops.drop_small(pairs, (101, 10)) == []


@pytest.mark.slow
def test_crops_are_uint8_batches_without_a_partial_one(pairs):
    batches, steps = batches_of(pairs, epochs=range(2))
    assert steps == 2
    assert len(batches) == 4
    for images, ids in batches:
        assert (images.dtype, images.shape) == (np.uint8, (2, 32, 64, 3))
        assert (ids.dtype, ids.shape) == (np.uint8, (2, 32, 64))


def test_a_batch_is_no_larger_than_the_split(pairs):
    batches, steps = batches_of(pairs, batch_size=32)
    assert steps == 1
    assert batches[0][0].shape == (5, 32, 64, 3)


def test_an_epoch_shows_every_image_once(make_pair):
    pairs = [
        make_pair(np.full((32, 32, 3), index, np.uint8), np.zeros((32, 32), np.uint8), str(index))
        for index in range(6)
    ]
    batches, steps = batches_of(pairs, crop=(32, 32), epochs=range(2))
    orders = np.concatenate([images[:, 0, 0, 0] for images, _ in batches]).reshape(2, 6).tolist()
    assert steps == 3
    assert [sorted(order) for order in orders] == [list(range(6))] * 2
    assert orders[0] != orders[1]


@pytest.mark.slow
def test_crops_depend_only_on_the_seed_and_the_epoch(pairs):
    options = {"scales": (0.75, 1.5), "flip": True, "epochs": range(2)}
    both, steps = batches_of(pairs, seed=1, **options)
    again, _ = batches_of(pairs, seed=1, **options)
    other, _ = batches_of(pairs, seed=2, **options)
    second, _ = batches_of(pairs, seed=1, **{**options, "epochs": range(1, 2)})
    assert same(both, again)
    assert not same(both, other)
    assert not same(both[:steps], both[steps:])
    assert same(both[steps:], second)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.75, 1.5)])
def test_image_and_mask_stay_aligned(pairs, scales):
    batches, _ = batches_of(pairs, crop=(64, 64), scales=scales, flip=True, epochs=range(4))
    seen = np.concatenate([images[..., 0].ravel() for images, _ in batches])
    ids = np.concatenate([ids.ravel() for _, ids in batches])
    agrees = np.round(seen[ids != 255] / 100) == ids[ids != 255]
    assert set(np.unique(ids)) >= {0, 1, 2}
    assert agrees.mean() >= (1 if scales == (1.0, 1.0) else 0.97)


def test_crops_are_whole_windows_at_random_places(make_pair):
    rows, columns = np.mgrid[:40, :70].astype(np.uint8)
    pair = make_pair(np.dstack([rows, columns, columns]), np.zeros((40, 70), np.uint8))
    batches, _ = batches_of([pair], crop=(32, 64), epochs=range(60))
    corners = set()
    for images, _ in batches:
        top, left = (int(value) for value in images[0, 0, 0, :2])
        corners.add((top, left))
        np.testing.assert_array_equal(images[0, :, 0, 0], np.arange(top, top + 32))
        np.testing.assert_array_equal(images[0, 0, :, 1], np.arange(left, left + 64))
    assert {top for top, _ in corners} == set(range(9))
    assert {left for _, left in corners} == set(range(7))


def test_about_half_of_the_crops_are_mirrored(make_pair):
    ramp = np.tile(np.arange(32, dtype=np.uint8)[None, :, None], (32, 1, 3))
    pair = make_pair(ramp, np.zeros((32, 32), np.uint8))

    def mirrored(flip):
        batches, _ = batches_of([pair], crop=(32, 32), flip=flip, epochs=range(60))
        return sum(int(images[0, 0, 0, 0]) == 31 for images, _ in batches)

    assert mirrored(False) == 0
    assert 15 < mirrored(True) < 45


def test_small_images_are_padded_with_their_mirror_image_and_void(make_pair):
    image = np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    pair = make_pair(image, np.ones((20, 50), np.uint8))
    ((images, ids),), _ = batches_of([pair])
    mirrored = np.pad(image, ((0, 12), (0, 14), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(images[0], mirrored)
    assert (ids[0, :20, :50] == 1).all()
    assert (ids[0, 20:] == 255).all()
    assert (ids[0, :, 50:] == 255).all()


def test_whole_images_are_padded_to_a_multiple(pairs, toy_labels):
    batches = arrays(crops.whole_images(pairs))
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
    mask = read_mask(Path(pairs[1].mask).read_bytes(), "mask", toy_labels).ids
    np.testing.assert_array_equal(ids[0], np.pad(mask, ((0, 16), (0, 24)), constant_values=255))


def test_masks_are_not_read_again(make_pair):
    ids = np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), (32, 64))
    pair = make_pair(np.zeros((32, 64, 3), np.uint8), ids)
    os.remove(pair.mask)
    ((_, cropped),), _ = batches_of([pair])
    np.testing.assert_array_equal(cropped[0], ids)


INSIDE = {
    "JPEG": ("RGB", "L", "CMYK"),
    "MPO": ("RGB",),
    "PNG": ("RGB", "RGBA", "L", "P"),
    "GIF": ("P",),
    "BMP": ("RGB", "P"),
    "TIFF": ("RGB", "RGBA", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
}


@pytest.mark.parametrize(
    ("kind", "mode"), [(kind, mode) for kind in INSIDE for mode in INSIDE[kind]]
)
def test_training_reads_the_pixels_that_the_job_reads(make_pair, toy_labels, tmp_path, kind, mode):
    """Of each format, whatever the suffix says."""
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, 32:] = 200
    make_pair(image, np.zeros((32, 64), np.uint8))
    path = tmp_path / "images" / "a.png"
    written = Image.fromarray(image).convert(mode)
    if mode == "RGBA":
        written.putalpha(100)
    more = {"save_all": True, "append_images": [written]} if kind == "MPO" else {}
    written.save(path, kind, **more)
    pair = read_pair(DataFolder(str(tmp_path)), "a", toy_labels)
    ((images, _),) = arrays(crops.whole_images([pair]))
    photo = decode(path.read_bytes(), DecodeOptions(None, 10**6))
    np.testing.assert_array_equal(images[0], photo.pixels)


def test_a_photo_is_turned_upright(make_pair, toy_labels, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (32, 64, 3), np.uint8)
    make_pair(noise, np.zeros((32, 64), np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = Image.fromarray(noise).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "images" / "a.png", exif=exif)
    pair = read_pair(DataFolder(str(tmp_path)), "a", toy_labels)
    ((images, _),) = arrays(crops.whole_images([pair]))
    np.testing.assert_array_equal(images[0], noise)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(0, 30), st.integers(0, 30)),
    st.booleans(),
)
def test_padding_keeps_the_image(size, more, mirror):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    ids = rng.integers(0, 3, size, dtype=np.uint8)
    padded = crops.pad_to(image, ids, np.add(size, more).astype(np.int32), mirror)
    edges = [(0, extra) for extra in more]
    mode = "symmetric" if mirror else "edge"
    np.testing.assert_array_equal(padded[0], np.pad(image, [*edges, (0, 0)], mode=mode))
    np.testing.assert_array_equal(padded[1], np.pad(ids, edges, constant_values=255))
