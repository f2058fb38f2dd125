"""Class maps as palette PNGs, overlays and histograms."""

from __future__ import annotations

import io
import json
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from model_build.data.labels import LabelSet, label2image
from pipeline.images.png import END, SIGNATURE, compressed, image_data, palette_png
from pipeline.images.sizes import enlarge, nearest
from pipeline.records import hash_of

BAND = 256  # rows of a large image that are worked on at a time
KEYWORD = "fcn-beam"  # of the text chunk (PNG, section 11.3.4.3)


class Origin(NamedTuple):
    """What a mask's text tells of where it comes from: true wherever the mask lies.

    Attributes:
        image: name of the source below the root.
        hash: of the source's bytes.
        recipe: id of what it was made by.
        pixels: its histogram.
        idat: sha256 of its image data as it was written; of a mask that has been edited it is
            another one.
    """

    image: str
    hash: str
    recipe: str
    pixels: dict[str, int]
    idat: str = ""


def encode_mask(
    class_map: np.ndarray,
    labels: LabelSet,
    origin: Origin | None = None,
    size: tuple[int, int] | None = None,
) -> bytes:
    """A class map as a PNG of mode P with the label set's palette.

    Args:
        class_map: uint8 ``[h, w]``.
        origin: kept as JSON in a text chunk of the PNG; its ``idat`` is filled in.
        size: (height, width) of the PNG, where it is larger; see
            :func:`pipeline.images.sizes.enlarge`.
    """
    size = size or class_map.shape
    idat = compressed(class_map, size)
    text = b""
    if origin is not None:
        told = origin._replace(idat=hash_of(idat))._asdict()
        text = KEYWORD.encode() + b"\0" + json.dumps(told).encode()
    return palette_png(idat, size, labels.palette, text)


def decode_mask(data: bytes, labels: LabelSet) -> Mask:
    """The way back from :func:`encode_mask`.

    Raises:
        ForeignMask: the file is something else: no PNG, not of mode P, with an id that is no
            label's, or with another colour for one.
        Exception: it is damaged or cut short; Pillow's, mostly.
    """
    if not SIGNATURE.startswith(data[: len(SIGNATURE)]) and any(data):
        raise ForeignMask("not a PNG")  # what a crash leaves is empty, cut short or full of zeros
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        class_map = np.asarray(image)
        if END not in data:  # Pillow does not miss it, others do
            raise ValueError("the file is truncated")
        if image.mode != "P":
            raise ForeignMask(f"has mode {image.mode}, but a mask must have mode P")
        origin = _origin(image.info.get(KEYWORD))
        palette = bytes(image.getpalette() or ())
    ids = np.flatnonzero(np.bincount(class_map.ravel()))
    if ids[-1] >= len(labels):
        raise ForeignMask(f"has class id {ids[-1]}, but there are only {len(labels)} classes")
    for i in ids:
        if palette[3 * i : 3 * i + 3] != labels.palette[3 * i : 3 * i + 3]:
            raise ForeignMask(f"has a different colour than the model's labels for class id {i}")
    return Mask(class_map, origin, origin is None or origin.idat != hash_of(image_data(data)))


class Mask(NamedTuple):
    """What is in a mask's file.

    Attributes:
        class_map: uint8 ``[h, w]``.
        origin: as far as the text tells it.
        edited: it is not as :func:`encode_mask` wrote it.
    """

    class_map: np.ndarray
    origin: Origin | None
    edited: bool


class ForeignMask(ValueError):
    """A file of somebody else, not damaged: no mask of these labels, or not of this image."""


def _origin(text: Any) -> Origin | None:
    try:
        origin = Origin(**json.loads(text))
    except (TypeError, ValueError, RecursionError):  # no such text, or of another form
        return None
    texts = (origin.image, origin.hash, origin.recipe, origin.idat)
    return origin if all(isinstance(one, str) for one in texts) else None


def histogram(
    class_map: np.ndarray, labels: LabelSet, size: tuple[int, int] | None = None
) -> dict[str, int]:
    """Pixels per label, of the labels that occur; the counts add up to the number of pixels.

    Args:
        class_map: uint8 ``[h, w]``.
        size: count the class map as it is enlarged to that (height, width).
    """
    if size is None or size == class_map.shape:
        # By bands, as NumPy counts in numbers of eight bytes.
        bands = (class_map[start : start + BAND] for start in range(0, len(class_map), BAND))
        counts = np.sum([_counts(band.ravel(), len(labels)) for band in bands], axis=0)
    else:
        # How often each row and each column stands in the enlarged map.
        rows, columns = (
            np.bincount(nearest(*lengths), minlength=lengths[0])
            for lengths in zip(class_map.shape, size, strict=True)
        )
        weights = np.outer(rows, columns).ravel()  # exact: below 2**53
        counts = np.bincount(class_map.ravel(), weights, minlength=len(labels))
    return {name: int(count) for name, count in zip(labels.names, counts, strict=True) if count}


def _counts(classes: np.ndarray, least: int) -> np.ndarray:
    """How often each class stands in a row of them, by its runs: classes seldom change."""
    ends = np.append(np.flatnonzero(classes[1:] != classes[:-1]), len(classes) - 1)
    return np.bincount(classes[ends], np.diff(ends, prepend=-1), minlength=least)


def encode_overlay(pixels: np.ndarray, class_map: np.ndarray, labels: LabelSet) -> bytes:
    """Photo and mask blended half and half, as JPEG; black labels leave the photo as it is.

    Args:
        pixels: uint8 RGB ``[h, w, 3]``.
        class_map: uint8, of the same or another size; it is scaled to the photo's.
    """
    class_map = enlarge(class_map, pixels.shape[:2])
    picture = Image.new("RGB", pixels.shape[1::-1])
    for start in range(0, len(pixels), BAND):  # whole, it would be held several times over
        band = pixels[start : start + BAND]
        colors = label2image(class_map[start : start + BAND], labels)
        blended = ((band.astype(np.uint16) + colors) // 2).astype(np.uint8)
        painted = colors.any(axis=-1, keepdims=True)
        picture.paste(Image.fromarray(np.where(painted, blended, band)), (0, start))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
