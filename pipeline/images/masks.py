"""Class maps as palette PNGs, overlays and histograms."""

from __future__ import annotations

import io
import json
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image

from model_build.data.labels import VOID, LabelSet, label2image
from pipeline.images.png import SIGNATURE, chunks, compressed, palette_png
from pipeline.images.sizes import enlarge, nearest
from pipeline.records import hash_of

BAND = 256  # rows of a large image that are worked on at a time
KEYWORD = "fcn-beam"  # of the text chunk (PNG, section 11.3.4.3)
_HEAD = KEYWORD.encode() + b"\0"  # of its content


class Origin(NamedTuple):
    """Where a mask comes from, as its text records it: true wherever the mask is.

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
        text = _HEAD + json.dumps(origin._replace(idat=hash_of(idat))._asdict()).encode()
    return palette_png(idat, size, labels.palette, text)


class Traces(NamedTuple):
    """What a file in a mask's place shows of who has made it, whatever its labels or mode.

    Where it shows neither of ``made`` and ``ruined``, a person or another program has made it.

    Attributes:
        origin: that its text names, None where it has no such text.
        size: (height, width) in pixels; zeros where it is no PNG.
        made: its image data are those that a run has written.
        ruined: it is what a crash or a damaged disk has left of a mask that a run has written.
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
        begun = SIGNATURE.startswith(data[: len(SIGNATURE)]) and b"IDAT" not in data
        return Traces(ruined=begun or not data.strip(b"\0") or b"tEXt" + _HEAD in data)
    texts = (content[len(_HEAD) :] for _, content in found if content.startswith(_HEAD))
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
    except (TypeError, ValueError, RecursionError):  # no such text, or of another form
        return None
    texts = (origin.image, origin.hash, origin.recipe, origin.idat)
    if not all(isinstance(one, str) for one in texts) or not isinstance(origin.pixels, dict):
        return None
    return origin if all(isinstance(count, int) for count in origin.pixels.values()) else None


def histogram(
    class_map: np.ndarray, labels: LabelSet, size: tuple[int, int] | None = None
) -> dict[str, int]:
    """Pixels per label, of the labels that occur; the counts and void's add up to all pixels.

    Args:
        class_map: uint8 ``[h, w]``; 255 is void, which no network predicts but a person may paint.
        size: count the class map as it is enlarged to that (height, width).

    Raises:
        ValueError: an id is neither a label's nor void.
    """
    if size is None or size == class_map.shape:
        # By bands, as NumPy counts in numbers of eight bytes.
        bands = (class_map[start : start + BAND] for start in range(0, len(class_map), BAND))
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
    """Counts each class in a row of them, run by run: classes seldom change."""
    ends = np.append(np.flatnonzero(classes[1:] != classes[:-1]), len(classes) - 1)
    return np.bincount(classes[ends], np.diff(ends, prepend=-1), minlength=least)


def encode_overlay(pixels: np.ndarray, class_map: np.ndarray, labels: LabelSet) -> bytes:
    """Blends photo and mask half and half, as JPEG; black labels leave the photo as it is.

    Args:
        pixels: uint8 RGB ``[h, w, 3]``.
        class_map: uint8, scaled to the photo's size. A mask gives the same overlay as the class map
            that it was enlarged from.
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
