"""Accuracy and time an image of several architectures, trained alike; prints a Markdown table.

    python benchmarks/architectures.py DATA --output DIR --backbone-weights FILE [--epochs 6]

Each architecture is trained into a folder of its own under DIR, as ``fcn-beam train`` does; what
is finished there is not trained again. Scores are those of the validation split; the times are
of the trained networks alone, alternating, medians, with ``--engine graph``.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from classmaps import loaded

# Fields of model_build.network.fcn.Architecture and of model_build.training.recipes.Recipe.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "FCN-32s": {},
    "FCN-32s, learned upsampling": {"learn_upsampling": True},
    "FCN-32s, grids not aligned": {},
    "FCN-32s, all pixels weigh alike": {"class_balance": 0.0},
    "FCN-16s": {"skips": 16},
    "FCN-8s": {"skips": 8},
    "output stride 16": {"output_stride": 16},
    "output stride 16, FCN-8s": {"output_stride": 16, "skips": 8},
    "output stride 16, FCN-8s, context": {"output_stride": 16, "skips": 8, "context": True},
    "output stride 8": {"output_stride": 8},
}
NOT_ALIGNED = "FCN-32s, grids not aligned"


@click.command()
@click.argument("data")
@click.option("--output", required=True)
@click.option("--backbone", default="mobilenet_v2", show_default=True)
@click.option("--backbone-weights", default="imagenet", show_default=True)
@click.option("--epochs", default=6, show_default=True)
@click.option("--crop", default="352x480", show_default=True)
@click.option(
    "--only", multiple=True, type=click.Choice(list(ARCHITECTURES)), help="Not all; repeatable."
)
@click.option("--rounds", default=7, show_default=True)
def main(
    data: str,
    output: str,
    backbone: str,
    backbone_weights: str,
    epochs: int,
    crop: str,
    only: tuple[str, ...],
    rounds: int,
) -> None:
    """Train and measure."""
    from model_build.common.quiet_imports import import_tensorflow

    import_tensorflow()
    from model_build.network import strides
    from model_build.network.fcn import Architecture
    from model_build.training.recipes import RECIPES, Recipe
    from model_build.training.train import Options, train
    from pipeline.network.segmenter import Segmenter

    of_recipe = {field.name for field in dataclasses.fields(Recipe)}
    height, width = map(int, crop.split("x"))
    centers = strides.grid_centers
    folders = {}
    for name in only or ARCHITECTURES:
        folder = Path(output) / name.replace(", ", "_").replace(" ", "-")
        folders[name] = folder
        if (folder / "model.json").exists():
            continue
        strides.grid_centers = _tiled if name == NOT_ALIGNED else centers
        options = ARCHITECTURES[name]
        changes = {key: value for key, value in options.items() if key in of_recipe}
        architecture = {key: value for key, value in options.items() if key not in of_recipe}
        train(
            data,
            str(folder),
            recipe=dataclasses.replace(RECIPES["default"], epochs=epochs, **changes),
            architecture=Architecture(backbone, backbone_weights, **architecture),
            options=Options(
                crop=(height, width), pad_small=True, resume=(folder / "checkpoints").exists()
            ),
        )
    strides.grid_centers = centers

    networks = {name: loaded(str(folder)) for name, folder in folders.items()}
    segmenters = {name: Segmenter(network) for name, network in networks.items()}
    images = np.random.default_rng(0).integers(0, 255, (4, 1, height, width, 3), np.uint8)
    times: dict[str, list[float]] = {name: [] for name in segmenters}
    for round_number in range(rounds + 1):
        for name, segmenter in segmenters.items():
            start = time.perf_counter()
            for image in images:
                segmenter(image)
            if round_number:  # the first round compiles
                times[name].append(1000 * (time.perf_counter() - start) / len(images))

    click.echo(
        f"\n{Path(data).name}, {backbone} from {Path(backbone_weights).name}, {epochs} epochs, "
        f"crop {crop}; {os.cpu_count()} CPUs ({platform.machine()}), {rounds} rounds\n"
    )
    click.echo("| architecture | parameters | val mIoU | val pixel accuracy | ms an image |")
    click.echo("|---|---|---|---|---|")
    for name, network in networks.items():
        scores = network.description.training
        click.echo(
            f"| {name} | {network.description.parameters / 1e6:.2f} M | "
            f"{100 * scores['val_miou']:.1f} | {100 * scores['val_pixel_accuracy']:.1f} | "
            f"{statistics.median(times[name]):.1f} |"
        )


def _tiled(model: Any) -> dict[str, float]:
    """The centres that cells would have if each stood for its own tile of pixels."""
    from model_build.network import strides

    return {name: (strides.PROBE / size[0] - 1) / 2 for name, size in strides._sizes(model).items()}


if __name__ == "__main__":
    main()
