"""The command ``fcn-beam train``; heavy imports happen when it runs."""

from __future__ import annotations

import os
from typing import Any

import click

from model_build.cli import local_folder
from model_build.common.console import say, visible
from model_build.common.errors import require
from model_build.common.quiet_imports import import_tensorflow


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
    help="Folder for the trained model.",
)
@click.option(
    "--start",
    metavar="MODEL|FILE.weights.h5",
    callback=lambda context, parameter, value: value and local_folder(context, parameter, value),
    help="Start from this saved model, or from Keras weights of the same network.  [default: the "
    "included model, unless an architecture option asks for a new network]",
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
    help="How long to train; 0 scores the start and saves it unchanged.  [default: the recipe's]",
)
@click.option(
    "--batch-size", type=click.IntRange(1), help="Crops per batch.  [default: the recipe's]"
)
@click.option("--accumulate", type=click.IntRange(1), help="Batches to average into one update.")
@click.option(
    "--learning-rate", type=click.FloatRange(0, min_open=True), help="Learning rate of new layers."
)
@click.option(
    "--backbone-rate",
    type=click.FloatRange(0),
    help="Learning rate of pretrained layers, as a share of --learning-rate.",
)
@click.option(
    "--schedule",
    type=click.Choice(["constant", "cosine", "poly"]),
    help="How the learning rate changes.",
)
@click.option(
    "--weight-decay",
    type=click.FloatRange(0),
    help="Weight decay, in proportion to the learning rate.",
)
@click.option(
    "--scales", metavar="LOW-HIGH", callback=_scales, help="Range of the random resizing."
)
@click.option(
    "--class-balance",
    type=click.FloatRange(0, 1),
    help="Extra weight for rare classes: 0 none, 1 in full proportion.",
)
@click.option(
    "--backbone",
    "backbone_name",
    help="Train a new network on this backbone: resnet50, mobilenet_v2, …  [default: resnet50]",
)
@click.option(
    "--backbone-weights",
    metavar="imagenet|none|FILE",
    callback=lambda context, parameter, value: value and os.path.expanduser(value),
    help="Weights that the backbone of a new network starts from.  [default: imagenet]",
)
@click.option(
    "--skips",
    type=click.Choice(["32s", "16s", "8s"]),
    callback=lambda context, parameter, value: value and int(value[:-1]),
    help="FCN-32s, FCN-16s or FCN-8s: 8s has the finest borders.  [default: 32s]",
)
@click.option(
    "--output-stride",
    type=click.Choice(["32", "16", "8"]),
    callback=lambda context, parameter, value: value and int(value),
    help="Below 32 the backbone's last stages are dilated: finer, but slower.  [default: 32]",
)
@click.option(
    "--learn-upsampling/--fixed-upsampling",
    default=None,
    help="Learn the last upsampling, or keep it bilinear.  [default: fixed]",
)
@click.option(
    "--context/--no-context",
    default=None,
    help="Also use features of the whole image everywhere.  [default: no]",
)
@click.option("--freeze-backbone", is_flag=True, help="Do not train the backbone.")
@click.option(
    "--train-split", default="train", show_default=True, metavar="NAME", help="Split to train on."
)
@click.option(
    "--val-split", default="val", show_default=True, metavar="NAME", help="Split to score on."
)
@click.option(
    "--crop",
    default="320x480",
    show_default=True,
    callback=_crop,
    metavar="HxW",
    help="Size of the random crops to train on, in pixels.",
)
@click.option(
    "--pad-small/--drop-small",
    default=None,
    help="Pad or drop images smaller than the crop.  [default: pad when starting from a model, "
    "drop otherwise]",
)
@click.option("--half", is_flag=True, help="Store the weights as float16, in half the size.")
@click.option(
    "--patience",
    type=click.IntRange(1),
    metavar="EPOCHS",
    help="Stop after this many epochs without a better mIoU.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "xla", "graph"]),
    default="auto",
    show_default=True,
    help="How to run the network; auto is xla on a GPU, else graph.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "mixed_float16", "mixed_bfloat16"]),
    default="auto",
    show_default=True,
    help="Number format; auto is mixed_float16 on GPUs that are faster with it, else float32.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of everything random.")
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint in --output.")
def train(
    data: str,
    output: str,
    start: str | None,
    train_split: str,
    val_split: str,
    **given: Any,
) -> None:
    """Train an FCN on DATA, a folder with photos and masks.

    DATA is in PASCAL VOC layout or has the subfolders images and masks. Training starts from the
    included model, or from --start. An architecture option (--backbone, --backbone-weights,
    --skips, --output-stride, --learn-upsampling, --context) or --recipe d2l without --start trains
    a new network on a backbone pretrained on ImageNet.
    """
    require("train", "matplotlib", "tensorboard", purpose="training")
    import_tensorflow()
    from model_build.training.defaults import resolve
    from model_build.training.train import train

    given["splits"] = train_split, val_split
    description = train(data, output, **resolve(given, start), say=say)
    scores = description.training
    absent = scores.get("val_absent")
    say(
        f"{visible(output)}: saved; {scores['val_images']} validation images: pixel accuracy "
        f"{scores['val_pixel_accuracy']:.3f}, mIoU {scores['val_miou']:.3f}"
        + (f"; no true pixel of {', '.join(absent)}" if absent else "")
    )
