"""Core-milliseconds an image of finding classes in scores, by classes and size.

    python benchmarks/heads.py [--classes 2,21,40,60,80,100,150] [--sizes 384x512,512x512,1024x1024]
        [--photos photos/] [--rounds 9]

Heads are those of FCNs: fixed interpolation from stride 16, learned upsampling from strides 8 and
32, one thread. Each is run as ``--engine graph`` does, which is by cells for an interpolation and
compiled for others; and by way of all logits, in graph mode and compiled. Scores are random and
smooth, as those of a photo. Interpolation is measured on noise as well, the worst case: all logits
are computed, as no two cells agree. The ways alternate; medians are printed, and how long the first
call as a job took, in which XLA compiles. With photos, the default model's head is measured on its
scores of the first 60, and the share of blocks whose logits are computed is printed.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
from classmaps import loaded

PHOTOS_PER_WINDOW = 60


@click.command()
@click.option("--classes", default="2,21,40,60,80,100,150", show_default=True)
@click.option("--sizes", default="384x512,512x512,1024x1024", show_default=True)
@click.option("--photos", type=click.Path(exists=True, file_okay=False), help="A folder of JPEGs.")
@click.option("--rounds", default=9, show_default=True)
def main(classes: str, sizes: str, photos: str | None, rounds: int) -> None:
    """Measure heads."""
    from model_build.common.quiet_imports import import_tensorflow

    import_tensorflow()
    from model_build.network.upsampling import Interpolation, Upsampling
    from pipeline.network.threads import set_threads

    set_threads()
    click.echo(f"core-ms an image, medians of {rounds} rounds, one thread")
    if photos:
        of_photos(photos, rounds)
    for size in sizes.split(","):
        height, width = map(int, size.split("x"))
        for count in map(int, classes.split(",")):
            # One cell in this many is a number of its own, what lies between is interpolated.
            heads: dict[str, tuple[Any, int, int]] = {
                "interpolation from stride 16": (Interpolation(16), 16, 4),
                "the same of noise": (Interpolation(16), 16, 1),
            }
            if size == sizes.split(",")[0]:
                for stride in (8, 32):
                    learned = Upsampling(count, stride)
                    heads[f"learned upsampling from stride {stride}"] = learned, stride, 4
            for name, (layer, stride, smooth) in heads.items():
                scores = random_scores((height // stride, width // stride), count, smooth)
                network = of_layer(layer, stride, count)
                click.echo(
                    f"{size}, {count} classes, {name}: {measured(network, [scores], rounds)}"
                )


def of_layer(layer: Any, stride: int, channels: int) -> Any:
    """The part of a network that finds classes, of a Keras layer, with its weights as constants."""
    import keras
    import tensorflow as tf

    from model_build.artifact import Scores
    from model_build.network.upsampling import Interpolation

    layer.build((None, None, None, channels))
    values = [(weight, keras.ops.convert_to_numpy(weight)) for weight in layer.weights]

    def logits(scores: Any) -> Any:
        with keras.StatelessScope([(weight, tf.constant(value)) for weight, value in values]):
            return layer(scores)

    shift = layer.shift if isinstance(layer, Interpolation) else None
    description = SimpleNamespace(scores=Scores(stride, shift))
    return description, SimpleNamespace(logits=logits, channels=channels)


def of_photos(folder: str, rounds: int) -> None:
    """Measures the default model's head on its scores of photos."""
    import tensorflow as tf

    from model_build.artifact import DEFAULT_MODEL
    from pipeline.images.decode import MAX_PIXELS, DecodeOptions, decode
    from pipeline.images.sizes import pad, padded_size
    from pipeline.network.sparse_argmax import unanimous_corners

    network = loaded(DEFAULT_MODEL)
    description, functions = network
    options = DecodeOptions(description.long_side, MAX_PIXELS)
    images = [tf.TensorSpec([1, None, None, 3], tf.uint8)]
    run = tf.compat.v1.wrap_function(functions.scores, images)
    scores = []
    for path in sorted(Path(folder).glob("*.jpg"))[:PHOTOS_PER_WINDOW]:
        pixels = decode(path.read_bytes(), options).pixels
        padded = pad(pixels, padded_size(pixels, description.stride))
        scores.append(run(tf.constant(padded[None])))
    share = np.mean([1 - np.mean(unanimous_corners(one)[1]) for one in scores])
    click.echo(f"default model, {len(scores)} photos: {measured(network, scores, rounds)}")
    click.echo(f"logits are computed in {100 * share:.1f} % of the blocks")


def random_scores(size: tuple[int, int], classes: int, smooth: int) -> np.ndarray:
    """Scores ``[1, h, w, c]``, one in ``smooth`` along each side independent."""
    import tensorflow as tf

    coarse = [max(2, side // smooth) for side in size]
    scores = np.random.default_rng(0).normal(size=(1, *coarse, classes))
    return tf.image.resize(scores, size, "bicubic").numpy()


def measured(network: Any, scores: list[Any], rounds: int) -> str:
    """The time of each way to find classes, for each of some scores on average, as text."""
    import tensorflow as tf

    from pipeline.network.precision import FLOAT32
    from pipeline.network.segmenter import class_finder, graph_function

    functions = network[1]
    signature = tf.TensorSpec([1, None, None, functions.channels])

    def classes(scores: Any) -> list[Any]:
        return [tf.cast(tf.argmax(functions.logits(scores), -1, tf.int32), tf.uint8)]

    def of_size(size: tuple[int, int]) -> tuple[int, int]:
        return size  # each canvas is as large as its image

    ways = {
        "as a job": class_finder(network, signature, "graph", of_size),
        "all logits, compiled": class_finder(network, signature, "xla", of_size),
        "all logits, graph mode": graph_function(classes, [signature], FLOAT32),
    }
    given = [tf.constant(one) for one in scores]
    times: dict[str, list[float]] = {way: [] for way in ways}
    first = 0.0
    for number in range(rounds + 1):
        for way, function in ways.items():
            start = time.process_time()
            for one in given:
                np.asarray(function(one)[0])
                if not number and not first:
                    first = time.process_time() - start
            if number:
                times[way].append(1000 * (time.process_time() - start) / len(given))
    medians = ", ".join(f"{way} {statistics.median(values):.1f}" for way, values in times.items())
    return f"{medians} (first call as a job {first:.2f} s)"


if __name__ == "__main__":
    main()
