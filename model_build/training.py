"""Trains an FCN: recipes, losses and metrics, checkpoints."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from model_build import artifact, voc
from model_build.backbones import STRIDE
from model_build.errors import UserError, first_line
from model_build.fcn import BACKBONE, LOGITS, fcn
from model_build.labels import VOID


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        optimizer: ``"sgd"`` or ``"adamw"``.
        learning_rate: of the new layers, per step on the mean loss.
        backbone_rate: factor on it for the pretrained backbone and for the upsampling, which
            starts as a good interpolation and not from noise; AdamW only.
        weight_decay: decoupled, times the learning rate.
        schedule: ``"constant"``, or ``"cosine"`` after a linear warm-up of 5 % of the steps.
        epochs: passes over the training split.
        batch_size: crops a step.
        freeze_batch_norm: keep the backbone's statistics, where batches are too small to estimate.
        scales: range of the random resizing before the crop.
        flip: mirror half of the crops.
    """

    optimizer: str
    learning_rate: float
    backbone_rate: float
    weight_decay: float
    schedule: str
    epochs: int
    batch_size: int
    freeze_batch_norm: bool
    scales: tuple[float, float]
    flip: bool


RECIPES = {
    "default": Recipe("adamw", 1e-3, 0.1, 1e-2, "cosine", 12, 8, True, (0.75, 1.5), True),
    # Dive into Deep Learning, "Fully Convolutional Networks".
    "d2l": Recipe("sgd", 1e-3, 1.0, 1e-3, "constant", 5, 32, False, (1.0, 1.0), False),
}


@keras.saving.register_keras_serializable("fcn_beam")
class PixelAccuracy(keras.metrics.MeanIoU):
    """Share of the non-void pixels whose class is right."""

    def result(self):
        matrix = keras.ops.cast(self.total_cm, "float32")
        return keras.ops.divide_no_nan(keras.ops.trace(matrix), keras.ops.sum(matrix))


@keras.saving.register_keras_serializable("fcn_beam")
class AdamW(keras.optimizers.AdamW):
    """``keras.optimizers.AdamW`` with a smaller step for the layers that do not start from noise.

    Args:
        slow: names of the layers that learn at ``slow_rate`` times the learning rate.
    """

    def __init__(self, *args, slow: tuple[str, ...] = (), slow_rate: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.slow, self.slow_rate = tuple(slow), slow_rate

    def update_step(self, gradient, variable, learning_rate):
        # The backend's variable has lost its path; the optimizer's list of them has it.
        path = self._trainable_variables[self._get_variable_index(variable)].path
        slow = path.split("/")[0] in self.slow
        rate = learning_rate * self.slow_rate if slow else learning_rate
        super().update_step(gradient, variable, rate)

    def get_config(self):
        return {**super().get_config(), "slow": self.slow, "slow_rate": self.slow_rate}


def compile_model(
    model: keras.Model, recipe: Recipe, steps: int, freeze_backbone: bool = False
) -> None:
    """Compiles a network from :func:`model_build.fcn.fcn` in place.

    The loss is per-pixel cross-entropy on logits, averaged over the pixels that are not void.

    Args:
        steps: optimizer steps an epoch, for the schedule.
    """
    features = model.get_layer(BACKBONE)
    features.trainable = not freeze_backbone
    for layer in features.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = not (freeze_backbone or recipe.freeze_batch_norm)
    rate: Any = recipe.learning_rate
    if recipe.schedule == "cosine":
        total = steps * recipe.epochs
        warmup = max(1, total // 20)
        rate = keras.optimizers.schedules.CosineDecay(
            rate / 100, max(1, total - warmup), warmup_target=rate, warmup_steps=warmup
        )
    if recipe.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, weight_decay=recipe.weight_decay)
    else:
        slow = (*(layer.name for layer in features.layers if layer.weights), LOGITS)
        optimizer = AdamW(
            rate, weight_decay=recipe.weight_decay, slow=slow, slow_rate=recipe.backbone_rate
        )
    classes = model.output.shape[-1]
    score = {"num_classes": classes, "ignore_class": VOID, "sparse_y_pred": False}
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=VOID),
        metrics=[
            PixelAccuracy(**score, name="accuracy"),
            keras.metrics.MeanIoU(**score, name="miou"),
        ],
        jit_compile=False,  # XLA on a CPU is ten times slower on depthwise convolutions
    )


CHECKPOINT = re.compile(r"epoch-(\d+)\.keras")


def latest_checkpoint(output: Path) -> tuple[Path, int] | None:
    """The newest checkpoint and the number of epochs it has behind it, or None."""
    found = [
        (int(match[1]), path)
        for path in (output / "checkpoints").glob("epoch-*.keras")
        if (match := CHECKPOINT.fullmatch(path.name))
    ]
    return (max(found)[1], max(found)[0]) if found else None


def save_checkpoint(model: keras.Model, output: Path, epochs: int) -> Path:
    """Writes network and optimizer as ``checkpoints/epoch-NNN.keras``, whole or not at all.

    Older checkpoints are removed once the new one is in place.
    """
    folder = output / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epoch-{epochs:03d}.keras"
    scratch = folder / "unfinished.keras"
    model.save(scratch)
    os.replace(scratch, path)
    for old in folder.glob("epoch-*.keras"):
        if old != path:
            old.unlink()
    return path


