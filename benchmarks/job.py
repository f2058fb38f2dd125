"""Images/s of the whole job beside those of the bare compiled network, on the same photos.

    python benchmarks/job.py photos/ [--model DIR] [--rounds 3] [--workers 1 --workers 2]

The job is timed as users run it, in a process of its own with all start-up, and the network on
images decoded and padded beforehand, after one pass over every shape. The two alternate; medians
are printed.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from pipeline.cli import DEFAULT_MODEL, MAX_PIXELS


@click.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False))
@click.option("--model", default=DEFAULT_MODEL)
@click.option("--rounds", default=3, show_default=True)
@click.option("--limit", type=int, help="Only the first so many photos.")
@click.option("--workers", multiple=True, type=int, default=(1,), show_default=True)
def main(photos: str, model: str, rounds: int, limit: int | None, workers: tuple[int, ...]) -> None:
    """Measure the job and the bare network on PHOTOS."""
    from model_build.artifact import load
    from model_build.quiet import import_tensorflow
    from pipeline.images import decode
    from pipeline.listing import ImageRef, Source, list_source
    from pipeline.segmenter import Segmenter
    from pipeline.shapes import bucket, pad

    import_tensorflow()
    network = load(model)
    segmenter = Segmenter(network)
    root = os.path.abspath(photos)
    listed = list_source(Source("folder", root, root), root)
    paths = [found.path for found in listed if isinstance(found, ImageRef)][:limit]
    images = []
    for path in paths:
        pixels = decode(
            Path(path).read_bytes(),
            long_side=network.description.long_side,
            max_pixels=MAX_PIXELS,
        ).pixels
        images.append(pad(pixels, bucket(pixels, segmenter.stride))[None])
    shapes = {image.shape: image for image in images}
    for image in shapes.values():
        segmenter(image)

    bare: list[float] = []
    jobs: dict[int, list[float]] = {count: [] for count in workers}
    for _ in range(rounds):
        start = time.perf_counter()
        for image in images:
            segmenter(image)
        bare.append(len(images) / (time.perf_counter() - start))
        for count, rates in jobs.items():
            with tempfile.TemporaryDirectory() as out:
                command = [sys.executable, "-m", "pipeline", "segment", root, "--output", out]
                options = ["--model", model, "--workers", str(count), "--limit", str(len(images))]
                start = time.perf_counter()
                subprocess.run([*command, *options], check=True, capture_output=True)
                rates.append(len(images) / (time.perf_counter() - start))
    click.echo(
        f"{len(images)} photos in {len(shapes)} padded shapes, {os.cpu_count()} CPUs "
        f"({platform.machine()}), {rounds} rounds, medians of images/s"
    )
    _report(f"network alone ({segmenter.description})", bare)
    for count, rates in jobs.items():
        _report(f"whole job, start-up included, --workers {count}", rates)


def _report(name: str, rates: list[float]) -> None:
    click.echo(
        f"{name}: {statistics.median(rates):.1f} (from {min(rates):.1f} to {max(rates):.1f})"
    )


if __name__ == "__main__":
    main()
