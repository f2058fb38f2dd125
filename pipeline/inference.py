"""The Beam ``ModelHandler``: windows of decoded images → class maps."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from model_build import artifact
from pipeline.images import DecodedImage
from pipeline.progress import stage_timer
from pipeline.rejects import Reject, rejected
from pipeline.shapes import bucket, pad, restore

_LOGGER = logging.getLogger(__name__)

# A window is what is decoded before the network runs: enough to fill batches of one shape, and
# bounded in memory, as an image counts once for each started million of pixels.
WINDOW = 32
PIXELS_PER_COUNT = 1_000_000


class Photo(NamedTuple):
    """A decoded image and where it came from and goes to; ``name`` is its path below the root."""

    path: str
    name: str
    mask_name: str
    image: DecodedImage


class Segmented(NamedTuple):
    """A photo and its class map: uint8 of the source's height and width."""

    photo: Photo
    class_map: np.ndarray


class SegmentationHandler(ModelHandler[Photo, Segmented | Reject, Any]):
    """Runs one :class:`pipeline.segmenter.Segmenter` per process on windows of photos.

    Args:
        model: the saved-model folder, on any file system of Beam's.
        engine: see :class:`pipeline.segmenter.Segmenter`.
        batch_size: likewise.
    """

    def __init__(self, model: str, engine: str = "auto", batch_size: int | None = None):
        super().__init__()
        self.model, self.engine, self.batch_size = model, engine, batch_size

    def load_model(self) -> Any:
        from pipeline.segmenter import Segmenter

        segmenter = Segmenter(artifact.load(self.model), self.engine, self.batch_size)
        _LOGGER.info(
            "engine %s: %s, batches of %d",
            self.engine,
            segmenter.description,
            segmenter.batch_size,
        )
        return segmenter

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        return {
            "min_batch_size": WINDOW,
            "max_batch_size": WINDOW,
            "element_size_fn": lambda photo: (
                1 + photo.image.pixels[..., 0].size // PIXELS_PER_COUNT
            ),
        }

    def get_num_bytes(self, batch: Sequence[Photo]) -> int:
        return sum(photo.image.pixels.nbytes for photo in batch)

    def run_inference(
        self, batch: Sequence[Photo], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Segmented | Reject]:
        for group in same_shape_batches(batch, model.stride, model.batch_size):
            yield from _segment(group, model)


def same_shape_batches(
    photos: Sequence[Photo], stride: int, batch_size: int
) -> Iterator[list[Photo]]:
    """Splits photos into batches that share a padded shape, at most ``batch_size`` each."""
    buckets = defaultdict(list)
    for photo in photos:
        buckets[bucket(photo.image.pixels, stride)].append(photo)
    for group in buckets.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def _segment(photos: list[Photo], segmenter: Any) -> Iterator[Segmented | Reject]:
    size = bucket(photos[0].image.pixels, segmenter.stride)
    try:
        with stage_timer("infer"):
            class_maps = segmenter(np.stack([pad(photo.image.pixels, size) for photo in photos]))
    except Exception as error:  # out of memory, above all: the images of this batch, not the job
        yield from (rejected(photo.path, "infer", error) for photo in photos)
        return
    for photo, class_map in zip(photos, class_maps, strict=True):
        image = photo.image
        source = image.height, image.width
        yield Segmented(photo, restore(class_map, image.pixels, source))
