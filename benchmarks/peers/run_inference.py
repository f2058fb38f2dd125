"""Beam's documented way: RunInference over images that are resized to one shape.

    python benchmarks/peers/run_inference.py photos/ out/ [--shape 384x512] [--batch-size 8]

Beam's own TensorFlow handler cannot load the network: it wants tensorflow_hub, and Keras 3 refuses
SavedModels. So the handler is one of one's own, as Beam's documentation has it for such networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from PIL import Image
from shared import CORES, SAVED_MODEL, Size, listed, parser, read, write

Key = tuple[str, Size]  # path, size of the photo


class SavedModel(ModelHandler[np.ndarray, np.ndarray, Any]):
    """uint8 images ``[h, w, 3]`` of one shape → integer class maps ``[h, w]``."""

    def __init__(self, batch_size: int):
        super().__init__()
        self.batch_size = batch_size

    def load_model(self) -> Any:
        import tensorflow as tf

        return tf.saved_model.load(SAVED_MODEL).signatures["serving_default"]

    def run_inference(
        self, batch: Sequence[np.ndarray], model: Any, inference_args: dict | None = None
    ) -> Iterable[np.ndarray]:
        import tensorflow as tf

        logits = model(images=tf.constant(np.stack(batch)))["logits"]
        return list(tf.argmax(logits, -1).numpy())

    def batch_elements_kwargs(self) -> dict[str, int]:
        return {"max_batch_size": self.batch_size}


def read_resized(path: str, shape: Size) -> tuple[Key, np.ndarray]:
    pixels, size = read(path)
    resized = Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BILINEAR)
    return (path, size), np.asarray(resized)


def write_resized(keyed: tuple[Key, np.ndarray], out: str) -> None:
    (path, size), class_map = keyed
    write(class_map, size, path, out)


def main(photos: str, out: str, shape: str, batch_size: int) -> None:
    height, width = map(int, shape.split("x"))
    options = PipelineOptions(
        runner="FnApiRunner", direct_running_mode="multi_threading", direct_num_workers=CORES
    )
    with beam.Pipeline(options=options) as pipeline:
        (
            pipeline
            | "List" >> beam.Create([str(path) for path in listed(photos)])
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.Map(read_resized, (height, width))
            | "Classify" >> RunInference(KeyedModelHandler(SavedModel(batch_size)))
            | "Write" >> beam.Map(write_resized, out)
        )


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--shape", default="384x512")
    arguments.add_argument("--batch-size", type=int, default=8)
    main(**vars(arguments.parse_args()))
