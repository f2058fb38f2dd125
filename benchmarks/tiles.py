"""Measures the cost of tiles in accuracy, time and memory.

    python benchmarks/tiles.py PHOTOS [--photos 20] [--megapixels 100] [--tile N]

First the share of pixels that get the same class in tiles as in one piece, at native resolution: of
photos enlarged four times, and of mosaics of photos.
Then `fcn-beam segment --tile` in a separate process on a mosaic of the given number of megapixels,
as JPEG and as TIFF: seconds, and the peak memory of the process.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import numpy as np
from classmaps import class_map_of, loaded
from PIL import Image

Image.MAX_IMAGE_PIXELS = None


@click.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False))
@click.option("--photos", "count", default=20, show_default=True)
@click.option("--megapixels", default=100, show_default=True)
@click.option("--tile", type=int, help="[default: as the job has it]")
def main(photos: str, count: int, megapixels: int, tile: int | None) -> None:
    """Compare tiles with the whole, and measure a large image."""
    paths = sorted(Path(photos).glob("*.jpg"))
    if megapixels:
        for kind, options in (("jpg", {"quality": 90}), ("tif", {"compression": "tiff_lzw"})):
            seconds, peak = large(paths, megapixels, kind, options)
            click.echo(f"{megapixels} megapixels, {kind}: {seconds:.0f} s, peak {peak:.2f} GB")
    if count:
        agreement(paths, count, tile)


def agreement(paths: list[Path], count: int, tile: int | None) -> None:
    """Prints how many pixels get the same class in tiles as in one piece."""
    from model_build.common.quiet_imports import import_tensorflow

    import_tensorflow()
    from model_build.artifact import DEFAULT_MODEL
    from pipeline.network.segmenter import Segmenter
    from pipeline.segmentation.mask_options import tile_side

    network = loaded(DEFAULT_MODEL)
    segmenter = Segmenter(network, tile=tile or tile_side(network.description))
    for name, pictures in (
        ("enlarged 4 times", enlarged(paths, count, 4)),
        ("mosaics of 16", mosaics(paths, max(1, count // 2))),
    ):
        same = [agreeing(segmenter, pixels) for pixels in pictures]
        click.echo(
            f"{name}: {100 * np.mean(same):.2f} % of pixels agree, "
            f"lowest {100 * min(same):.2f} % (of {len(same)})"
        )


def agreeing(segmenter, pixels: np.ndarray) -> float:
    """The share of an image's pixels with one class in tiles and in one piece."""
    tiled, _ = segmenter.tiled(pixels)
    return float((tiled == class_map_of(pixels, segmenter)).mean())


def enlarged(paths: list[Path], count: int, factor: int) -> Iterator[np.ndarray]:
    """Returns evenly spread photos, enlarged by a factor."""
    for path in paths[:: max(1, len(paths) // count)][:count]:
        with Image.open(path) as image:
            size = image.width * factor, image.height * factor
            yield np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))


def mosaics(paths: list[Path], count: int) -> Iterator[np.ndarray]:
    """Sixteen photos each, in four rows."""
    chosen = random.Random(0)
    for _ in range(count):
        yield np.asarray(mosaic(chosen.choices(paths, k=16), 4, 4, (540, 405)))


def mosaic(paths: list[Path], rows: int, columns: int, size: tuple[int, int]) -> Image.Image:
    """Photos side by side, each of that width and height."""
    whole = Image.new("RGB", (columns * size[0], rows * size[1]))
    for index, path in enumerate(paths):
        row, column = divmod(index, columns)
        with Image.open(path) as image:
            whole.paste(image.convert("RGB").resize(size), (column * size[0], row * size[1]))
    return whole


def draw(paths: list[Path], megapixels: int, where: str, options: dict) -> None:
    """Writes a mosaic of photos of about 1000×750 with a given number of pixels."""
    side = round((megapixels * 1e6 / (1000 * 750)) ** 0.5)
    scale = (megapixels * 1e6 / (1000 * 750)) ** 0.5 / side
    chosen = random.Random(0).choices(paths, k=side * side)
    picture = mosaic(chosen, side, side, (round(1000 * scale), round(750 * scale)))
    picture.save(where, **options)


def large(paths: list[Path], megapixels: int, kind: str, options: dict) -> tuple[float, float]:
    """Seconds and peak GB of a job on one image."""
    with tempfile.TemporaryDirectory() as scratch:
        image = f"{scratch}/large.{kind}"
        # Elsewhere, as what this process holds would count as the job's peak.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
            other.submit(draw, paths, megapixels, image, options).result()
        job = ["segment", image, "--output", f"{scratch}/out", "--tile"]
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "pipeline", *job])
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise SystemExit("the job failed")
        return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


if __name__ == "__main__":
    main()
