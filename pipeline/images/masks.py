"""Class maps as palette PNGs, overlays and histograms."""

from __future__ import annotations

import io
import json
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image

from model_build.data.labels import VOID, LabelSet, label2image
from pipeline.images.png import SIGNATURE, chunks, compress, palette_png
from pipeline.images.sizes import enlarge, nearest
from pipeline.records import hash_of

BAND_ROWS = 256  # of a large image, processed at a time
KEYWORD = "fcn-beam"  # keyword of the text chunk (PNG, section 11.3.4.3)
_PREFIX = KEYWORD.encode() + b"\0"  # the start of its content


class Origin(NamedTuple):
    """Where a mask comes from, as recorded in its text chunk; valid wherever the mask is moved.

    Attributes:
        image: name of the source below the root.
        hash: of the source's bytes.
        recipe: id of the mask recipe it was made with.
        pixels: its histogram.
        idat: sha256 of its image data as written; it no longer matches after an edit.
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
    """Encodes a class map as a PNG of mode P with the label set's palette.

    Args:
        class_map: uint8 ``[h, w]``.
        origin: kept as JSON in a text chunk of the PNG; its ``idat`` is filled in.
        size: (height, width) of the PNG, if it is larger; see
            :func:`pipeline.images.sizes.enlarge`.
    """
    size = size or class_map.shape
    idat = compress(class_map, size)
    text = b""
    if origin is not None:
        fields = origin._replace(idat=hash_of(idat))._asdict()
        text = _PREFIX + json.dumps(fields).encode()
    return palette_png(idat, size, labels.palette, text)


class Traces(NamedTuple):
    """Evidence of who made a file in a mask's place, whatever its labels or mode.

    If neither ``made`` nor ``ruined`` is set, a person or another program made it.

    Attributes:
        origin: from its text chunk, None if it has none.
        size: (height, width) in pixels; zeros if it is not a PNG.
        made: its image data are exactly those that a run wrote.
        ruined: it is the remains of a mask of a run, after a crash or on a damaged disk.
    """

    origin: Origin | None = None
    size: tuple[int, int] = (0, 0)
    made: bool = False
    ruined: bool = False


def find_traces(data: bytes) -> Traces:
    """Looks for :class:`Traces` in a file; no pixel is decoded."""
    try:
        found = list(chunks(data))
    except ValueError:
        # A crash may leave a file empty, full of zeros, or cut short before its pixels begin.
        started = SIGNATURE.startswith(data[: len(SIGNATURE)]) and b"IDAT" not in data
        return Traces(ruined=started or not data.strip(b"\0") or b"tEXt" + _PREFIX in data)
    texts = (content[len(_PREFIX) :] for _, content in found if content.startswith(_PREFIX))
    origin = _origin(next(texts, b""))
    width, height = struct.unpack(">II", found[0][1][:8].ljust(8, b"\0"))
    made = (
        origin is not None
        and origin.idat == hash_of(b"".join(content for kind, content in found if kind == b"IDAT"))
        and sum(origin.pixels.values()) == height * width
    )
    return Traces(origin, (height, width), made)


def _origin(text: bytes) -> Origin | None:
    try:
        origin = Origin(**json.loads(text))
    except (TypeError, ValueError, RecursionError):  # no such text, or an unknown form
        return None
    texts = (origin.image, origin.hash, origin.recipe, origin.idat)
    if not all(isinstance(one, str) for one in texts) or not isinstance(origin.pixels, dict):
        return None
    return origin if all(isinstance(count, int) for count in origin.pixels.values()) else None


def histogram(
    class_map: np.ndarray, labels: LabelSet, size: tuple[int, int] | None = None
) -> dict[str, int]:
    """Counts the pixels of each label that occurs; with void they add up to all pixels.

    Args:
        class_map: uint8 ``[h, w]``; 255 is void, which no network predicts but a person may paint.
        size: count the class map as if enlarged to this (height, width).

    Raises:
        ValueError: an id is neither a label nor void.
    """
    if size is None or size == class_map.shape:
        # In bands, as NumPy converts to eight bytes a pixel to count.
        bands = (class_map[y : y + BAND_ROWS] for y in range(0, len(class_map), BAND_ROWS))
        counts = np.sum([_counts(band.ravel(), VOID + 1) for band in bands], axis=0)
    else:
        # How often each row and each column occurs in the enlarged map.
        rows, columns = (
            np.bincount(nearest(*lengths), minlength=lengths[0])
            for lengths in zip(class_map.shape, size, strict=True)
        )
        weights = np.outer(rows, columns).ravel()  # exact: below 2**53
        counts = np.bincount(class_map.ravel(), weights, minlength=VOID + 1)
    if counts[len(labels) : VOID].any():
        raise ValueError(f"an id is none of the {len(labels)} labels'")
    counts = counts[: len(labels)]
    return {name: int(count) for name, count in zip(labels.names, counts, strict=True) if count}


def _counts(classes: np.ndarray, least: int) -> np.ndarray:
    """Counts classes in a flat array by its runs, as classes seldom change."""
    ends = np.append(np.flatnonzero(classes[1:] != classes[:-1]), len(classes) - 1)
    return np.bincount(classes[ends], np.diff(ends, prepend=-1), minlength=least)


def encode_overlay(pixels: np.ndarray, class_map: np.ndarray, labels: LabelSet) -> bytes:
    """Blends photo and mask half and half, as JPEG; black labels leave the photo as it is.

    Args:
        pixels: uint8 RGB ``[h, w, 3]``.
        class_map: uint8 ``[h, w]`` of any size; it is scaled to the photo's. A mask gives the same
            overlay as the class map that it was enlarged from.
    """
    class_map = enlarge(class_map, pixels.shape[:2])
    picture = Image.new("RGB", pixels.shape[1::-1])
    # In bands: the whole image would be held several times.
    for start in range(0, len(pixels), BAND_ROWS):
        band = pixels[start : start + BAND_ROWS]
        colors = label2image(class_map[start : start + BAND_ROWS], labels)
        blended = ((band.astype(np.uint16) + colors) // 2).astype(np.uint8)
        painted = colors.any(axis=-1, keepdims=True)
        picture.paste(Image.fromarray(np.where(painted, blended, band)), (0, start))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
