"""Ray Data: ``read_images`` and a pool of actors, each with a network of its own.

python benchmarks/peers/ray_data.py photos/ out/ [--actors N] [--threads N] [--precision bfloat16]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ray
from PIL import Image
from shared import CORES, SAVED_MODEL, padded, parser, scaled, write


class Segment:
    """Writes the masks of a batch of images of any sizes."""

    def __init__(self, out: str, threads: int, precision: str):
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        half = {"auto_mixed_precision_onednn_bfloat16": precision == "bfloat16"}
        tf.config.optimizer.set_experimental_options(half)
        model = tf.saved_model.load(SAVED_MODEL)

        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])
        def classify(images: tf.Tensor) -> tf.Tensor:
            logits = model.signatures["serving_default"](images=images)["logits"]
            return tf.argmax(logits, -1, tf.int32)[0]

        self.classify, self.model, self.out = classify, model, out

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for image, path in zip(batch["image"], batch["path"], strict=True):
            pixels = scaled(Image.fromarray(np.asarray(image)))
            height, width = pixels.shape[:2]
            class_map = self.classify(padded(pixels)[None]).numpy()[:height, :width]
            write(class_map, image.shape[:2], path, self.out)
        return {"path": batch["path"]}


def main(photos: str, out: str, actors: int, threads: int, precision: str) -> None:
    # The actors share the cores with the tasks that read, which else would get none.
    ray.init(num_cpus=CORES + actors, include_dashboard=False, log_to_driver=False)
    images = ray.data.read_images(photos, mode="RGB", include_paths=True)
    images.map_batches(
        Segment,
        fn_constructor_args=(out, threads, precision),
        batch_size=8,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=1,
    ).materialize()


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--actors", type=int, default=CORES)
    arguments.add_argument("--threads", type=int, default=1, help="of TensorFlow, in each actor")
    arguments.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    main(**vars(arguments.parse_args()))
