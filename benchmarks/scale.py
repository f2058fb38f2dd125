"""Cost and memory of the whole job at several numbers of images: both should stay flat.

    python benchmarks/scale.py [--count 1000 --count 10000 --count 100000] [--side 64]

The images are made here: small ones, so that what grows with their number shows beside the network.
Each job is a process of its own. Core-milliseconds an image are free of what a job costs once,
which is that of a job of ten images.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from PIL import Image

FOLDER = 1000  # images a folder
ONCE = 10  # images of the job whose cost is that of any


@click.command()
@click.option("--count", "counts", multiple=True, type=int, default=(1000, 10_000, 100_000))
@click.option("--side", default=64, show_default=True, help="Of the images, in pixels.")
def main(counts: tuple[int, ...], side: int) -> None:
    """Measure jobs of several sizes."""
    click.echo(f"images of {side}×{side}, {os.cpu_count()} CPUs ({platform.machine()})")
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch, "photos")
        make(photos, max(counts), side)
        once = run(photos, Path(scratch, "once"), ONCE)
        for count in counts:
            found = run(photos, Path(scratch, str(count)), count)
            each = (found.core_seconds - once.core_seconds) / (count - ONCE)
            click.echo(
                f"{count:>9,} images: {1000 * each:.2f} core-ms an image, "
                f"{count / found.seconds:.0f} images/s, peak memory {found.peak / 2**30:.2f} GiB"
            )


def make(photos: Path, count: int, side: int) -> None:
    """Writes so many JPEGs, each of other colours, in folders of a thousand."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = photos / f"{index // FOLDER:06d}" / f"{index:09d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(cells).resize((side, side), Image.Resampling.BILINEAR).save(path)


class Run(NamedTuple):
    """What a job took."""

    seconds: float
    core_seconds: float
    peak: int  # bytes


def run(photos: Path, out: Path, count: int) -> Run:
    """Runs the job by its defaults on the first so many images."""
    command = [sys.executable, "-m", "pipeline", "segment", str(photos), "--output", str(out)]
    start = time.perf_counter()
    with subprocess.Popen(
        [*command, "--limit", str(count)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as job:
        assert job.stdout is not None
        job.stdout.read()
        _, status, usage = os.wait4(job.pid, 0)
        job.returncode = os.waitstatus_to_exitcode(status)
    assert job.returncode == 0, f"the job of {count} images ended with status {job.returncode}"
    seconds = time.perf_counter() - start
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


if __name__ == "__main__":
    main()
