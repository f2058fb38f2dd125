"""Compares engines on mixes of image sizes: compilations, memory, speed and agreement.

    python benchmarks/canvases.py invented [--images 10000] [--sizes 500] [--side 500]
    python benchmarks/canvases.py photos PHOTOS [--count 300] [--rounds 5]

``invented`` runs each engine in a separate process on random pixels of many sizes, and prints how
many programs XLA compiled, how many functions TensorFlow traced after the first 1,000 images, and
the peak memory. ``photos`` alternates the engines on real photos and prints medians of images/s and
of core-milliseconds per image; the extra time of the first round, in which XLA compiles; and the
share of pixels with the same class as in graph mode. As in a job, there is one stream per core. The
choice of ``--engine auto`` is based on it.
"""

from __future__ import annotations

import gc
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from classmaps import class_map_of, in_streams, loaded

from model_build.artifact import DEFAULT_MODEL
from pipeline.network import ENGINES
from pipeline.network.threads import usable_cores

# So many images after which memory is looked at. From the first on nothing should be traced.
MARKS = (1000, 3000)
MEMORY = 1e6 if sys.platform == "darwin" else 1e6 / 1024  # units of ru_maxrss in a MB
# With this set, XLA logs each program and its compilation time.
TELL = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "device_compilation_profiler=1"}
COMPILED = re.compile(r"Compiled \S+ \d+ times, compile time: (\d+) us")

model_option = click.option("--model", default=DEFAULT_MODEL)
engine_option = click.option(
    "--engine",
    "engines",
    multiple=True,
    type=click.Choice(ENGINES[1:]),
    default=ENGINES[:0:-1],
    help="Repeatable.",
)


@click.group()
def main() -> None:
    """Measure engines over mixes of sizes."""


@main.command()
@model_option
@engine_option
@click.option("--images", default=10_000, show_default=True)
@click.option("--sizes", default=500, show_default=True)
@click.option("--side", default=500, show_default=True, help="The longest side, in pixels.")
@click.option("--measure", is_flag=True, hidden=True, help="In this process.")
def invented(
    model: str, engines: Sequence[str], images: int, sizes: int, side: int, measure: bool
) -> None:
    """Count what is compiled and kept over many sizes."""
    if measure:
        click.echo(_measured(model, engines[0], images, sizes, side))
        return
    click.echo(f"{images} images of {sizes} sizes up to {side} pixels, {usable_cores()} streams")
    for engine in engines:
        options = ["--images", images, "--sizes", sizes, "--side", side, "--model", model]
        command = [sys.executable, __file__, "invented", "--measure", "--engine", engine, *options]
        child = subprocess.run(
            [*map(str, command)],
            capture_output=True,
            text=True,
            env=os.environ | TELL | {"PYTHONPATH": os.getcwd()},
        )
        if child.returncode:
            raise SystemExit(child.stderr)
        took = [int(microseconds) / 1e6 for microseconds in COMPILED.findall(child.stderr)]
        click.echo(
            f"{engine}: XLA compiled {len(took)} programs in {sum(took):.1f} s; {child.stdout}",
            nl=False,
        )


def _measured(model: str, engine: str, images: int, sizes: int, side: int) -> str:
    segmenter = _segmenter(model, engine, "float32", side)
    import tensorflow as tf

    def traced() -> int:
        held = map(type, gc.get_objects())
        return sum(issubclass(kind, tf.types.experimental.ConcreteFunction) for kind in held)

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEMORY

    rng = np.random.default_rng(0)
    mix = rng.permuted(
        np.resize(rng.integers(side // 8, side + 1, (sizes, 2)), (images, 2)), axis=0
    )
    pixels = rng.integers(0, 255, (side, side, 3), np.uint8)

    seen: dict[int, tuple[int, float]] = {}
    start = time.perf_counter()

    def segment(number: int) -> None:
        height, width = mix[number]
        class_map_of(pixels[:height, :width], segmenter)
        if number + 1 in MARKS or number + 1 == images:
            seen[number + 1] = traced(), peak()

    in_streams(segment, range(images))
    seconds = time.perf_counter() - start
    functions = seen[images][0] - seen[min(seen)][0]
    memory = ", ".join(f"{held:.0f} MB after {count}" for count, (_, held) in sorted(seen.items()))
    return (
        f"{functions} functions traced after {min(seen)} images; peak memory {memory}; "
        f"{images / seconds:.1f} images/s"
    )


@main.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False))
@model_option
@engine_option
@click.option("--precision", default="float32", show_default=True, help="Not of xla.")
@click.option("--count", default=300, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def photos(
    photos: str, model: str, engines: Sequence[str], precision: str, count: int, rounds: int
) -> None:
    """Compare engines on real photos."""
    from pipeline.images.decode import MAX_PIXELS, DecodeOptions, decode

    side = _long_side(model)
    paths = sorted(Path(photos).glob("*.jpg"))
    paths = paths[:: max(1, len(paths) // count)][:count]
    options = DecodeOptions(side, MAX_PIXELS)
    pictures = [decode(path.read_bytes(), options).pixels for path in paths]
    segmenters = {
        engine: _segmenter(model, engine, "float32" if engine == "xla" else precision, side)
        for engine in engines
    }
    found: dict[str, list[np.ndarray]] = {}
    first: dict[str, tuple[float, float]] = {}
    times: dict[str, list[tuple[float, float]]] = {engine: [] for engine in engines}
    for number in range(rounds + 1):
        for engine, segmenter in segmenters.items():
            maps: list[Any] = [None] * len(pictures)

            def segment(index: int, segmenter: Any = segmenter, maps: list[Any] = maps) -> None:
                maps[index] = class_map_of(pictures[index], segmenter)

            took = in_streams(segment, range(len(pictures)))
            if number:
                times[engine].append(took)
            else:  # compiles
                found[engine], first[engine] = maps, took
    click.echo(
        f"{len(pictures)} photos of {len({picture.shape for picture in pictures})} sizes, "
        f"{precision}, medians of {rounds} rounds, {usable_cores()} streams"
    )
    for engine, rows in times.items():
        seconds, cores = (statistics.median(column) for column in zip(*rows, strict=True))
        agree = [
            float((ours == theirs).mean())
            for ours, theirs in zip(found[engine], found[engines[0]], strict=True)
        ]
        click.echo(
            f"{engine}: {len(pictures) / seconds:.1f} images/s, "
            f"{1000 * cores / len(pictures):.1f} core-ms an image; the first round took "
            f"{first[engine][1] - cores:.1f} core-seconds more; {100 * np.mean(agree):.3f} % of "
            f"the pixels as {engines[0]}, least {100 * min(agree):.2f} %"
        )


def _segmenter(model: str, engine: str, precision: str, side: int) -> Any:
    from model_build.common.quiet_imports import import_tensorflow

    import_tensorflow()
    from pipeline.network.segmenter import Segmenter
    from pipeline.network.threads import set_threads

    set_threads()
    return Segmenter(loaded(model), engine, precision=precision, long_side=side)


def _long_side(model: str) -> int:
    from model_build.artifact import describe

    return describe(model).long_side


if __name__ == "__main__":
    main()
