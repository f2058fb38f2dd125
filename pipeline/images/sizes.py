"""Sizes of an image in the job: scaled to fit, padded to the stride, and back to the source's."""

from __future__ import annotations

import numpy as np


def fitted_size(height: int, width: int, long_side: int | None) -> tuple[int, int]:
    """Returns (height, width) scaled down so that the longer side is at most ``long_side``."""
    longest = max(height, width)
    if long_side is None or longest <= long_side:
        return height, width
    scale = long_side / longest
    return max(1, round(height * scale)), max(1, round(width * scale))


def padded_size(pixels: np.ndarray, stride: int) -> tuple[int, int]:
    """Returns the (height, width) that ``[h, w, …]`` is padded to: multiples of the stride."""
    height, width = pixels.shape[:2]
    return -(-height // stride) * stride, -(-width // stride) * stride


def pad(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pads uint8 ``[h, w, c]`` at the bottom and right to ``size`` by repeating its edge."""
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    padded = np.empty((*size, pixels.shape[2]), pixels.dtype)  # np.pad takes longer
    padded[:height, :width] = pixels
    padded[:height, width:] = pixels[:, -1:]
    padded[height:] = padded[height - 1]
    return padded


def crop(class_map: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Cuts the padding off a class map.

    Args:
        class_map: uint8 ``[H, W]``, of a padded image.
        pixels: ``[h, w, 3]``, the image before padding.

    Returns:
        uint8 ``[h, w]``.
    """
    return class_map[: pixels.shape[0], : pixels.shape[1]]


def enlarge(class_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales a class map to (height, width).

    Scaled back to its former size, an enlarged class map is exactly what it was.

    Returns:
        uint8 of shape ``size``; each pixel takes the nearest class, so no new one appears.
    """
    if class_map.shape == size:
        return class_map
    rows, columns = (nearest(*lengths) for lengths in zip(class_map.shape, size, strict=True))
    return class_map[:, columns][rows]


def nearest(length: int, scaled: int) -> np.ndarray:
    """Returns for each pixel of a scaled row the nearest pixel of the row of ``length``.

    Computed in integers, so that no rounding moves a border: the middle of pixel i is at i + 1/2,
    and if it falls between two pixels the right one is taken.
    """
    return (2 * np.arange(scaled) + 1) * length // (2 * scaled)
