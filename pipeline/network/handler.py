"""The Beam ``ModelHandler``: windows of photos → windows of class maps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from model_build.common.errors import JobError
from pipeline.images.sizes import crop, pad, padded_size
from pipeline.network import precision as precisions
from pipeline.records import Photo, Reject, Window, rejected
from pipeline.storage import Files

METRICS = "fcn_beam"  # the namespace of Beam's metrics


@dataclass(frozen=True)
class EngineOptions:
    """How the network is run.

    Attributes:
        model: the saved-model folder, on any disk or store.
        engine: see :class:`pipeline.network.segmenter.Segmenter`; ``"xla"`` or ``"graph"``.
        batch_size: likewise.
        precision: likewise; ``"float32"`` or ``"bfloat16"``.
        tile: likewise; None never tiles.
        long_side: likewise.
    """

    model: str
    engine: str
    batch_size: int
    precision: str = precisions.FLOAT32
    tile: int | None = None
    long_side: int | None = None


class SegmentationHandler(ModelHandler[Window, Window, Any]):
    """Runs one :class:`pipeline.network.segmenter.Segmenter` a process, shared by its streams.

    To Beam a window is one element, so that its photos stay together from reading to writing; it is
    split into batches here.
    """

    def __init__(self, options: EngineOptions, files: Files):
        super().__init__()
        self.options, self.files = options, files

    def load_model(self) -> Any:
        from model_build.common.quiet_imports import import_tensorflow

        import_tensorflow()
        from pipeline.network import models, threads
        from pipeline.network.segmenter import Segmenter

        threads.set_threads()  # has no effect if a local run has already done so
        network = models.load(self.options.model, self.files)
        options = self.options
        return Segmenter(
            network,
            options.engine,
            options.batch_size,
            options.precision,
            options.tile,
            options.long_side,
        )

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
    """Returns the class map of each photo of a window, at the photo's size, or its reject.

    Raises:
        JobError: out of memory with several images per batch.
    """
    class_maps: dict[int, np.ndarray | Reject] = {}
    photos: dict[int, Photo] = {}
    for index, photo in enumerate(window.photos):
        if isinstance(photo, Reject):
            class_maps[index] = photo
        else:
            photos[index] = photo
    tiled = {index: photo for index, photo in photos.items() if _is_large(photo, segmenter.tile)}
    whole = {index: photo for index, photo in photos.items() if index not in tiled}
    batches = same_shape_batches(whole, segmenter.stride, segmenter.batch_size)
    for batch in (*batches, *([index] for index in tiled)):
        size = padded_size(photos[batch[0]].pixels, segmenter.stride)
        try:
            if batch[0] in tiled:
                padded, finite = zip(segmenter.tiled(photos[batch[0]].pixels), strict=True)
            else:
                padded, finite = segmenter(
                    np.stack([pad(photos[index].pixels, size) for index in batch])
                )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if segmenter.batch_size > 1:
                raise JobError(
                    f"out of memory at {size[1]}×{size[0]} pixels in batches of "
                    f"{segmenter.batch_size}; add --batch-size 1 --overwrite"
                ) from error
            class_maps[batch[0]] = rejected(window.tasks[batch[0]].image.path, "infer", error)
            continue
        for index, class_map, is_finite in zip(batch, padded, finite, strict=True):
            if is_finite:
                class_maps[index] = crop(class_map, photos[index].pixels)
            else:
                why = NonFiniteScores("the network's scores for it are not finite numbers")
                class_maps[index] = rejected(window.tasks[index].image.path, "infer", why)
    return [class_maps[index] for index in range(len(window.photos))]


def _is_large(photo: Photo, tile: int | None) -> bool:
    return tile is not None and max(photo.pixels.shape[:2]) > tile


class NonFiniteScores(ArithmeticError):
    """An image whose scores contain NaN or infinity, so that its classes are meaningless."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in Python or in TensorFlow."""
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def same_shape_batches(
    photos: Mapping[int, Photo], stride: int, batch_size: int
) -> Iterator[list[int]]:
    """Yields keys of photos that share a padded shape, at most ``batch_size`` each."""
    groups = defaultdict(list)
    for index, photo in photos.items():
        groups[padded_size(photo.pixels, stride)].append(index)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]
