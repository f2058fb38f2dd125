"""Core-milliseconds an image of heads alone, in graph mode and by XLA, by classes and size.

    python benchmarks/heads.py [--classes 2,21,40,60,80,100,150] [--sizes 384x512,512x512,1024x1024]
        [--photos photos/] [--rounds 9]

Heads are those of FCNs: fixed interpolation from stride 16, learned upsampling from strides 8 and
32, one thread. Scores are random and smooth, as those of a photo. Interpolation is measured on
noise as well, the worst case: all logits are computed, as no two cells agree. The variants
alternate; medians are printed, and what XLA took to compile. That ``--engine auto`` has XLA compile
heads on a CPU rests on them. With photos, the default model's head is measured on its scores of the
first 60, and the share of blocks whose logits are computed is printed.
"""

from __future__ import annotations

import statistics
import time
import types
from pathlib import Path
from typing import Any

import click
import numpy as np

PHOTOS = 60


@click.command()
@click.option("--classes", default="2,21,40,60,80,100,150", show_default=True)
@click.option("--sizes", default="384x512,512x512,1024x1024", show_default=True)
@click.option("--photos", type=click.Path(exists=True, file_okay=False), help="A folder of JPEGs.")
@click.option("--rounds", default=9, show_default=True)
def main(classes: str, sizes: str, photos: str | None, rounds: int) -> None:
    """Measure heads."""
    from model_build.quiet import import_tensorflow

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
            # One cell in so many is a number of its own, what lies between is interpolated.
            heads = {
                "interpolation from stride 16": (Interpolation(16), 16, 4),
                "the same of noise": (Interpolation(16), 16, 1),
            }
            if size == sizes.split(",")[0]:
                for stride in (8, 32):
                    learned = Upsampling(count, stride)
                    heads[f"learned upsampling from stride {stride}"] = learned, stride, 4
            for name, (layer, stride, smooth) in heads.items():
                scores = random_scores((height // stride, width // stride), count, smooth)
                click.echo(f"{size}, {count} classes, {name}: {measured(layer, [scores], rounds)}")


def of_photos(folder: str, rounds: int) -> None:
    """Measures the default model's head on its scores of photos."""
    import tensorflow as tf

    from model_build.artifact import DEFAULT_MODEL, load
    from pipeline.images.decode import MAX_PIXELS, DecodeOptions, decode
    from pipeline.images.sizes import bucket, pad
    from pipeline.network.cells import leads_between
    from pipeline.network.folding import fold
    from pipeline.network.segmenter import freeze, scores_of

    network = load(DEFAULT_MODEL)
    options = DecodeOptions(network.description.long_side, MAX_PIXELS)
    images = tf.TensorSpec([1, None, None, 3], tf.uint8)
    body = fold(freeze(scores_of(network), images), network.description.stride)
    scores = []
    for path in sorted(Path(folder).glob("*.jpg"))[:PHOTOS]:
        pixels = decode(path.read_bytes(), options).pixels
        padded = pad(pixels, bucket(pixels, network.description.stride))
        scores.append(body(tf.constant(padded[None]))[0])
    share = np.mean([1 - np.mean(leads_between(one)[1]) for one in scores])
    click.echo(f"default model, {len(scores)} photos: {measured(network.head, scores, rounds)}")
    click.echo(f"logits are computed in {100 * share:.1f} % of the blocks")


def random_scores(size: tuple[int, int], classes: int, smooth: int) -> np.ndarray:
    """Scores ``[1, h, w, c]`` of which one in so many along each side is independent."""
    import tensorflow as tf

    coarse = [max(2, side // smooth) for side in size]
    scores = np.random.default_rng(0).normal(size=(1, *coarse, classes))
    return tf.image.resize(scores, size, "bicubic").numpy()


def measured(head: Any, scores: list[Any], rounds: int) -> str:
    """What a head takes for each of some scores on average, as text."""
    import tensorflow as tf

    from pipeline.network.segmenter import classes_of, classifier, freeze

    given = [tf.constant(one) for one in scores]
    head(given[0])
    network: Any = types.SimpleNamespace(head=head)
    signature = tf.TensorSpec([1, None, None, given[0].shape[3]])
    frozen = freeze(classes_of(network), signature)
    run = {
        # Each canvas is as large as its image.
        engine: classifier(frozen, engine, lambda size: size, lambda: 1)
        for engine in ("graph", "xla-head")
    }
    times: dict[str, list[float]] = {engine: [] for engine in run}
    run["graph"](given[0])
    first = time.process_time()
    run["xla-head"](given[0])
    first = time.process_time() - first
    for number in range(rounds + 1):
        for engine, function in run.items():
            start = time.process_time()
            for one in given:
                np.asarray(function(one)[0])
            if number:
                times[engine].append(1000 * (time.process_time() - start) / len(given))
    medians = {engine: statistics.median(values) for engine, values in times.items()}
    told = ", ".join(f"{engine} {milliseconds:.1f}" for engine, milliseconds in medians.items())
    return f"{told} (first call by XLA {first:.2f} s)"


if __name__ == "__main__":
    main()
