"""Measures milliseconds per image of networks by engine, precision and batch size.

    python benchmarks/engines.py [--model DIR …] [--engine NAME …] [--precision NAME …]
        [--size 384x512] [--rounds 7]

The variants alternate; medians are printed. The rule behind ``--engine auto`` rests on them.
"""

from __future__ import annotations

import os
import platform
import statistics
import time

import click
import numpy as np
from classmaps import loaded

from model_build.artifact import DEFAULT_MODEL
from pipeline.network import ENGINES

IMAGES = 8  # a round


@click.command()
@click.option("--model", "models", multiple=True, default=[DEFAULT_MODEL], help="Repeatable.")
@click.option(
    "--engine", "engines", multiple=True, type=click.Choice(ENGINES[1:]), default=ENGINES[1:]
)
@click.option(
    "--precision", "precisions", multiple=True, default=["float32"], help="Repeatable; graph only."
)
@click.option("--size", default="384x512", show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--batch-sizes", default="1,8", show_default=True)
def main(
    models: tuple[str, ...],
    engines: tuple[str, ...],
    precisions: tuple[str, ...],
    size: str,
    rounds: int,
    batch_sizes: str,
) -> None:
    """Measure networks and engines."""
    from model_build.common.quiet_imports import import_tensorflow

    import_tensorflow()
    from pipeline.network.segmenter import Segmenter

    height, width = map(int, size.split("x"))
    images = np.random.default_rng(0).integers(0, 255, (IMAGES, height, width, 3), np.uint8)
    networks = {model: loaded(model) for model in models}
    variants = {
        (model, engine, precision, batch): Segmenter(network, engine, batch, precision)
        for model, network in networks.items()
        for engine in engines
        for precision in (["float32"] if engine == "xla" else precisions)
        for batch in map(int, batch_sizes.split(","))
    }
    times: dict[tuple[str, str, str, int], list[float]] = {key: [] for key in variants}
    for round_number in range(rounds + 1):
        for key, segmenter in variants.items():
            start = time.perf_counter()
            for first in range(0, IMAGES, segmenter.batch_size):
                segmenter(images[first : first + segmenter.batch_size])
            if round_number:  # the first round compiles
                times[key].append(1000 * (time.perf_counter() - start) / IMAGES)
    click.echo(
        f"ms an image of {size}, medians of {rounds} rounds, {os.cpu_count()} CPUs "
        f"({platform.machine()})"
    )
    for (model, engine, precision, batch), values in times.items():
        click.echo(
            f"{statistics.median(values):7.1f}  {model}, {engine}, {precision}, batch {batch}"
        )


if __name__ == "__main__":
    main()
