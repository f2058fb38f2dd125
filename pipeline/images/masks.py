"""Class maps as palette PNGs, overlays and histograms."""

from __future__ import annotations

import io
import json
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from model_build.data.labels import LabelSet, label2image

# Level 9 takes four times as long for masks that are 10 % smaller.
PNG_LEVEL = 3
KEYWORD = "fcn-beam"  # of the text chunk (PNG, section 11.3.4.3)
END = b"IEND\xaeB`\x82"  # the last chunk, which is always the same


class Origin(NamedTuple):
    """What a mask's text tells of where it comes from: true wherever the mask lies.

    Attributes:
        image: name of the source below the root.
        hash: of the source's bytes.
        recipe: id of what it was made by.
        pixels: its histogram.
    """

    image: str
    hash: str
    recipe: str
    pixels: dict[str, int]


def encode_mask(class_map: np.ndarray, labels: LabelSet, origin: Origin | None = None) -> bytes:
    """A class map as a PNG of mode P with the label set's palette.

    Args:
        class_map: uint8 ``[h, w]``.
        origin: kept as JSON in a text chunk of the PNG.
    """
    image = Image.fromarray(class_map)
    image.putpalette(labels.palette)  # turns mode L into P; the pixels stay
    text = PngImagePlugin.PngInfo()
    if origin is not None:
        text.add_text(KEYWORD, json.dumps(origin._asdict()))
    return _save(image, "PNG", compress_level=PNG_LEVEL, pnginfo=text)


def decode_mask(data: bytes, labels: LabelSet) -> tuple[np.ndarray, Origin | None]:
    """The way back from :func:`encode_mask`.

    Returns:
        The class map, and the origin as far as the text tells it.

    Raises:
        ForeignMask: the file is whole, but no palette PNG, or holds an id that is no label's.
        Exception: it is damaged or cut short, or of another format; Pillow's, mostly.
    """
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        class_map = np.asarray(image)
        if END not in data:  # Pillow does not miss it, others do
            raise ValueError("the file is cut short")
        origin = _origin(image.info.get(KEYWORD))
        if image.mode != "P":
            raise ForeignMask(f"has mode {image.mode}, but a mask has P")
    if class_map.max() >= len(labels):
        raise ForeignMask(f"holds id {class_map.max()}, but there are {len(labels)} labels")
    return class_map, origin


class ForeignMask(ValueError):
    """A whole PNG that is no mask of these labels."""


def _origin(text: Any) -> Origin | None:
    try:
        return Origin(**json.loads(text))
    except (TypeError, ValueError):  # no such text, or of another form
        return None


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
