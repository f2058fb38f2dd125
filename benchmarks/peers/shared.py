"""Shared by all peers, so that their work is equal: listing, reading and padding photos, masks.

It needs only NumPy and Pillow, as each peer has a separate environment.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

MODEL = Path(__file__).parents[2] / "model_build/default_model"
SAVED_MODEL = str(MODEL / "saved_model")
DESCRIPTION = json.loads((MODEL / "model.json").read_text(encoding="utf-8"))
STRIDE, LONG_SIDE = DESCRIPTION["stride"], DESCRIPTION["long_side"]
PALETTE = np.array(DESCRIPTION["palette"], np.uint8).tobytes()
LEVEL = 3  # of Pillow's compression; higher ones take longer than they save
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

# TensorFlow's own kernels know no dilated depthwise convolution, as the model has; those of oneDNN
# do, which not every CPU gets by default. TensorFlow is imported after this module.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

Size = tuple[int, int]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments of every peer: a folder of JPEGs, and an existing folder for masks."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("photos")
    made.add_argument("out")
    return made


def listed(folder: str) -> list[Path]:
    """The JPEGs of a folder, by name."""
    return sorted(Path(folder).glob("*.jpg"))


def read(path: str | Path) -> tuple[np.ndarray, Size]:
    """A photo, upright and scaled down to what the model was trained at: uint8 RGB ``[h, w, 3]``.

    Returns:
        The pixels, and the photo's own size.
    """
    with Image.open(path) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        own = image.size[::-1] if turned else image.size
        image.draft(None, fitted(image.size))
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return scaled(upright), own[::-1]


def scaled(image: Image.Image) -> np.ndarray:
    """An upright RGB image, scaled down to what the model was trained at: uint8 ``[h, w, 3]``."""
    size = fitted(image.size)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image)


def fitted(size: Size) -> Size:
    """A size with the longer side at most the model's; nothing is enlarged."""
    scale = min(1.0, LONG_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def padded(pixels: np.ndarray) -> np.ndarray:
    """``[h, w, 3]`` with its edge repeated up to sides that the network takes."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, -height % STRIDE), (0, -width % STRIDE), (0, 0)), mode="edge")


def write(class_map: np.ndarray, size: Size, name: str, out: str) -> None:
    """Writes a class map as a palette PNG.

    Args:
        class_map: integers ``[h, w]``, without padding.
        size: (height, width) of the photo, to which it is enlarged.
        name: of the photo.
        out: the folder of masks.
    """
    mask = Image.fromarray(class_map.astype(np.uint8))
    if mask.size != size[::-1]:
        mask = mask.resize(size[::-1], Image.Resampling.NEAREST)
    mask.putpalette(PALETTE)
    mask.save(Path(out) / f"{Path(name).stem}.png", compress_level=LEVEL)
