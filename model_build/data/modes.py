"""Pillow's image modes → RGB: grey of many bits, floats, palettes, CMYK, transparency on white."""

from __future__ import annotations

import numpy as np
from PIL import Image

from model_build.data.profiles import from_lab
from model_build.data.tiff import Samples

BAND = 512  # rows that are converted at a time
_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


def rgb_pixels(image: Image.Image, samples: Samples | None = None) -> np.ndarray:
    """An image of any mode as uint8 RGB ``[h, w, 3]``.

    By bands of rows, as Pillow holds four bytes a pixel, and whole images would be held in several
    modes at once. One that is no higher than a band gains nothing by it.
    """
    # The unit of mode F is told by all of its values.
    if image.mode == "F" or image.height <= BAND:
        return np.asarray(to_rgb(image, samples))
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for start in range(0, image.height, BAND):
        end = min(start + BAND, image.height)
        band = image.crop((0, start, image.width, end))
        pixels[start:end] = np.asarray(to_rgb(band, samples))
    return pixels


def to_rgb(image: Image.Image, samples: Samples | None = None) -> Image.Image:
    """An image of any mode as RGB; itself where it is."""
    samples, mode = samples or Samples(), image.mode
    if mode.startswith("I"):  # whatever the order of bytes; Pillow's convert would clip values
        values = np.asarray(image)
        if samples.bits == 32:
            values = values.view(np.uint32)
        values = np.clip(values.astype(np.int64), 0, 2**samples.bits - 1) >> (samples.bits - 8)
        image = _grey(values.astype(np.uint8), samples)
    elif mode == "F":
        values = np.asarray(image)
        unit = 255 if values[np.isfinite(values)].max(initial=0) <= 1 else 1
        values = np.clip(np.nan_to_num(values * unit), 0, 255).astype(np.uint8)
        image = _grey(values, samples)
    elif mode == "LAB":
        image = from_lab(image)
    elif mode in _WITH_ALPHA or "transparency" in image.info:
        front = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", front.size, "white"), front)
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(values: np.ndarray, samples: Samples) -> Image.Image:
    return Image.fromarray(255 - values if samples.inverted else values)
