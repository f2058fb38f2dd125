"""Measures the cost of decoding a photo, and the cost and effect of its colour profile.

    python benchmarks/profiles.py photos/ [--limit 60] [--rounds 12]

Prints two Markdown tables of core-milliseconds a photo from its bytes to its pixels, medians of the
rounds with the lowest and highest in brackets; all ways take turns in one thread. The first is of
the photos as they are, by the decoder of training and the job, and by Pillow, which gives the same
pixels but does not look for damage. For the second the photos are written as JPEG in the colours of
four profiles, each with the profile embedded and, at the same coded pixels, without it: a decoder
that ignores profiles reads both as the latter. The last column is the share of all pixels that the
default model, in float32 and at its own long side, gives another class for want of the profile.
Adobe RGB's profile is the tests', the others are libvips' own.
"""

from __future__ import annotations

import io
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from classmaps import class_map_of, loaded
from PIL import Image, ImageCms

from model_build.artifact import DEFAULT_MODEL
from model_build.common.quiet_imports import import_tensorflow
from model_build.data.decode import decode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where the tests' profile is

from tests.model_build.data.image_files import ADOBE_RGB

QUALITY = 95


@click.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False))
@click.option("--limit", default=60, show_default=True, help="Only the first so many photos.")
@click.option("--rounds", default=12, show_default=True)
def main(photos: str, limit: int, rounds: int) -> None:
    """Measure decoding and the conversion of profiles on PHOTOS, a folder of JPEGs."""
    files = [path.read_bytes() for path in sorted(Path(photos).glob("*.jpg"))[:limit]]
    spaces = {
        name: [written(data, mode, profile) for data in files]
        for name, (mode, profile) in profiles().items()
    }
    ways: dict[str, tuple[Callable[[bytes], np.ndarray], list[bytes]]] = {
        "decoder": (decode, files),
        "Pillow": (by_pillow, files),
    }
    for name, pairs in spaces.items():
        ways[f"{name}, converted"] = (decode, [with_profile for with_profile, _ in pairs])
        ways[f"{name}, ignored"] = (decode, [without for _, without in pairs])
    costs = measured(ways, rounds)
    megapixels = np.mean([decode(data)[..., 0].size for data in files]) / 1e6
    click.echo(
        f"{len(files)} photos of {megapixels:.3f} megapixels on average, {os.cpu_count()} CPUs "
        f"({platform.machine()}), medians of {rounds} rounds\n\n"
        "| from bytes to pixels | core-ms a photo |\n|---|---|"
    )
    for name in ("decoder", "Pillow"):
        click.echo(f"| {name} | {spread(costs[name])} |")
    click.echo(
        "\n| colours of | core-ms a photo, profile ignored | converted | pixels of another class |"
        "\n|---|---|---|---|"
    )
    changed = shares(spaces)
    for name in spaces:
        ignored, converted = (costs[f"{name}, {way}"] for way in ("ignored", "converted"))
        click.echo(
            f"| {name} | {spread(ignored)} | {spread(converted)} | {100 * changed[name]:.2f} % |"
        )


def profiles() -> dict[str, tuple[str, bytes]]:
    """Pillow's mode and the ICC profile of each space of colours."""
    import pyvips

    def of_vips(name: str) -> bytes:
        return bytes(pyvips.Operation.call("profile_load", name))

    return {
        "sRGB": ("RGB", of_vips("srgb")),
        "Adobe RGB": ("RGB", ADOBE_RGB),
        "Display P3": ("RGB", of_vips("p3")),
        "CMYK": ("CMYK", of_vips("cmyk")),
    }


def written(data: bytes, mode: str, profile: bytes) -> tuple[bytes, bytes]:
    """A photo in sRGB as JPEG in a profile's colours, with the profile and without it."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    image = ImageCms.profileToProfile(
        Image.fromarray(decode(data)), ImageCms.createProfile("sRGB"), target, outputMode=mode
    )
    return encoded(image, profile), encoded(image, None)


def encoded(image: Image.Image, profile: bytes | None) -> bytes:
    image.info.clear()  # Pillow leaves the profile there, and would write it
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, icc_profile=profile)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def measured(
    ways: dict[str, tuple[Callable[[bytes], np.ndarray], list[bytes]]], rounds: int
) -> dict[str, list[float]]:
    """Core-milliseconds a photo of each way in each round; a round before them does not count."""
    costs = defaultdict(list)
    for number in range(rounds + 1):
        for name, (read, files) in ways.items():
            start = time.process_time()
            for data in files:
                read(data)
            if number:
                costs[name].append(1000 * (time.process_time() - start) / len(files))
    return costs


def spread(values: list[float]) -> str:
    return f"{np.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def shares(spaces: dict[str, list[tuple[bytes, bytes]]]) -> dict[str, float]:
    """The share of pixels whose class depends on whether the profile is there, by space."""
    import_tensorflow()
    from pipeline.images.decode import MAX_PIXELS, DecodeOptions
    from pipeline.images.decode import decode as scaled
    from pipeline.network.precision import FLOAT32
    from pipeline.network.segmenter import Segmenter

    network = loaded(DEFAULT_MODEL)
    segmenter = Segmenter(network, precision=FLOAT32)
    options = DecodeOptions(network.description.long_side, MAX_PIXELS)

    def share(pairs: list[tuple[bytes, bytes]]) -> float:
        differing = []
        for pair in pairs:
            one, other = (class_map_of(scaled(data, options).pixels, segmenter) for data in pair)
            differing.append((one != other).ravel())
        return float(np.concatenate(differing).mean())

    return {name: share(pairs) for name, pairs in spaces.items()}


if __name__ == "__main__":
    main()
