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
    "--start",
    metavar="MODEL|FILE.weights.h5",
    callback=lambda context, parameter, value: value and local_folder(context, parameter, value),
    help="Start from this saved model, or from Keras weights of the same network.  [default: the "
    "default model, unless an architecture option asks for a new network]",
)
@click.option(
    "--recipe",
    type=click.Choice(["default", "d2l"]),
    default="default",
    show_default=True,
    help="default: AdamW, warm-up and cosine decay, flips and scale jitter; gentler when "
    "starting from a model. d2l: plain SGD, as in Dive into Deep Learning.",
)
@click.option(
    "--epochs",
    type=click.IntRange(0),
    help="Instead of the recipe's. 0 saves the start as it is, with its scores.",
)
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
    help="A new network on this backbone: resnet50, mobilenet_v2, …  [default: resnet50]",
)
@click.option(
    "--backbone-weights",
    metavar="imagenet|none|FILE",
    help="Of a new network.  [default: imagenet]",
)
@click.option(
    "--skips",
    type=click.Choice(["32s", "16s", "8s"]),
    callback=lambda context, parameter, value: value and int(value[:-1]),
    help="FCN-32s, or one that also scores finer features.  [default: 32s]",
)
@click.option(
    "--output-stride",
    type=click.Choice(["32", "16", "8"]),
    callback=lambda context, parameter, value: value and int(value),
    help="Below 32 the backbone's last stages dilate: finer, but slower.  [default: 32]",
)
@click.option(
    "--learn-upsampling/--fixed-upsampling",
    default=None,
    help="Whether the last upsampling is learned.  [default: fixed, bilinear]",
)
@click.option(
    "--context/--no-context",
    default=None,
    help="Whether each place is scored together with the whole image.  [default: no]",
)
@click.option("--freeze-backbone", is_flag=True, help="Leave the backbone as it is.")
@click.option("--train-split", default="train", show_default=True)
@click.option("--val-split", default="val", show_default=True)
@click.option("--crop", default="320x480", show_default=True, callback=_crop, metavar="HxW")
@click.option(
    "--pad-small/--drop-small",
    default=None,
    help="Pad or drop images smaller than the crop.  [default: pad when starting from a model, "
    "drop otherwise]",
)
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
    data: str,
    output: str,
    start: str | None,
    recipe: str,
    train_split: str,
    val_split: str,
    **given: Any,
) -> None:
    """Train an FCN on DATA, a folder in PASCAL VOC layout or of paired images and masks.

    Training starts from the default model, or from --start. An architecture option (--backbone,
    --backbone-weights, --skips, --output-stride, --learn-upsampling, --context) or --recipe d2l
    without --start means a new network on a backbone trained on ImageNet.
    """
    require("train", "matplotlib", "tensorboard", purpose="training")
    import_tensorflow()
    from model_build.artifact import DEFAULT_MODEL
    from model_build.network.fcn import Architecture
    from model_build.training.loop import Options, train
    from model_build.training.recipes import RECIPES, Recipe
    from model_build.training.start import starting

    def options_of(kind: Any) -> dict[str, Any]:
        named = {field.name: given.get(field.name) for field in dataclasses.fields(kind)}
        return {name: value for name, value in named.items() if value is not None}

    architecture = options_of(Architecture)
    if start is None and not architecture and recipe != "d2l":
        start = DEFAULT_MODEL
    begun = starting(start, architecture) if start else None
    if begun:
        recipe = "start" if recipe == "default" else recipe
        if given["pad_small"] is None:
            given["pad_small"] = True
    description = train(
        data,
        output,
        recipe=dataclasses.replace(RECIPES[recipe], **options_of(Recipe)),
        architecture=Architecture(**{"backbone_weights": "imagenet", **architecture}),
        start=begun,
        options=Options(splits=(train_split, val_split), **options_of(Options)),
        say=click.echo,
    )
    scores = description.training
    click.echo(
        f"{output}: saved; {scores['val_images']} validation images: pixel accuracy "
        f"{scores['val_pixel_accuracy']:.3f}, mIoU {scores['val_miou']:.3f}"
    )
