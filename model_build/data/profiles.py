"""Converts colours with embedded ICC profiles to sRGB, as browsers do."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

ROWS_PER_BAND = 512  # rows that are converted at a time
SPACES = {"RGB": "RGB ", "CMYK": "CMYK"}  # Pillow's modes as profiles call them (ICC.1, 7.2.6)
# The cache of the last pixel would be shared by threads.
_FLAGS = ImageCms.Flags.NOCACHE
_NEAR = 2  # of 255: invisible, and less than JPEG's loss


def in_srgb(pixels: np.ndarray, mode: str, profile: bytes) -> np.ndarray | None:
    """Converts pixels in a profile's colours to sRGB.

    Args:
        pixels: uint8 ``[h, w, channels]``.
        mode: ``"RGB"`` or ``"CMYK"`` (0 is no ink).
        profile: embedded in an image file.

    Returns:
        uint8 RGB ``[h, w, 3]``; None if there is nothing to convert: the profile is sRGB, for
        another mode, or damaged.
    """
    transform = _transform(profile, mode) if profile else None
    if transform is None:
        return None
    converted = np.empty((*pixels.shape[:2], 3), np.uint8)
    for start in range(0, len(pixels), ROWS_PER_BAND):  # Pillow holds four bytes a pixel
        band = Image.fromarray(pixels[start : start + ROWS_PER_BAND], mode)
        converted[start : start + ROWS_PER_BAND] = np.asarray(transform.apply(band))
    return converted


def from_lab(image: Image.Image) -> Image.Image:
    """Converts an image of mode LAB to sRGB."""
    return _from_lab().apply(image)


@functools.lru_cache(maxsize=16)  # an archive comes from few cameras
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != SPACES[mode]:
            return None
        transform = _to_srgb(source, mode)
        return None if mode == "RGB" and _is_srgb(transform) else transform
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None


@functools.lru_cache(maxsize=1)
def _from_lab() -> ImageCms.ImageCmsTransform:
    return _to_srgb(ImageCms.createProfile("LAB"), "LAB")


def _to_srgb(
    source: ImageCms.ImageCmsProfile | ImageCms.core.CmsProfile, mode: str
) -> ImageCms.ImageCmsTransform:
    target = ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(source, target, mode, "RGB", flags=_FLAGS)


def _is_srgb(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform keeps colours unchanged, whatever the profile's name."""
    steps = np.arange(0, 256, 51, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, len(steps), 3)
    changed = np.asarray(transform.apply(Image.fromarray(grid)))
    return int(np.abs(changed.astype(int) - grid).max()) <= _NEAR
