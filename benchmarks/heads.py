"""Core-milliseconds an image of heads alone, in graph mode and by XLA, by classes and size.

    python benchmarks/heads.py [--classes 2,21,40,60,80,100,150] [--sizes 384x512,512x512,1024x1024]
        [--rounds 9]

Heads are those of FCNs: fixed interpolation from stride 16, learned upsampling from strides 8 and
32, with random scores, one thread. The variants alternate; medians are printed, and what XLA took
to compile. Up to how many classes ``--engine auto`` has XLA compile a head rests on them.
"""

from __future__ import annotations

import statistics
import time
import types
from typing import Any

import click
import numpy as np


@click.command()
@click.option("--classes", default="2,21,40,60,80,100,150", show_default=True)
@click.option("--sizes", default="384x512,512x512,1024x1024", show_default=True)
@click.option("--rounds", default=9, show_default=True)
def main(classes: str, sizes: str, rounds: int) -> None:
    """Measure heads."""
    from model_build.network.upsampling import Interpolation, Upsampling
    from pipeline.network.threads import set_threads

    set_threads()
    click.echo(f"core-ms an image, medians of {rounds} rounds, one thread")
    for size in sizes.split(","):
        height, width = map(int, size.split("x"))
        for count in map(int, classes.split(",")):
            heads = {"interpolation from stride 16": (Interpolation(16), 16)}
            if size == sizes.split(",")[0]:
                for stride in (8, 32):
                    learned = Upsampling(count, stride)
                    heads[f"learned upsampling from stride {stride}"] = learned, stride
            for name, (layer, stride) in heads.items():
                shape = (1, height // stride, width // stride, count)
                click.echo(f"{size}, {count} classes, {name}: {measured(layer, shape, rounds)}")


def measured(layer: Any, shape: tuple[int, ...], rounds: int) -> str:
    """What a head takes for scores of a shape."""
    import tensorflow as tf

    from pipeline.network.folding import fold
    from pipeline.network.precision import FLOAT32
    from pipeline.network.segmenter import classes_of, freeze, runner

    scores = tf.constant(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    layer(scores)
    network: Any = types.SimpleNamespace(head=layer)
    signature = tf.TensorSpec([1, None, None, shape[3]])
    head = freeze(classes_of(network), signature)
    graph = runner(fold(head), FLOAT32)
    compiled = tf.function(fold(head, compiled=True), [signature], jit_compile=True)
    times: dict[str, list[float]] = {"graph": [], "xla": []}
    first = time.process_time()
    compiled(scores)
    first = time.process_time() - first
    for number in range(rounds + 1):
        for name, function in (("graph", graph), ("xla", compiled)):
            start = time.process_time()
            np.asarray(function(scores)[0])
            if number:
                times[name].append(1000 * (time.process_time() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return f"graph {medians['graph']:.1f}, xla {medians['xla']:.1f} (compiled in {first:.2f} s)"


if __name__ == "__main__":
    main()
