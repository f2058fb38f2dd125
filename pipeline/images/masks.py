"""Class maps as palette PNGs, overlays and histograms."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from model_build.data.labels import LabelSet, label2image

# Level 9 takes four times as long for masks that are 10 % smaller.
PNG_LEVEL = 3
KEYWORD = "fcn-beam"  # of the text chunk (PNG, section 11.3.4.3)
SIGNATURE = b"\x89PNG\r\n\x1a\n"  # how each PNG begins (PNG, section 5.2)
END = b"IEND\xaeB`\x82"  # the last chunk, which is always the same


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


def encode_mask(class_map: np.ndarray, labels: LabelSet, origin: Origin | None = None) -> bytes:
    """A class map as a PNG of mode P with the label set's palette.

    Args:
        class_map: uint8 ``[h, w]``.
        origin: kept as JSON in a text chunk of the PNG; its ``idat`` is filled in.
    """
    image = Image.fromarray(class_map)
    image.putpalette(labels.palette)  # turns mode L into P; the pixels stay
    data = _save(image, "PNG", compress_level=PNG_LEVEL)
    if origin is None:
        return data
    text = json.dumps(origin._replace(idat=_idat(data))._asdict())
    chunk = b"tEXt" + KEYWORD.encode() + b"\0" + text.encode()
    start = next(start for kind, start, _ in _chunks(data) if kind == b"IDAT") - 8
    return data[:start] + _sealed(chunk) + data[start:]


def _sealed(chunk: bytes) -> bytes:
    """A chunk's name and content between its length and its checksum (PNG, section 5.3)."""
    return struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Of each chunk of a PNG its name, and where its content begins and ends."""
    start = len(SIGNATURE) + 8
    while start <= len(data):
        length, kind = struct.unpack(">I4s", data[start - 8 : start])
        yield kind, start, start + length
        start += length + 12


def _idat(data: bytes) -> str:
    """sha256 of a PNG's image data, compressed as it is, in hex."""
    found = hashlib.sha256()
    for kind, start, end in _chunks(data):
        if kind == b"IDAT":
            found.update(data[start:end])
    return found.hexdigest()


def decode_mask(data: bytes, labels: LabelSet) -> Mask:
    """The way back from :func:`encode_mask`.

    Raises:
        ForeignMask: the file is something else: no PNG, not of mode P, with an id that is no
            label's, or with another colour for one.
        Exception: it is damaged or cut short; Pillow's, mostly.
    """
    if not SIGNATURE.startswith(data[: len(SIGNATURE)]) and any(data):
        raise ForeignMask("is no PNG")  # what a crash leaves is empty, cut short or full of zeros
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        class_map = np.asarray(image)
        if END not in data:  # Pillow does not miss it, others do
            raise ValueError("the file is cut short")
        if image.mode != "P":
            raise ForeignMask(f"has mode {image.mode}, but a mask has P")
        origin = _origin(image.info.get(KEYWORD))
        palette = bytes(image.getpalette() or ())
    ids = np.flatnonzero(np.bincount(class_map.ravel()))
    if ids[-1] >= len(labels):
        raise ForeignMask(f"holds id {ids[-1]}, but there are {len(labels)} labels")
    for i in ids:
        if palette[3 * i : 3 * i + 3] != labels.palette[3 * i : 3 * i + 3]:
            raise ForeignMask(f"has another colour than the labels for id {i}")
    return Mask(class_map, origin, origin is None or origin.idat != _idat(data))


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


def histogram(class_map: np.ndarray, labels: LabelSet) -> dict[str, int]:
    """Pixels per label, of the labels that occur; the counts add up to the number of pixels."""
    counts = np.bincount(class_map.ravel(), minlength=len(labels))
    return {name: int(count) for name, count in zip(labels.names, counts, strict=True) if count}


def encode_overlay(pixels: np.ndarray, class_map: np.ndarray, labels: LabelSet) -> bytes:
    """Photo and mask blended half and half, as JPEG; black labels leave the photo as it is.

    Args:
        pixels: uint8 RGB ``[h, w, 3]``.
        class_map: uint8, of the same or another size; it is scaled to the photo's.
    """
    scaled = Image.fromarray(class_map).resize(pixels.shape[1::-1], Image.Resampling.NEAREST)
    class_map = np.asarray(scaled)
    colors = label2image(class_map, labels)
    blended = ((pixels.astype(np.uint16) + colors) // 2).astype(np.uint8)
    painted = colors.any(axis=-1, keepdims=True)
    return _save(Image.fromarray(np.where(painted, blended, pixels)), "JPEG", quality=90)


def _save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
