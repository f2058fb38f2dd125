"""Measures the cost of a photo besides the network: a job with a null network, then a null sink.

    python benchmarks/stages.py photos/ [--limit 1000] [--rounds 3] [--precision float32]

The null network gives each photo the class map that the real one gave it before, so that its mask
costs what it does in a real job. The null sink writes no masks. Each is run on all photos and on
some, alternating in one process: the difference in time divided by the difference in photos
excludes the fixed cost of a run. Prints core-milliseconds per photo, medians of the rounds; and
photos/s in one stream and with one stream per core, which show how far streams of one process wait
for each other, as for Python's lock. For comparison it prints the same for the network by itself,
on photos decoded beforehand, and the job's steady state: the rate of the masks from the first tenth
to the last.

After many files were deleted, as each run's masks are, a disk may be slow to create files for some
minutes; ``TMPDIR=/dev/shm`` avoids that.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from classmaps import class_map_of, in_streams

from model_build.artifact import DEFAULT_MODEL
from model_build.common.quiet_imports import import_tensorflow

SOME = 10  # a so-many-th of the photos


@click.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False))
@click.option("--model", default=DEFAULT_MODEL)
@click.option("--limit", type=int, help="Only the first so many photos.")
@click.option("--precision", default="auto", show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(photos: str, model: str, limit: int | None, precision: str, rounds: int) -> None:
    """Measure the job's stages on PHOTOS, a folder of JPEGs."""
    logging.disable(logging.WARNING)  # Beam's, of each run
    import_tensorflow()
    from pipeline.network import segmenter
    from pipeline.network.threads import set_threads
    from pipeline.outputs.folder import OutputFolder

    set_threads()
    count = len(list(Path(photos).glob("*.jpg"))[:limit])
    few = count // SOME
    network, write = segmenter.Segmenter, OutputFolder.write
    recording, replaying = recorders(network)
    job = functools.partial(cost, photos, model, precision)
    alone = network_alone(photos, model, precision, count)
    segmenter.Segmenter = recording  # type: ignore[misc]
    job(count)
    variants: dict[str, tuple[Any, Any, int | None]] = {
        "the whole job": (network, write, None),
        "null network": (replaying, write, None),
        "null network, one stream": (replaying, write, 1),
        "null network and sink": (replaying, sink_of(write), None),
    }
    costs = defaultdict(list)
    steady = []
    for _ in range(rounds):
        for name, (net, put, workers) in variants.items():
            segmenter.Segmenter = net
            times, OutputFolder.write = clocked(put)  # type: ignore[method-assign]
            whole = job(count, workers)
            if net is network:
                steady.append(rate(times))
            costs[name].append((whole - job(few, workers)) / (count - few))
        costs["network alone"].append(alone() / count)
    click.echo(
        f"{count} photos, {os.cpu_count()} CPUs ({platform.machine()}), medians of {rounds} "
        "rounds, core-ms a photo"
    )
    for name, values in costs.items():
        spent, wall = np.median(values, axis=0)
        (low, _), (high, _) = 1000 * np.min(values, axis=0), 1000 * np.max(values, axis=0)
        click.echo(
            f"{name:<26}{1000 * spent:6.1f} (from {low:.1f} to {high:.1f}), {1 / wall:.0f} photos/s"
        )
    click.echo(f"the whole job, steady      {np.median(steady):.0f} photos/s")


def cost(
    photos: str, model: str, precision: str, count: int, workers: int | None = None
) -> np.ndarray:
    """Measures core-seconds and seconds of a job on the first ``count`` photos."""
    import pipeline

    with tempfile.TemporaryDirectory() as scratch:
        start = np.array([time.process_time(), time.perf_counter()])
        summary = pipeline.segment(
            photos,
            f"{scratch}/out",
            model=model,
            precision=precision,
            limit=count,
            workers=workers,
        )
        spent = np.array([time.process_time(), time.perf_counter()]) - start
    assert summary.masks == count, f"{summary.masks} masks of {count} photos"
    return spent


def network_alone(photos: str, model: str, precision: str, count: int) -> Callable[[], np.ndarray]:
    """Returns a function that measures the core-seconds and seconds of the network."""
    from pipeline.images.decode import decode
    from pipeline.network.handler import SegmentationHandler
    from pipeline.segmentation.plan import Request, plan

    with tempfile.TemporaryDirectory() as scratch:
        planned = plan(Request([photos], f"{scratch}/out", model=model, precision=precision))
    segmenter = SegmentationHandler(planned.engine, planned.out.files).load_model()
    paths = sorted(Path(photos).glob("*.jpg"))[:count]
    pictures = [decode(path.read_bytes(), planned.decode).pixels for path in paths]

    def run() -> np.ndarray:
        seconds, spent = in_streams(lambda n: class_map_of(pictures[n], segmenter), range(count))
        return np.array([spent, seconds])

    run()  # compiles
    return run


def recorders(network: Any) -> tuple[Any, Any]:
    """A segmenter that keeps what it gives each photo, and one that gives that again."""
    known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def key(images: np.ndarray) -> bytes:
        return str(images.shape).encode() + images[:, ::37, ::41].tobytes()

    class Recording(network):
        def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            known[key(images)] = found = super().__call__(images)
            return found

    class Replaying:
        def __init__(self, network: Any, engine: str, batch_size: int, *others: Any):
            self.stride, self.batch_size = network.description.stride, batch_size
            self.tile = None

        def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return known[key(images)]

    return Recording, Replaying


def clocked(write: Any) -> tuple[list[float], Any]:
    """A ``write`` of an output folder that notes when each mask is written, and its notes."""
    times: list[float] = []

    def put(self: Any, name: str, data: bytes) -> Any:
        stamp = write(self, name, data)
        if name.startswith("masks/"):
            times.append(time.perf_counter())
        return stamp

    return times, put


def rate(times: list[float]) -> float:
    """Masks a second; a line is laid through their times, as a window's come together."""
    tenth = len(times) // 10
    middle = sorted(times)[tenth:-tenth]
    return float(np.polyfit(middle, range(len(middle)), 1)[0])


def sink_of(write: Any) -> Any:
    """A ``write`` of an output folder that writes all but masks."""
    from pipeline.records import Stamp

    def put(self: Any, name: str, data: bytes) -> Any:
        return Stamp(len(data), "") if name.startswith("masks/") else write(self, name, data)

    return put


if __name__ == "__main__":
    main()