class _EpochEnd(keras.callbacks.Callback):
    """After each epoch: a checkpoint, then a row of ``history.csv``."""

    def __init__(self, output: Path, done: int):
        super().__init__()
        self.output, self.done = output, done
        self.rows = _read_history(output)[:done]

    def on_epoch_end(self, epoch, logs=None):
        self.done = epoch + 1
        save_checkpoint(self.model, self.output, self.done)
        row = {"epoch": self.done} | {key: f"{value:.6g}" for key, value in (logs or {}).items()}
        self.rows.append(row)
        with open(self.output / "history.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows(self.rows)


def _read_history(output: Path) -> list[dict[str, Any]]:
    try:
        with open(output / "history.csv", newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def train(
    data: str,
    output: str,
    *,
    recipe: Recipe = RECIPES["default"],
    backbone_name: str = "resnet50",
    backbone_weights: str = "imagenet",
    freeze_backbone: bool = False,
    train_split: str = "train",
    val_split: str = "val",
    crop: tuple[int, int] = (320, 480),
    pad_small: bool = False,
    half: bool = False,
    seed: int = 0,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> artifact.Description:
    """Trains on a VOC-layout folder and writes a saved-model folder.

    Args:
        data: see :mod:`model_build.voc`.
        output: the saved-model folder; also gets ``history.csv`` and ``checkpoints/``.
        crop: (height, width) of the training crops in pixels, multiples of 32.
        pad_small: pad images smaller than the crop instead of dropping them.
        half: store the kernels as float16; the scores reported are those of the rounded network.
        resume: go on from the last checkpoint in ``output``.
        say: gets lines for the user.

    Raises:
        UserError: for data, weights or folders that cannot serve.
        KeyboardInterrupt: after the state has been saved.
    """
    root = Path(output)
    checkpoint = latest_checkpoint(root)
    if checkpoint and not resume:
        raise UserError(
            f"{root}: holds a training that ended after {checkpoint[1]} epochs; "
            "add --resume to go on with it, or choose another --output"
        )
    if resume and not checkpoint:
        raise UserError(f"{root}: holds no checkpoint to resume; leave --resume out")
    if any(side <= 0 or side % STRIDE for side in crop):
        raise UserError(f"--crop {crop[0]}x{crop[1]}: sides must be multiples of {STRIDE}")
    labels = voc.read_label_set(data)
    every = voc.read_split(data, train_split, labels)
    validation = voc.read_split(data, val_split, labels)
    pairs = every if pad_small else voc.drop_small(every, crop)
    if not pairs:
        raise UserError(
            f"{data}: all {len(every)} training images are smaller than the crop of "
            f"{crop[0]}×{crop[1]}; pad them with --pad-small or choose a smaller --crop"
        )
    say(
        f"{data}: {len(pairs)} training images ({len(every) - len(pairs)} dropped as smaller than "
        f"the crop), {len(validation)} validation images, {len(labels)} labels"
    )
    if unknown := sum(pair.unknown for pair in every + validation):
        say(f"{data}: {unknown} mask pixels have a colour that is no label's: void")

    root.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(seed)
    done = checkpoint[1] if checkpoint else 0
    dataset, steps = voc.training_crops(
        pairs,
        labels,
        crop=crop,
        batch_size=recipe.batch_size,
        scales=recipe.scales,
        flip=recipe.flip,
        seed=seed,
        epochs=range(done, recipe.epochs),
    )
    weights = "none" if checkpoint else backbone_weights
    model, normalisation = fcn(len(labels), backbone_name, weights)
    compile_model(model, recipe, steps, freeze_backbone)
    if checkpoint:
        _restore(model, checkpoint[0])
        say(f"{checkpoint[0]}: resumed after {done} epochs")

    whole = voc.whole_images(validation, labels, multiple=STRIDE)
    keeper = _EpochEnd(root, done)
    try:
        model.fit(
            dataset,
            epochs=recipe.epochs,
            initial_epoch=done,
            steps_per_epoch=steps,
            validation_data=whole,
            callbacks=[keeper],
            shuffle=False,  # the dataset is shuffled already
            verbose=2,
        )
    except KeyboardInterrupt:
        # The epoch that was begun is run again as a whole, so what it has learnt is not kept.
        last = latest_checkpoint(root)
        path = last[0] if last else save_checkpoint(model, root, 0)
        say(f"{path}: saved; run the same command with --resume to go on")
        raise
    if half:
        for weight in model.weights:
            if len(weight.shape) > 1:
                weight.assign(np.array(weight).astype(np.float16))
    scores = model.evaluate(whole, verbose=0, return_dict=True)
    training = {
        "data": Path(data).name,
        "images": len(pairs),
        "recipe": asdict(recipe),
        "crop": list(crop),
        "freeze_backbone": freeze_backbone,
        "backbone_weights": Path(backbone_weights).name,
        "seed": seed,
        "val_images": len(validation),
        "val_loss": round(scores["loss"], 4),
        "val_pixel_accuracy": round(scores["accuracy"], 4),
        "val_miou": round(scores["miou"], 4),
    }
    description = artifact.Description(
        backbone=backbone_name,
        labels=labels,
        normalisation=normalisation.to_json(),
        stride=STRIDE,
        long_side=max(max(pair.height, pair.width) for pair in pairs),
        parameters=0,
        training=training,
    )
    return artifact.save(root, model, description, half=half)


def _restore(model: keras.Model, path: Path) -> None:
    try:
        saved = keras.models.load_model(path)
        model.set_weights(saved.get_weights())
        model.optimizer.build(model.trainable_variables)
        for variable, value in zip(
            model.optimizer.variables, saved.optimizer.variables, strict=True
        ):
            variable.assign(value)
    except Exception as error:
        raise UserError(
            f"{path}: does not fit this command ({first_line(error)}); resume with the "
            "options the training was started with"
        ) from None
