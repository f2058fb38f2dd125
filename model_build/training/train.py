"""Trains an FCN on a data folder and writes a saved-model folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from model_build import artifact
from model_build.common.errors import UserError, cause
from model_build.data import crops
from model_build.data.labels import LabelSet
from model_build.data.layouts import DataFolder
from model_build.network.backbones import STRIDE
from model_build.network.fcn import Architecture, fcn
from model_build.scores import scores
from model_build.training import checkpoints, devices
from model_build.training.best import draw, load_best, validate
from model_build.training.devices import Machine
from model_build.training.examples import Examples, read_examples
from model_build.training.loop import fit, prepare
from model_build.training.options import Options
from model_build.training.recipes import RECIPES, Recipe
from model_build.training.start import InheritedWeights, Start, load_start_weights

ARCHITECTURE, OPTIONS = Architecture(), Options()  # the defaults
MAX_SHOWN = 8  # in a message


def train(
    data: str,
    output: str,
    *,
    recipe: Recipe = RECIPES["default"],
    architecture: Architecture = ARCHITECTURE,
    start: Start | None = None,
    options: Options = OPTIONS,
    say: Callable[[str], None] = print,
) -> artifact.Description:
    """Trains on a data folder and writes a saved-model folder.

    The saved network is that of the epoch with the best validation mIoU.

    Args:
        data: see :mod:`model_build.data.layouts`.
        output: the saved-model folder; also receives the files of
            :mod:`model_build.training.checkpoints` and :func:`model_build.training.best.draw`, and
            ``tensorboard/``.
        recipe: how to train.
        architecture: of a new network.
        start: a network to start from instead of a new one. With zero epochs it is saved unchanged.
        options: all further options.
        say: receives lines for the user.

    Raises:
        UserError: invalid data, weights or folders, a training that diverges, or zero epochs
            although some weights would be random.
        KeyboardInterrupt: after the state has been saved.
    """
    root, folder = Path(output), DataFolder(data)
    # The network is built before the data are read, to report invalid options early.
    resumed = checkpoints.starting_point(root, options.resume)
    machine = devices.machine(options.engine, options.precision)
    labels = check_folder(folder, options.splits)
    architecture = start.architecture if start else architecture
    initial = architecture.without_weights() if resumed else architecture
    model = build(len(labels), initial, machine, options.seed)
    inherited = InheritedWeights()
    if start:
        with machine.strategy.scope():
            inherited = load_start_weights(model, start, labels, weights=not resumed)
        if not resumed:
            say(describe_start(start, inherited, labels))
    if not recipe.epochs:
        check_finished(start, inherited)

    examples = read_examples(
        folder, labels, options.splits, options.crop, pad_small=options.pad_small, say=say
    )
    devices.check_replicas(recipe, len(examples.pairs), machine.replicas)
    say(f"computing in {machine}")

    batches, steps = prepare(
        model, examples, root, resumed, recipe, options, machine, say, inherited.layers
    )
    validation = crops.whole_images(examples.validation, multiple=STRIDE)
    epochs = range(resumed[1] if resumed else 0, recipe.epochs)
    fit(model, batches, steps, validation, root, epochs, options.patience, machine.replicas, say)

    best = load_best(root, len(labels), architecture, half=options.half)
    matrix = validate(best.classify, validation, len(labels))
    origin = start.name if start else Path(architecture.backbone_weights).name
    said = report(data, examples, recipe, origin, options, machine, best.epoch, matrix)
    long_side = max(max(pair.height, pair.width) for pair in examples.pairs)
    if start and start.long_side and not best.epoch:
        long_side = start.long_side
    description = artifact.Description(
        backbone=architecture.backbone_name,
        labels=labels,
        normalisation=best.normalisation.to_json(),
        stride=STRIDE,
        long_side=long_side,
        parameters=0,
        training=said,
        architecture=architecture.to_json(),
    )
    try:
        written = artifact.save(root, best.model, description, half=options.half)
        draw(root, examples, matrix, best.classify)
    except OSError as error:
        raise UserError(
            f"{root}: cannot be written: {cause(error)}; fix that and run the same command with "
            "--resume"
        ) from None
    return written


def describe_start(start: Start, inherited: InheritedWeights, labels: LabelSet) -> str:
    """Describes in one line what a training starts from."""
    if not inherited.new:
        return f"{start.path}: starting from this network, which has all {len(labels)} labels"
    names = ", ".join(inherited.new[:MAX_SHOWN]) + ", …" * (len(inherited.new) > MAX_SHOWN)
    return (
        f"{start.path}: starting from this network; {len(inherited.new)} of {len(labels)} "
        f"labels are new to it ({names})"
    )


def check_finished(start: Start | None, inherited: InheritedWeights) -> None:
    """Checks that a network can be saved without any training.

    Raises:
        UserError: some of its weights would be random.
    """
    if start is None:
        raise UserError(
            "--epochs 0: there is no trained network to save, as this one is new; name one with "
            "--start, or train for at least one epoch"
        )
    if inherited.new:
        raise UserError(
            f"--epochs 0: {start.path} does not know the label {inherited.new[0]!r} "
            f"({len(inherited.new)} new labels in all); train for at least one epoch"
        )


def check_folder(folder: DataFolder, splits: Sequence[str]) -> LabelSet:
    """Checks that a data folder has these splits, and returns its labels; reads no photo.

    Raises:
        UserError: a split is missing, or its ``labels.json`` is invalid.
    """
    labels = folder.labels()
    for split in splits:
        folder.names(split)
    return labels


def build(classes: int, architecture: Architecture, machine: Machine, seed: int = 0) -> keras.Model:
    """Builds the network to be trained, on all devices and in their precision.

    Raises:
        UserError: as :func:`model_build.network.fcn.fcn`.
    """
    keras.utils.set_random_seed(seed)
    with machine.strategy.scope(), devices.dtype_policy(machine.policy):
        model, _ = fcn(classes, **dataclasses.asdict(architecture))
    return model


def report(
    data: str,
    examples: Examples,
    recipe: Recipe,
    origin: str,
    options: Options,
    machine: Machine,
    epoch: int,
    matrix: np.ndarray,
) -> dict[str, Any]:
    """Returns the ``training`` field of ``model.json``: all settings, and the scores.

    ``val_absent``, only if there are any, names the labels without a validation pixel.

    Args:
        data, recipe, options: those of :func:`train`.
        origin: the name of the initial weights: a model, or weights of the backbone.
        examples: the data.
        machine: the hardware settings.
        epoch: the best one.
        matrix: its network's, from :func:`model_build.training.best.validate`.
    """
    score, names = scores(matrix), examples.labels.names
    absent = [name for name, row in zip(names, matrix, strict=True) if not row.any()]
    said = {
        "data": Path(data).resolve().name,
        "train_split": options.splits[0],
        "val_split": options.splits[1],
        "images": len(examples.pairs) if recipe.epochs else 0,
        "start": origin,
        "recipe": dataclasses.asdict(recipe),
        "crop": list(options.crop),
        "pad_small": options.pad_small,
        "freeze_backbone": options.freeze_backbone,
        "half": options.half,
        "precision": machine.policy,
        "replicas": machine.replicas,
        "seed": options.seed,
        "epoch": epoch,
        "val_images": len(examples.validation),
        "val_pixel_accuracy": round(score.pixel_accuracy, 4),
        "val_miou": round(score.miou, 4),
    }
    # The mIoU does not cover these classes.
    return said | ({"val_absent": absent} if absent else {})
