"""The command ``fcn-beam train``. Nothing heavy is imported up here."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from model_build.cli import local_folder
from model_build.errors import require
from model_build.quiet import import_tensorflow


def _crop(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in value.lower().split("x"))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not HEIGHTxWIDTH, such as 320x480") from None
    return height, width


def _scales(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[float, float] | None:
    if value is None:
        return None
    try:
        low, high = (float(scale) for scale in value.split("-"))
        if 0 < low <= high < float("inf"):
            return low, high
    except ValueError:
        pass
    raise click.BadParameter(f"{value!r} is not LOW-HIGH, such as 0.75-1.5")


@click.command()
@click.argument("data", callback=local_folder)
@click.option(
    "--output",
    required=True,
    metavar="DIR",
    callback=local_folder,
    help="The saved-model folder to write.",
)
@click.option(
    "--recipe",
    type=click.Choice(["default", "d2l"]),
    default="default",
    show_default=True,
    help="default: AdamW, warm-up and cosine decay, flips and scale jitter. "
    "d2l: plain SGD as in Dive into Deep Learning.",
)
@click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's.")
@click.option("--batch-size", type=click.IntRange(1), help="Instead of the recipe's.")
@click.option("--accumulate", type=click.IntRange(1), help="Batches averaged into one update.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Of new layers.")
@click.option(
    "--backbone-rate", type=click.FloatRange(0), help="Factor on it for pretrained layers."
)
@click.option("--schedule", type=click.Choice(["constant", "cosine", "poly"]), help="Of the rate.")
@click.option("--weight-decay", type=click.FloatRange(0), help="Times the rate.")
@click.option("--scales", metavar="LOW-HIGH", callback=_scales, help="Of the random resizing.")
@click.option(
    "--class-balance",
    type=click.FloatRange(0, 1),
    help="How much more pixels of rare classes weigh: 0 not at all, 1 in proportion.",
)
@click.option(
    "--backbone",
    "backbone_name",
    default="resnet50",
    show_default=True,
    help="Or mobilenet_v2, …",
)
@click.option(
    "--backbone-weights", default="imagenet", show_default=True, metavar="imagenet|none|FILE"
)
@click.option(
    "--skips",
    type=click.Choice(["32s", "16s", "8s"]),
    default="32s",
    show_default=True,
    callback=lambda context, parameter, value: int(value[:-1]),
    help="FCN-32s, or one that also scores finer features.",
)
@click.option(
    "--output-stride",
    type=click.Choice(["32", "16", "8"]),
    default="32",
    show_default=True,
    callback=lambda context, parameter, value: int(value),
    help="Below 32 the backbone's last stages dilate: finer, dearer.",
)
@click.option(
    "--learn-upsampling/--fixed-upsampling",
    default=False,
    help="Whether the last upsampling is learned.  [default: fixed, bilinear]",
)
@click.option("--context", is_flag=True, help="Score each place together with the whole image.")
@click.option("--freeze-backbone", is_flag=True, help="Train the new layers only.")
@click.option("--train-split", default="train", show_default=True)
@click.option("--val-split", default="val", show_default=True)
@click.option("--crop", default="320x480", show_default=True, callback=_crop, metavar="HxW")
@click.option("--pad-small", is_flag=True, help="Pad images smaller than the crop; default: drop.")
@click.option("--half", is_flag=True, help="Store the kernels as float16: half the size.")
@click.option(
    "--patience",
    type=click.IntRange(1),
    metavar="EPOCHS",
    help="Stop after so many epochs without a better mIoU.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "xla", "graph"]),
    default="auto",
    show_default=True,
    help="auto: XLA on a GPU.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "mixed_float16", "mixed_bfloat16"]),
    default="auto",
    show_default=True,
    help="auto: mixed_float16 on GPUs that gain by it.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --output.")
def train(
    data: str, output: str, recipe: str, train_split: str, val_split: str, **given: Any
) -> None:
    """Train an FCN on DATA, a folder in PASCAL VOC layout or of paired images and masks."""
    require("train", "matplotlib", "tensorboard", purpose="training")
    import_tensorflow()
    from model_build.network.fcn import Architecture
    from model_build.training.loop import Options, train
    from model_build.training.recipes import RECIPES, Recipe

    def options_of(kind: Any) -> dict[str, Any]:
        named = {field.name: given.get(field.name) for field in dataclasses.fields(kind)}
        return {name: value for name, value in named.items() if value is not None}

    description = train(
        data,
        output,
        recipe=dataclasses.replace(RECIPES[recipe], **options_of(Recipe)),
        architecture=Architecture(**options_of(Architecture)),
        options=Options(splits=(train_split, val_split), **options_of(Options)),
        say=click.echo,
    )
    scores = description.training
    click.echo(
        f"{output}: saved; {scores['val_images']} validation images: pixel accuracy "
        f"{scores['val_pixel_accuracy']:.3f}, mIoU {scores['val_miou']:.3f}"
    )
