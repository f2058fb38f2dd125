"""The Beam ``ModelHandler``: windows of photos → windows of class maps."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from model_build.errors import UserError
from pipeline.images.sizes import bucket, crop, pad
from pipeline.network import ENGINES
from pipeline.records import Photo, Reject, Window, rejected
from pipeline.storage import Files

_LOGGER = logging.getLogger(__name__)

METRICS = "fcn_beam"  # the namespace of Beam's metrics


@dataclass(frozen=True)
class EngineOptions:
    """How the network is run.

    Attributes:
        model: the saved-model folder, on any disk or store.
        engine: see :class:`pipeline.network.segmenter.Segmenter`.
        batch_size: likewise.

    Raises:
        UserError: an unknown engine.
    """

    model: str
    engine: str = "auto"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UserError(f"--engine {self.engine}: is none of {', '.join(ENGINES)}")


class SegmentationHandler(ModelHandler[Window, Window, Any]):
    """Runs one :class:`pipeline.network.segmenter.Segmenter` a process, shared by its streams.

    To Beam a window is one element, so that what it holds stays together from reading to writing;
    into batches it is split here.
    """

    def __init__(self, options: EngineOptions, files: Files):
        super().__init__()
        self.options, self.files = options, files

    def load_model(self) -> Any:
        from model_build.quiet import import_tensorflow

        import_tensorflow()
        from pipeline.network import models, threads
        from pipeline.network.segmenter import Segmenter

        threads.set_threads()  # of no effect where a local run has done so
        network = models.load(self.options.model, self.files)
        segmenter = Segmenter(network, self.options.engine, self.options.batch_size)
        _LOGGER.info(
            "engine %s: %s, batches of %d",
            self.options.engine,
            segmenter.description,
            segmenter.batch_size,
        )
        return segmenter

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        return {"min_batch_size": 1, "max_batch_size": 1}

    def get_num_bytes(self, batch: Sequence[Window]) -> int:
        photos = (photo for window in batch for photo in window.photos)
        return sum(photo.pixels.nbytes for photo in photos if isinstance(photo, Photo))

    def get_metrics_namespace(self) -> str:
        return METRICS

    def run_inference(
        self, batch: Sequence[Window], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Window]:
        return [window._replace(class_maps=tuple(classify(window, model))) for window in batch]


def classify(window: Window, segmenter: Any) -> list[np.ndarray | Reject]:
    """The class map of each photo of a window, at the size of its pixels, or why it has none."""
    class_maps: dict[int, np.ndarray | Reject] = {}
    photos: dict[int, Photo] = {}
    for index, photo in enumerate(window.photos):
        if isinstance(photo, Reject):
            class_maps[index] = photo
        else:
            photos[index] = photo
    for batch in same_shape_batches(photos, segmenter.stride, segmenter.batch_size):
        size = bucket(photos[batch[0]].pixels, segmenter.stride)
        try:
            padded = segmenter(np.stack([pad(photos[index].pixels, size) for index in batch]))
        except Exception as error:  # out of memory, above all: these photos', not the job's
            for index in batch:
                class_maps[index] = rejected(window.tasks[index].image.path, "infer", error)
            continue
        for index, class_map in zip(batch, padded, strict=True):
            class_maps[index] = crop(class_map, photos[index].pixels)
    return [class_maps[index] for index in range(len(window.photos))]


def same_shape_batches(
    photos: Mapping[int, Photo], stride: int, batch_size: int
) -> Iterator[list[int]]:
    """Keys of photos that share a padded shape, at most ``batch_size`` each."""
    buckets = defaultdict(list)
    for index, photo in photos.items():
        buckets[bucket(photo.pixels, stride)].append(index)
    for group in buckets.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]
