"""Compares images/s of the network: one stream with all threads, and single-threaded streams.

    python benchmarks/streams.py [--model DIR] [--size 384x512] [--engine graph] [--rounds 5]

TensorFlow's threads can be set only once in a process, so each variant has its own process; they
measure in turns. Prints medians. They are the reason why a local run has one single-threaded stream
per core.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import threading
import time

import click
import numpy as np
from classmaps import loaded

from model_build.artifact import DEFAULT_MODEL
from pipeline import network
from pipeline.network.threads import usable_cores

IMAGES = 48  # a round
ENGINES = tuple(engine for engine in network.ENGINES if engine != "auto")


@click.command()
@click.option("--model", default=DEFAULT_MODEL)
@click.option("--size", default="384x512", show_default=True)
@click.option("--engine", type=click.Choice(ENGINES), default="graph", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--measure", type=int, hidden=True, help="So many streams, in this process.")
def main(model: str, size: str, engine: str, rounds: int, measure: int | None) -> None:
    """Measure streams."""
    if measure is not None:
        _measure(model, size, engine, measure)
        return
    cores = usable_cores()
    names = {0: "one stream, TensorFlow's own threads"} | {
        count: f"{count} streams of one thread" for count in sorted({1, cores, 2 * cores})
    }
    options = ["--model", model, "--size", size, "--engine", engine, "--measure"]
    children = {
        count: subprocess.Popen(
            [sys.executable, __file__, *options, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
        )
        for count in names
    }
    rates: dict[int, list[float]] = {count: [] for count in names}
    for _ in range(rounds):
        for count, child in children.items():
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("go\n")
            child.stdin.flush()
            rates[count].append(float(child.stdout.readline()))
    for child in children.values():
        child.communicate()
    click.echo(
        f"images/s of {size}, {engine}, medians of {rounds} rounds, {cores} cores "
        f"({platform.machine()})"
    )
    for count, name in names.items():
        click.echo(f"{statistics.median(rates[count]):7.1f}  {name}")


def _measure(model: str, size: str, engine: str, streams: int) -> None:
    from model_build.common.quiet_imports import import_tensorflow

    import_tensorflow()
    from pipeline.network.segmenter import Segmenter
    from pipeline.network.threads import set_threads

    if streams:
        set_threads()
    segmenter = Segmenter(loaded(model), engine)
    height, width = map(int, size.split("x"))
    image = np.random.default_rng(0).integers(0, 255, (1, height, width, 3), np.uint8)
    count = max(1, streams)

    def work() -> None:
        for _ in range(IMAGES // count):
            segmenter(image)

    work()
    for _ in sys.stdin:
        threads = [threading.Thread(target=work) for _ in range(count)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(count * (IMAGES // count) / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
