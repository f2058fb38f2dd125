"""Pairs of photos and masks → ``tf.data`` of uint8 images and class ids, in parallel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from model_build.data.decode import decode
from model_build.data.labels import VOID
from model_build.data.pairs import Pair


def drop_small(pairs: list[Pair], crop: tuple[int, int]) -> list[Pair]:
    """Returns pairs no smaller than a crop (height, width), as in Dive into Deep Learning."""
    return [pair for pair in pairs if pair.height >= crop[0] and pair.width >= crop[1]]


def training_crops(
    pairs: Sequence[Pair],
    *,
    crop: tuple[int, int],
    batch_size: int,
    scales: tuple[float, float] = (1.0, 1.0),
    flip: bool = False,
    seed: int = 0,
    epochs: range = range(1),
) -> tuple[tf.data.Dataset, int]:
    """Makes random crops for training.

    The crops of an epoch depend only on ``seed`` and the epoch's number, so a resumed training sees
    the same ones as an uninterrupted one.

    Args:
        crop: (height, width) in pixels; an image smaller than that is padded with its mirror
            image, which preserves its mean, and its label with 255.
        scales: range of the random factor an image is resized by before it is cropped.
        flip: mirror half of the crops.
        epochs: numbers of the epochs to yield.

    Returns:
        A dataset of (uint8 ``[n, *crop, 3]``, uint8 ``[n, *crop]``) batches, all epochs in a row;
        and the number of batches per epoch. A partial last batch is dropped.
    """
    batch_size = min(batch_size, len(pairs))
    steps = len(pairs) // batch_size

    def plan() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for epoch in epochs:
            rng = np.random.default_rng([seed, epoch])
            order = rng.permutation(len(pairs))[: steps * batch_size]
            yield order, rng.integers(2**31, size=(len(order), 2))

    def random_crop(image, ids, crop_seed):
        seeds = tf.unstack(tf.random.experimental.stateless_split(crop_seed, 3))
        if scales != (1.0, 1.0):
            scale = tf.random.stateless_uniform([], seeds[0], *scales)
            size = tf.cast(tf.round(tf.cast(tf.shape(ids), tf.float32) * scale), tf.int32)
            size = tf.maximum(size, 1)
            image = resize(image, size)
            ids = tf.image.resize(ids[..., None], size, "nearest")[..., 0]
        image, ids = pad_to(image, ids, tf.maximum(tf.shape(ids), crop), mirror=True)
        room = tf.shape(ids) - crop + 1
        y, x = tf.unstack(
            tf.random.stateless_uniform([2], seeds[1], 0, tf.int32.max, tf.int32) % room
        )
        image, ids = image[y : y + crop[0], x : x + crop[1]], ids[y : y + crop[0], x : x + crop[1]]
        if flip and tf.random.stateless_uniform([], seeds[2]) < 0.5:
            image, ids = image[:, ::-1], ids[:, ::-1]
        return tf.ensure_shape(image, (*crop, 3)), tf.ensure_shape(ids, crop)

    signature = tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 2], tf.int64)
    photos, masks = tf.constant([p.image for p in pairs]), tf.constant([p.ids for p in pairs])
    dataset = tf.data.Dataset.from_generator(plan, output_signature=signature).unbatch()
    dataset = dataset.map(
        lambda index, crop_seed: random_crop(*_decode(photos[index], masks[index]), crop_seed),
        tf.data.AUTOTUNE,
        deterministic=True,
    )
    return dataset.batch(batch_size).prefetch(2), steps


def whole_images(pairs: Sequence[Pair], *, multiple: int = 32) -> tf.data.Dataset:
    """Makes batches of one uncropped image each, for validation.

    Returns:
        (uint8 ``[1, h, w, 3]``, uint8 ``[1, h, w]``), padded at the bottom and right to multiples
        of ``multiple``: the image with its edge, the label with 255.
    """

    def padded(image_path, mask_png):
        image, ids = _decode(image_path, mask_png)
        return pad_to(image, ids, -(-tf.shape(ids) // multiple) * multiple)

    files = [pair.image for pair in pairs], [pair.ids for pair in pairs]
    dataset = tf.data.Dataset.from_tensor_slices(files)
    return dataset.map(padded, tf.data.AUTOTUNE, deterministic=True).batch(1).prefetch(2)


def pad_to(
    image: tf.Tensor, ids: tf.Tensor, size: tf.Tensor, mirror: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pads at the bottom and right.

    Args:
        image: uint8 ``[h, w, 3]``, padded with its edge or, if ``mirror``, with its mirror image,
            repeated as needed.
        ids: uint8 ``[h, w]``, padded with 255.
        size: int32 ``[2]``, (height, width).
    """
    height, width = tf.unstack(tf.shape(ids))
    for axis, side in ((0, height), (1, width)):
        pixels = tf.range(size[axis])
        if mirror:
            pixels = tf.minimum(pixels % (2 * side), 2 * side - 1 - pixels % (2 * side))
        image = tf.gather(image, tf.minimum(pixels, side - 1), axis=axis)
    ids = tf.pad(ids, [[0, size[0] - height], [0, size[1] - width]], constant_values=VOID)
    return image, ids


def read_image(path: tf.Tensor) -> tf.Tensor:
    """Reads an image file as uint8 ``[h, w, 3]``: the same pixels that the job feeds a network.

    Holds Python's global lock, except while a JPEG is decoded.
    """
    image = tf.numpy_function(_read, [path], tf.uint8, stateful=False)
    return tf.ensure_shape(image, (None, None, 3))


def _read(path: bytes) -> np.ndarray:
    with open(path, "rb") as file:
        return np.ascontiguousarray(decode(file.read()))


def resize(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Scales an image uint8 ``[h, w, 3]`` to a size, int32 ``[2]`` (height, width)."""
    image = tf.image.resize(image, size, antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(image, 0, 255)), tf.uint8)


def _decode(image_path: tf.Tensor, mask_png: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    ids = tf.io.decode_png(mask_png, 1)[..., 0]
    return read_image(image_path), tf.ensure_shape(ids, (None, None))
