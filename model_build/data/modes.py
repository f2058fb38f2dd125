"""Converts Pillow's image modes to RGB: deep grey, floats, palettes, CMYK, transparency."""

from __future__ import annotations

import numpy as np
from PIL import Image

from model_build.data.profiles import from_lab
from model_build.data.tiff import Samples

ROWS_PER_BAND = 512  # rows that are converted at a time
_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


def rgb_pixels(image: Image.Image, samples: Samples | None = None) -> np.ndarray:
    """Converts an image of any mode to uint8 RGB ``[h, w, 3]``.

    Works in bands of rows: Pillow uses four bytes a pixel, and a whole image would be in memory in
    several modes at once.
    """
    # The range of mode F depends on all of its values, so it cannot be split.
    if image.mode == "F" or image.height <= ROWS_PER_BAND:
        return np.asarray(to_rgb(image, samples))
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for start in range(0, image.height, ROWS_PER_BAND):
        end = min(start + ROWS_PER_BAND, image.height)
        band = image.crop((0, start, image.width, end))
        pixels[start:end] = np.asarray(to_rgb(band, samples))
    return pixels


def to_rgb(image: Image.Image, samples: Samples | None = None) -> Image.Image:
    """Converts an image of any mode to RGB; returns it unchanged if it is RGB."""
    samples, mode = samples or Samples(), image.mode
    if mode.startswith("I"):  # in any byte order; Pillow's convert would clip values
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
