"""The commands ``fcn-beam train`` and ``fcn-beam info``. Nothing heavy is imported up here."""

from __future__ import annotations

import dataclasses
from typing import Any

import click


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
@click.argument("data")
@click.option("--output", required=True, metavar="DIR", help="The saved-model folder to write.")
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
@click.option("--backbone", default="resnet50", show_default=True, help="Or mobilenet_v2, …")
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
    "engine_choice",
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
def train(data: str, recipe: str, backbone: str, **options: Any) -> None:
    """Train an FCN on DATA, a folder in PASCAL VOC layout or of paired images and masks."""
    from model_build.quiet import import_tensorflow

    import_tensorflow()
    from model_build.training import RECIPES, train

    fields = {field.name for field in dataclasses.fields(RECIPES[recipe])} & set(options)
    changes = {field: options.pop(field) for field in fields}
    chosen = dataclasses.replace(
        RECIPES[recipe], **{field: value for field, value in changes.items() if value is not None}
    )
    parts = ("backbone_weights", "skips", "output_stride", "learn_upsampling", "context")
    architecture = {"backbone_name": backbone} | {part: options.pop(part) for part in parts}
    description = train(data, recipe=chosen, architecture=architecture, say=click.echo, **options)
    scores = description.training
    click.echo(
        f"{options['output']}: saved; {scores['val_images']} validation images: pixel accuracy "
        f"{scores['val_pixel_accuracy']:.3f}, mIoU {scores['val_miou']:.3f}"
    )


@click.command()
@click.argument("model")
def info(model: str) -> None:
    """Show what MODEL, a saved-model folder, is; the whole of it is loaded and checked."""
    from model_build.artifact import load
    from model_build.quiet import import_tensorflow

    import_tensorflow()
    description = load(model).description
    normalisation = description.normalisation
    rows: dict[str, Any] = {
        "backbone": description.backbone,
        "stride": description.stride,
        "long side": f"{description.long_side} pixels",
        "parameters": f"{description.parameters:,}",
        "normalisation": f"{normalisation['channels']} × {_short(normalisation['scale'])} "
        f"+ {_short(normalisation['offset'])}",
        "labels": f"{len(description.labels)}: " + ", ".join(description.labels.names),
        **{key.replace("_", " "): _shown(value) for key, value in description.training.items()},
        "fingerprint": description.fingerprint,
    }
    for key, value in rows.items():
        click.echo(f"{key:<20}{value}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_shown(v)}" for key, v in value.items())
    return " × ".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
