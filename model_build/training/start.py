"""What a training starts from: a saved model, or a weights file of the same network.

The network is built anew, by this code, and gets the weights. Where the data has other labels than
the model, the layers that score them are new and all others are kept. In these new layers, labels
that the model knows by the same name keep their weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from model_build import artifact
from model_build.common.errors import UserError
from model_build.data.labels import LabelSet
from model_build.network.backbones import plain_name
from model_build.network.fcn import Architecture, fcn, scoring_layers
from model_build.network.upsampling import Upsampling
from model_build.training.variables import classes_in_file, put_file_into, put_saved_into

SUFFIX = ".weights.h5"
# As the command line calls them.
OPTIONS = {
    "backbone_name": "--backbone",
    "skips": "--skips",
    "output_stride": "--output-stride",
    "learn_upsampling": "--learn-upsampling/--fixed-upsampling",
    "context": "--context/--no-context",
}


@dataclass(frozen=True)
class Start:
    """A network to start from; its weights are not read yet.

    Attributes:
        path: the saved-model folder or the weights file.
        architecture: of the network.
        labels: of the saved model; a weights file has none.
        long_side: the longest side, in pixels, of the images it was trained at; a weights file
            does not say.
    """

    path: str
    architecture: Architecture
    labels: LabelSet | None = None
    long_side: int | None = None

    @property
    def name(self) -> str:
        """The last part of its path."""
        return Path(self.path).resolve().name

    def known(self, labels: LabelSet, classes: int) -> dict[int, int]:
        """Ids of the labels that the start knows → their ids there.

        Args:
            labels: of the data.
            classes: the number of classes of the start. A weights file with as many as the data
                is taken to be of the same labels in the same order.
        """
        if self.labels is None:
            return {index: index for index in range(classes)} if classes == len(labels) else {}
        there = {name: index for index, name in enumerate(self.labels.names)}
        return {index: there[name] for index, name in enumerate(labels.names) if name in there}


@dataclass(frozen=True)
class Inherited:
    """What a network has of its start.

    Attributes:
        layers: names of the layers, those of the backbone left out, that are as they were.
        new: names of the labels that the start does not know.
    """

    layers: tuple[str, ...] = ()
    new: tuple[str, ...] = ()


def starting(path: str, given: Mapping[str, Any]) -> Start:
    """What ``--start`` and options of the architecture mean together.

    Args:
        path: a saved-model folder, or a file that ends in ``.weights.h5``.
        given: fields of :class:`model_build.network.fcn.Architecture`. For a folder they may only
            say what is so anyway; for a file they replace those of the default model.

    Raises:
        UserError: no model or no architecture there, or options that contradict it.
    """
    if "backbone_weights" in given:
        raise UserError(
            f"--backbone-weights {given['backbone_weights']}: --start {path} already has all "
            "weights; leave one of them out"
        )
    if path.endswith(SUFFIX):
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file; name a weights file or a saved-model folder")
        if given.keys() == OPTIONS.keys():
            return Start(path, Architecture(**given))
        base = _architecture(artifact.DEFAULT_MODEL)
        return Start(path, dataclasses.replace(base, **given))
    if Path(path).is_file():
        raise UserError(
            f"{path}: neither a saved-model folder nor a weights file (whose name ends in "
            f"{SUFFIX}); name one for --start"
        )
    description, architecture = artifact.describe(path), _architecture(path)
    for name, value in given.items():
        own = getattr(architecture, name)
        same = plain_name(value) == plain_name(own) if name == "backbone_name" else value == own
        if not same:
            raise UserError(
                f"{_option(name, value)}: contradicts {path}, whose network has "
                f"{_option(name, own)}; leave it out, or leave --start out to train a new network"
            )
    return Start(path, architecture, description.labels, description.long_side)


def inherit(
    model: keras.Model, start: Start, labels: LabelSet, *, weights: bool = True
) -> Inherited:
    """Gives a network the weights of its start.

    Args:
        model: of the start's architecture, with a class for each label; changed in place.
        start: from :func:`starting`.
        labels: of the data.
        weights: False where the weights come from elsewhere, as from a checkpoint: nothing is
            read but what it takes to tell which layers are new.

    Returns:
        What it has of the start.

    Raises:
        UserError: weights that cannot be read or are of another network.
    """
    classes = len(start.labels) if start.labels else classes_in_file(start.path, model)
    known = start.known(labels, classes)
    new = tuple(name for index, name in enumerate(labels.names) if index not in known)
    if weights and known == {index: index for index in range(classes)} and not new:
        _read(start, model)
    elif weights:
        _copy(_network(start, classes), model, known)
    scoring = scoring_layers(model)
    kept = [layer.name for layer in model.layers if layer.weights and layer.name not in scoring]
    return Inherited((*kept, *(() if new else scoring)), new)


def _network(start: Start, classes: int) -> keras.Model:
    """The network of the start, as it was saved."""
    model, _ = fcn(classes, **dataclasses.asdict(start.architecture.without_weights()))
    _read(start, model)
    return model


def _read(start: Start, model: keras.Model) -> None:
    if start.labels:
        put_saved_into(start.path, model)
    else:
        put_file_into(start.path, model)


def _copy(source: keras.Model, model: keras.Model, known: Mapping[int, int]) -> None:
    """Copies all weights but the scores of labels that are new."""
    scoring = scoring_layers(model)
    ours, theirs = list(known), list(known.values())
    for layer in model.layers:
        if not layer.weights:
            continue
        values = source.get_layer(layer.name).get_weights()
        if layer.name in scoring:
            # A class is a position along the last axis, or along the last two of what enlarges.
            axes = 2 if isinstance(layer, Upsampling) else 1
            values = [
                _placed(own, value, ours, theirs, axes)
                for own, value in zip(layer.get_weights(), values, strict=True)
            ]
        layer.set_weights(values)


def _placed(
    own: np.ndarray, other: np.ndarray, ours: Sequence[int], theirs: Sequence[int], axes: int
) -> np.ndarray:
    """``own`` with the classes ``ours`` of its last axes as ``theirs`` of ``other`` are."""

    def at(classes: Sequence[int]) -> tuple[Any, ...]:
        return (slice(None),) * (own.ndim - axes) + np.ix_(*[classes] * axes)

    result = own.copy()
    result[at(ours)] = other[at(theirs)]
    return result


def _architecture(folder: str) -> Architecture:
    description = artifact.describe(folder)
    where = f"{folder.rstrip('/')}/{artifact.DESCRIPTION}"
    if not description.architecture:
        raise UserError(
            f"{where}: has no architecture, as it was saved by an earlier version; it can be "
            "used, but not trained further: train it again with this version"
        )
    return Architecture.from_json(description.architecture, where)


def _option(name: str, value: Any) -> str:
    """A field of the architecture as the command line has it."""
    if isinstance(value, bool):
        return OPTIONS[name].split("/")[not value]
    return f"{OPTIONS[name]} {value}{'s' * (name == 'skips')}"
