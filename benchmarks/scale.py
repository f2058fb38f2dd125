"""Cost and memory of the whole job at several numbers and sizes of images.

    python benchmarks/scale.py [--count 1000 --count 10000 --count 100000]
    python benchmarks/scale.py --photos photos/ --side 6000 --count 200

The images are made here. Small ones of random colours: what grows with their number shows beside
the network, and should stay flat. Or photos that are enlarged to what cameras make. Each job is a
process of its own. Core-milliseconds an image are free of what a job costs once, which is that of a
job of one image.
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


@click.command()
@click.option("--count", "counts", multiple=True, type=int, default=(1000, 10_000, 100_000))
@click.option("--side", default=64, show_default=True, help="The longer one, in pixels.")
@click.option("--photos", type=click.Path(exists=True, file_okay=False), help="A folder of JPEGs.")
def main(counts: tuple[int, ...], side: int, photos: str | None) -> None:
    """Measure jobs of several sizes."""
    what = f"{photos} at" if photos else "images of"
    click.echo(f"{what} {side} pixels, {os.cpu_count()} CPUs ({platform.machine()})")
    with tempfile.TemporaryDirectory() as scratch:
        pictures = sorted(Path(photos).glob("*.jpg")) if photos else []
        once = run(made(Path(scratch, "one"), 1, side, pictures))
        for count in counts:
            found = run(made(Path(scratch, str(count)), count, side, pictures))
            each = (found.core_seconds - once.core_seconds) / (count - 1)
            click.echo(
                f"{count:>9,} images: {1000 * each:.2f} core-ms an image, "
                f"{count / found.seconds:.0f} images/s, peak memory {found.peak / 1e9:.2f} GB"
            )


def made(archive: Path, count: int, side: int, photos: list[Path]) -> Path:
    """Writes JPEGs in folders of a thousand: copies of photos, or each in its own colours."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = archive / f"{index // FOLDER:06d}" / f"{index:09d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if photos:
            image = Image.open(photos[index % len(photos)])
        else:
            image = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        scale = side / max(image.size)
        size = round(image.width * scale), round(image.height * scale)
        image.resize(size, Image.Resampling.BICUBIC).save(path)
    return archive


class Run(NamedTuple):
    """The resources a job used."""

    seconds: float
    core_seconds: float
    peak: int  # bytes


def run(archive: Path) -> Run:
    """Runs the job by its defaults."""
    command = [sys.executable, "-m", "pipeline", "segment", archive, "--output", f"{archive}-out"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as job:
        assert job.stdout is not None
        job.stdout.read()
        _, status, usage = os.wait4(job.pid, 0)
        job.returncode = os.waitstatus_to_exitcode(status)
    assert job.returncode == 0, f"{archive}: the job ended with status {job.returncode}"
    seconds = time.perf_counter() - start
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


if __name__ == "__main__":
    main()
