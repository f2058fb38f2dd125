"""Trains an FCN: from a data folder to a saved-model folder."""

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
from model_build.training.start import Inherited, Start, inherit

ARCHITECTURE, OPTIONS = Architecture(), Options()  # the defaults
SHOWN = 8  # names of new labels in a message


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

    The network that is saved is that of the epoch with the best validation mIoU.

    Args:
        data: see :mod:`model_build.data.layouts`.
        output: the saved-model folder; also gets what :mod:`model_build.training.checkpoints` and
            :func:`model_build.training.best.draw` name, and ``tensorboard/``.
        recipe: how to train.
        architecture: of a new network.
        start: what to start from instead of a new network. With no epochs it is saved as it is.
        options: all else.
        say: gets lines for the user.

    Raises:
        UserError: for data, weights or folders that cannot serve, a training that diverges, or no
            epochs where some weights would be random.
        KeyboardInterrupt: after the state has been saved.
    """
    root, folder = Path(output), DataFolder(data)
    # The network is made before all data is read: options that cannot serve are told early.
    resumed = checkpoints.starting_point(root, options.resume)
    machine = devices.machine(options.engine, options.precision)
    labels = check_folder(folder, options.splits)
    architecture = start.architecture if start else architecture
    initial = architecture.without_weights() if resumed else architecture
    model = build(len(labels), initial, machine, options.seed)
    inherited = Inherited()
    if start:
        with machine.strategy.scope():
            inherited = inherit(model, start, labels, weights=not resumed)
        if not resumed:
            say(announce(start, inherited, labels))
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


def announce(start: Start, inherited: Inherited, labels: LabelSet) -> str:
    """The line that says what a training starts from."""
    if not inherited.new:
        return f"{start.path}: starting from this network, which has all {len(labels)} labels"
    names = ", ".join(inherited.new[:SHOWN]) + ", …" * (len(inherited.new) > SHOWN)
    return (
        f"{start.path}: starting from this network; {len(inherited.new)} of {len(labels)} "
        f"labels are new to it ({names})"
    )


def check_finished(start: Start | None, inherited: Inherited) -> None:
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
        UserError: it lacks one, or its ``labels.json`` is broken.
    """
    labels = folder.labels()
    for split in splits:
        folder.names(split)
    return labels


def build(classes: int, architecture: Architecture, machine: Machine, seed: int = 0) -> keras.Model:
    """Builds the network to be trained, on all devices and in their precision.

    Raises:
        UserError: as :func:`model_build.network.fcn.fcn` does.
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
    """What ``model.json`` says of a training: all that went in, and the scores.

    ``val_absent``, only where there are any, names the labels that no pixel scored has.

    Args:
        data, recipe, options: those of :func:`train`.
        origin: the name of what the weights started as: a model, or weights of the backbone.
        examples: what was read.
        machine: what computed it.
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
    # Even a perfect mIoU says nothing about them.
    return said | ({"val_absent": absent} if absent else {})
