"""Compares recipes for training from a trained network with few photos; prints a Markdown table.

    python benchmarks/few_photos.py DATA --output DIR --held PREFIX [--start MODEL] [--photos 24]

DATA is in PASCAL VOC layout. Of its split ``train``, the photos whose names begin with PREFIX, such
as one film of several, are held out for scoring; of the others, the given number, evenly spread, is
used for training. The split ``val`` is not used. The first variant has 20 epochs of batches of 4,
frozen batch norms and heavier rare classes; the others differ from it as their names say. With
``--backbone-weights`` a new network of the same architecture, on a backbone with these weights, is
trained for comparison. Trainings that are finished under DIR are not repeated.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from pathlib import Path
from typing import Any

import click

# Fields of model_build.training.recipes.Recipe; the variants change one or two of them.
PLAIN: dict[str, Any] = {
    "learning_rate": 1e-3,
    "backbone_rate": 0.1,
    "freeze_batch_norm": True,
    "epochs": 20,
    "batch_size": 4,
    "class_balance": 0.5,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "new layers 1e-3, kept layers 1e-4": {},
    "kept layers 3e-5": {"backbone_rate": 0.03},
    "kept layers 3e-4": {"backbone_rate": 0.3},
    "kept layers 1e-3": {"backbone_rate": 1.0},
    "new layers 3e-3": {"learning_rate": 3e-3, "backbone_rate": 0.1 / 3},
    "batch norms trained": {"freeze_batch_norm": False},
    "10 epochs": {"epochs": 10},
    "40 epochs": {"epochs": 40},
    "all pixels weigh alike": {"class_balance": 0.0},
}
NEW = "a new network"


@click.command()
@click.argument("data")
@click.option("--output", required=True)
@click.option("--held", required=True, metavar="PREFIX")
@click.option("--start", help="[default: the model that comes along]")
@click.option("--photos", default=24, show_default=True)
@click.option("--held-photos", default=40, show_default=True)
@click.option("--backbone-weights", metavar="FILE|imagenet")
@click.option("--only", multiple=True, type=click.Choice([*VARIANTS, NEW]), help="Repeatable.")
def main(
    data: str,
    output: str,
    held: str,
    start: str | None,
    photos: int,
    held_photos: int,
    backbone_weights: str | None,
    only: tuple[str, ...],
) -> None:
    """Train and score."""
    from model_build.common.quiet_imports import import_tensorflow

    import_tensorflow()
    from model_build.artifact import DEFAULT_MODEL, describe
    from model_build.training.recipes import RECIPES
    from model_build.training.start import resolve_start
    from model_build.training.train import Options, train

    start_point = resolve_start(start or DEFAULT_MODEL, {})
    new = dataclasses.replace(start_point.architecture, backbone_weights=backbone_weights or "none")
    folder = divided(Path(data), Path(output), held, photos, held_photos)
    names = only or (*VARIANTS, *([NEW] if backbone_weights else []))
    rows = []
    for name in names:
        recipe = dataclasses.replace(RECIPES["start"], **{**PLAIN, **VARIANTS.get(name, {})})
        result = Path(output) / name.replace(", ", "_").replace(" ", "-")
        if not (result / "model.json").exists():
            clock = time.perf_counter()
            train(
                str(folder),
                str(result),
                recipe=recipe,
                architecture=new,
                start=None if name == NEW else start_point,
                options=Options(splits=("few", "held"), pad_small=True),
            )
            (result / "seconds").write_text(f"{time.perf_counter() - clock:.0f}")
        scores = describe(str(result)).training
        seconds = float((result / "seconds").read_text())
        rows.append(
            f"| {name} | {100 * scores['val_miou']:.1f} | "
            f"{100 * scores['val_pixel_accuracy']:.1f} | {scores['epoch']} of "
            f"{scores['recipe']['epochs']} | {seconds / 60:.1f} |"
        )
    click.echo(
        f"\n{Path(data).name}: {photos} photos of train, from {start_point.name}; scores on "
        f"{held_photos} others, of {held}; {os.cpu_count()} CPUs ({platform.machine()})\n"
    )
    click.echo("| variant | mIoU | pixel accuracy | best epoch | minutes |")
    click.echo("|---|---|---|---|---|")
    click.echo("\n".join(rows))


def divided(data: Path, output: Path, held: str, photos: int, held_photos: int) -> Path:
    """A folder with the same photos and masks, and the splits ``few`` and ``held``."""
    folder = output / "data"
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    for name in ("JPEGImages", "SegmentationClass", "labels.json"):
        if (data / name).exists() and not (folder / name).exists():
            (folder / name).symlink_to((data / name).resolve())
    every = (data / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
    parts = {
        "few": ([name for name in every if not name.startswith(held)], photos),
        "held": ([name for name in every if name.startswith(held)], held_photos),
    }
    for split, (found, count) in parts.items():
        spread = [found[index * len(found) // count] for index in range(min(count, len(found)))]
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in spread))
    return folder


if __name__ == "__main__":
    main()
