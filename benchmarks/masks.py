"""Measures the cost of writing a mask, at sizes from the network's own to 24 megapixels.

    python benchmarks/masks.py PHOTOS [--photos 20] [--rounds 5]

For each size the median of core-milliseconds a mask: to count its pixels and to encode it, as the
job does and by way of Pillow, which gets the enlarged map; and how large the files are. Class maps
are those of the default model.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
from classmaps import class_map_of, loaded
from PIL import Image

from model_build.artifact import DEFAULT_MODEL
from model_build.data.labels import VOC

LONG_SIDES = (500, 800, 1024, 2048, 4032, 6000)


@click.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False))
@click.option("--photos", "count", default=20, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(photos: str, count: int, rounds: int) -> None:
    """Compare two ways to write a mask."""
    class_maps = list(predictions(photos, count))
    for long_side in LONG_SIDES:
        costs: dict[str, list[float]] = {"ours": [], "Pillow": []}
        sizes = {}
        for _ in range(rounds):
            for name, encode in (("ours", ours), ("Pillow", pillow)):
                files, seconds = timed(encode, class_maps, long_side)
                costs[name].append(1000 * seconds / len(class_maps))
                sizes[name] = statistics.mean(files) / 1000
        told = "; ".join(
            f"{name} {statistics.median(costs[name]):.1f} core-ms, {sizes[name]:.1f} kB"
            for name in costs
        )
        click.echo(f"long side {long_side}: {told}")


def predictions(photos: str, count: int) -> Iterator[np.ndarray]:
    """Class maps of the first photos."""
    from pipeline.images.decode import MAX_PIXELS, DecodeOptions, decode
    from pipeline.network.segmenter import Segmenter

    network = loaded(DEFAULT_MODEL)
    segmenter = Segmenter(network)
    options = DecodeOptions(network.description.long_side, MAX_PIXELS)
    for path in sorted(Path(photos).glob("*.jpg"))[:count]:
        yield class_map_of(decode(path.read_bytes(), options).pixels, segmenter)


def timed(
    encode: Callable[[np.ndarray, tuple[int, int]], bytes],
    class_maps: list[np.ndarray],
    long_side: int,
) -> tuple[list[int], float]:
    """Sizes of the files in bytes, and the CPU seconds of all."""
    start = time.process_time()
    sizes = []
    for class_map in class_maps:
        scale = max(1, long_side / max(class_map.shape))
        height, width = (round(scale * length) for length in class_map.shape)
        sizes.append(len(encode(class_map, (height, width))))
    return sizes, time.process_time() - start


def ours(class_map: np.ndarray, size: tuple[int, int]) -> bytes:
    """As the job does it."""
    from pipeline.images.masks import encode_mask, histogram

    histogram(class_map, VOC, size)
    return encode_mask(class_map, VOC, None, size)


def pillow(class_map: np.ndarray, size: tuple[int, int]) -> bytes:
    """By way of the enlarged map."""
    image = Image.fromarray(class_map).resize(size[::-1], Image.Resampling.NEAREST)
    np.bincount(np.asarray(image).ravel(), minlength=len(VOC))
    image.putpalette(VOC.palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
