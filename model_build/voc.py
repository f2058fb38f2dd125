"""Folders in PASCAL VOC layout → ``tf.data`` of images and class ids.

::

    DATA/JPEGImages/NAME.jpg (or .png)
    DATA/SegmentationClass/NAME.png            palette or grey (pixel = class id), or RGB colours
    DATA/ImageSets/Segmentation/SPLIT.txt      one NAME a line
    DATA/labels.json                           optional; without it the 21 classes of VOC
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from model_build.errors import UserError
from model_build.labels import VOC, VOID, LabelSet, image2label, read_labels

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# Pillow says with a SyntaxError that a PNG is broken, and with an error of its own that it is huge.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class Pair(NamedTuple):
    """A photo and its mask, both of ``height`` × ``width`` pixels.

    ``unknown`` counts the pixels of an RGB mask whose colour is no label's; they become void.
    """

    image: str
    mask: str
    height: int
    width: int
    unknown: int = 0


def read_label_set(data: str | Path) -> LabelSet:
    """The label set of a folder: its ``labels.json``, or VOC's where there is none."""
    path = Path(data) / "labels.json"
    return read_labels(path) if path.exists() else VOC


def read_mask(path: str, labels: LabelSet) -> tuple[np.ndarray, int]:
    """Reads a mask.

    Returns:
        uint8 class ids ``[h, w]``, 255 for void; and the number of pixels of an RGB mask whose
        colour is no label's (they are void too).

    Raises:
        UserError: the file cannot be read, is of another mode, or holds an id outside the set.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ("P", "L", "1"):
                ids = np.array(image, np.uint8)
            elif image.mode in ("RGB", "RGBA"):
                return image2label(np.array(image.convert("RGB")), labels)
            else:
                raise UserError(f"{path}: a mask is palette, grey or RGB, but is {image.mode}")
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as a mask: {error}") from None
    wrong = np.unique(ids[(ids >= len(labels)) & (ids != VOID)])
    if wrong.size:
        raise UserError(
            f"{path}: label value {wrong[0]} is outside the set of {len(labels)} labels "
            f"(0 to {len(labels) - 1}, or {VOID} for void); mend the mask or its labels.json"
        )
    return ids, 0


def read_split(data: str | Path, split: str, labels: LabelSet) -> list[Pair]:
    """Lists and checks the pairs of a split; every file is decoded once.

    Args:
        data: the folder.
        split: name of the list, ``train`` or ``val``.

    Raises:
        UserError: the list or a file of it is missing, unreadable, of another size than its
            partner, or holds a label value outside the set. The message names the file.
    """
    root = Path(data)
    listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            f"{listing}: cannot be read: {error.strerror}; {root} must be in PASCAL VOC layout"
        ) from None
    except ValueError:
        raise UserError(f"{listing}: is not UTF-8 text; put one image's name on a line") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"{listing}: lists no image")

    def check(name: str) -> Pair:
        candidates = [root / "JPEGImages" / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES]
        image = next((path for path in candidates if path.exists()), None)
        mask = root / "SegmentationClass" / f"{name}.png"
        if image is None:
            raise UserError(f"{candidates[0]}: missing, but {listing} lists it")
        if not mask.exists():
            raise UserError(f"{mask}: missing, but {listing} lists it")
        try:
            with Image.open(image) as picture:
                width, height = picture.size
                picture.load()  # only decoding finds a truncated file
        except UNREADABLE as error:
            raise UserError(f"{image}: cannot be read as an image: {error}") from None
        ids, unknown = read_mask(str(mask), labels)
        if ids.shape != (height, width):
            raise UserError(
                f"{mask}: is {ids.shape[1]}×{ids.shape[0]}, but its photo is {width}×{height}"
            )
        return Pair(str(image), str(mask), height, width, unknown)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(check, names))


def drop_small(pairs: list[Pair], crop: tuple[int, int]) -> list[Pair]:
    """The pairs that hold a whole crop of (height, width), as in Dive into Deep Learning."""
    return [pair for pair in pairs if pair.height >= crop[0] and pair.width >= crop[1]]


def training_crops(
    pairs: list[Pair],
    labels: LabelSet,
    *,
    crop: tuple[int, int],
    batch_size: int,
    scales: tuple[float, float] = (1.0, 1.0),
    flip: bool = False,
    seed: int = 0,
    epochs: range = range(1),
) -> tuple[tf.data.Dataset, int]:
    """Random crops for training.

    What an epoch yields depends on ``seed`` and the epoch's number alone, so a resumed training
    sees what an uninterrupted one would have seen.

    Args:
        crop: (height, width) in pixels; an image smaller than that is padded, its label with 255.
        scales: range of the random factor an image is resized by before it is cropped.
        flip: mirror half of the crops.
        epochs: numbers of the epochs to run through.

    Returns:
        A dataset of (uint8 ``[n, *crop, 3]``, uint8 ``[n, *crop]``) batches, all epochs in a row;
        and the number of batches an epoch has. A last partial batch is left out.
    """
    batch_size = min(batch_size, len(pairs))
    steps = len(pairs) // batch_size

    def items() -> Iterator[tuple[str, str, np.ndarray]]:
        for epoch in epochs:
            rng = np.random.default_rng([seed, epoch])
            for index in rng.permutation(len(pairs))[: steps * batch_size]:
                yield pairs[index].image, pairs[index].mask, rng.integers(2**31, size=2)

    def random_crop(image_path, mask_path, crop_seed):
        image, ids = _load(image_path, mask_path, labels)
        seeds = tf.unstack(tf.random.experimental.stateless_split(crop_seed, 3))
        if scales != (1.0, 1.0):
            scale = tf.random.stateless_uniform([], seeds[0], *scales)
            size = tf.cast(tf.round(tf.cast(tf.shape(ids), tf.float32) * scale), tf.int32)
            image = tf.image.resize(image, size, antialias=True)
            image = tf.cast(tf.round(tf.clip_by_value(image, 0, 255)), tf.uint8)
            ids = tf.image.resize(ids[..., None], size, "nearest")[..., 0]
        image, ids = pad_to(image, ids, tf.maximum(tf.shape(ids), crop))
        room = tf.shape(ids) - crop + 1
        y, x = tf.unstack(
            tf.random.stateless_uniform([2], seeds[1], 0, tf.int32.max, tf.int32) % room
        )
        image, ids = image[y : y + crop[0], x : x + crop[1]], ids[y : y + crop[0], x : x + crop[1]]
        if flip and tf.random.stateless_uniform([], seeds[2]) < 0.5:
            image, ids = image[:, ::-1], ids[:, ::-1]
        return tf.ensure_shape(image, (*crop, 3)), tf.ensure_shape(ids, crop)

    signature = (
        tf.TensorSpec([], tf.string),
        tf.TensorSpec([], tf.string),
        tf.TensorSpec([2], tf.int64),
    )
    dataset = tf.data.Dataset.from_generator(items, output_signature=signature)
    dataset = dataset.map(random_crop, tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size).prefetch(2), steps


def whole_images(pairs: list[Pair], labels: LabelSet, *, multiple: int = 32) -> tf.data.Dataset:
    """Uncropped images for validation, one a batch.

    Returns:
        (uint8 ``[1, h, w, 3]``, uint8 ``[1, h, w]``), padded at the bottom and right to multiples
        of ``multiple``: the image with its edge, the label with 255.
    """
    paths = [pair.image for pair in pairs], [pair.mask for pair in pairs]

    def padded(image_path, mask_path):
        image, ids = _load(image_path, mask_path, labels)
        return pad_to(image, ids, -(-tf.shape(ids) // multiple) * multiple)

    dataset = tf.data.Dataset.from_tensor_slices(paths)
    return dataset.map(padded, tf.data.AUTOTUNE, deterministic=True).batch(1).prefetch(2)


def pad_to(image: tf.Tensor, ids: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Pads at the bottom and right to ``size``: the image with its edge, the ids with 255."""
    height, width = tf.unstack(tf.shape(ids))
    image = tf.gather(image, tf.minimum(tf.range(size[0]), height - 1), axis=0)
    image = tf.gather(image, tf.minimum(tf.range(size[1]), width - 1), axis=1)
    ids = tf.pad(ids, [[0, size[0] - height], [0, size[1] - width]], constant_values=VOID)
    return image, ids


def _load(image_path, mask_path, labels: LabelSet) -> tuple[tf.Tensor, tf.Tensor]:
    # Masks are read by Pillow: TensorFlow's PNG decoder turns a palette into colours.
    ids = tf.numpy_function(lambda path: read_mask(path.decode(), labels)[0], [mask_path], tf.uint8)
    image = tf.io.decode_image(tf.io.read_file(image_path), 3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3)), tf.ensure_shape(ids, (None, None))
