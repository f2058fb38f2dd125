"""Milliseconds an image of the network alone, by engine and batch size, on random pixels.

    python benchmarks/engines.py [--model DIR] [--size 384x512] [--rounds 7]

The variants alternate; medians are printed. The rule behind ``--engine auto`` rests on them.
"""

from __future__ import annotations

import os
import platform
import statistics
import time

import click
import numpy as np

from pipeline.cli import DEFAULT_MODEL

IMAGES = 8  # a round


@click.command()
@click.option("--model", default=DEFAULT_MODEL)
@click.option("--size", default="384x512", show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--batch-sizes", default="1,8", show_default=True)
def main(model: str, size: str, rounds: int, batch_sizes: str) -> None:
    """Measure the engines."""
    from model_build.artifact import load
    from model_build.quiet import import_tensorflow

    import_tensorflow()
    from pipeline.segmenter import ENGINES, Segmenter

    network = load(model)
    height, width = map(int, size.split("x"))
    images = np.random.default_rng(0).integers(0, 255, (IMAGES, height, width, 3), np.uint8)
    variants = {
        (engine, batch): Segmenter(network, engine, batch)
        for engine in ENGINES
        for batch in map(int, batch_sizes.split(","))
    }
    times: dict[tuple[str, int], list[float]] = {key: [] for key in variants}
    for round_number in range(rounds + 1):
        for (engine, batch), segmenter in variants.items():
            start = time.perf_counter()
            for first in range(0, IMAGES, batch):
                segmenter(images[first : first + batch])
            if round_number:  # the first round compiles
                elapsed = time.perf_counter() - start
                times[engine, batch].append(1000 * elapsed / IMAGES)
    click.echo(
        f"{network.description.backbone}, {size}, {os.cpu_count()} CPUs ({platform.machine()}), "
        f"{rounds} rounds, medians"
    )
    for (engine, batch), values in times.items():
        click.echo(
            f"{engine:<6} ({variants[engine, batch].description}), batch {batch}: "
            f"{statistics.median(values):.1f} ms an image"
        )


if __name__ == "__main__":
    main()
