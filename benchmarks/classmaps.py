"""What several benchmarks share: the class map that the network gives an image."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.images.sizes import bucket, crop, pad


def class_map_of(pixels: np.ndarray, segmenter: Any) -> np.ndarray:
    """The classes of an image, uint8 [height, width], in one piece and a batch of its own."""
    class_maps, _ = segmenter(pad(pixels, bucket(pixels, segmenter.stride))[None])
    return crop(class_maps[0], pixels)
