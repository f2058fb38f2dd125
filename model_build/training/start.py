"""Starts a training from a saved model, or from a weights file of the same network.

The network is rebuilt by this code and the weights are loaded into it. If the labels of the data
differ from the model's, the layers that score labels are replaced and all others are
kept. In the new layers, a label that the model has under the same name takes over its weights.
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
from model_build.training.variables import count_classes, load_saved_weights, load_weights_file

SUFFIX = ".weights.h5"
# Their names on the command line.
OPTIONS = {
    "backbone_name": "--backbone",
    "skips": "--skips",
    "output_stride": "--output-stride",
    "learn_upsampling": "--learn-upsampling/--fixed-upsampling",
    "context": "--context/--no-context",
}


@dataclass(frozen=True)
class Start:
    """A network to start from, without its weights.

    Attributes:
        path: the saved-model folder or the weights file.
        architecture: of the network.
        labels: of the saved model; None for a weights file.
        long_side: the longest side, in pixels, of the images it was trained at; None for a weights
            file.
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
        """Maps the ids of labels that the start also has to their ids in the start.

        Args:
            labels: of the data.
            classes: the number of classes of the start. A weights file with the same number as the
                data is assumed to have the same labels in the same order.
        """
        if self.labels is None:
            return {index: index for index in range(classes)} if classes == len(labels) else {}
        there = {name: index for index, name in enumerate(self.labels.names)}
        return {index: there[name] for index, name in enumerate(labels.names) if name in there}


@dataclass(frozen=True)
class InheritedWeights:
    """The layers and labels that a network has taken over from its start.

    Attributes:
        layers: names of the layers outside the backbone whose weights were taken over.
        new: names of the labels that the start does not have.
    """

    layers: tuple[str, ...] = ()
    new: tuple[str, ...] = ()


def resolve_start(path: str, given: Mapping[str, Any]) -> Start:
    """Resolves ``--start`` together with the options of the architecture.

    Args:
        path: a saved-model folder, or a file that ends in ``.weights.h5``.
        given: fields of :class:`model_build.network.fcn.Architecture`. For a folder they must agree
            with its architecture; for a file they replace those of the default model.

    Raises:
        UserError: no model there, its architecture is unknown, or options contradict it.
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


def load_start_weights(
    model: keras.Model, start: Start, labels: LabelSet, *, weights: bool = True
) -> InheritedWeights:
    """Loads the weights of its start into a network.

    Args:
        model: of the start's architecture, with a class for each label; changed in place.
        start: from :func:`resolve_start`.
        labels: of the data.
        weights: False if the weights are loaded elsewhere, as from a checkpoint: then only which
            layers are new is determined.

    Returns:
        The layers and labels that were taken over.

    Raises:
        UserError: the weights cannot be read or belong to another network.
    """
    classes = len(start.labels) if start.labels else count_classes(start.path, model)
    known = start.known(labels, classes)
    new = tuple(name for index, name in enumerate(labels.names) if index not in known)
    if weights and known == {index: index for index in range(classes)} and not new:
        _read(start, model)
    elif weights:
        _copy(_network(start, classes), model, known)
    scoring = scoring_layers(model)
    kept = [layer.name for layer in model.layers if layer.weights and layer.name not in scoring]
    return InheritedWeights((*kept, *(() if new else scoring)), new)


def _network(start: Start, classes: int) -> keras.Model:
    """Rebuilds the network of the start as it was saved."""
    model, _ = fcn(classes, **dataclasses.asdict(start.architecture.without_weights()))
    _read(start, model)
    return model


def _read(start: Start, model: keras.Model) -> None:
    if start.labels:
        load_saved_weights(start.path, model)
    else:
        load_weights_file(start.path, model)


def _copy(source: keras.Model, model: keras.Model, known: Mapping[int, int]) -> None:
    """Copies all weights except those that score labels which the source lacks."""
    scoring = scoring_layers(model)
    ids, other_ids = list(known), list(known.values())
    for layer in model.layers:
        if not layer.weights:
            continue
        values = source.get_layer(layer.name).get_weights()
        if layer.name in scoring:
            # A class is a position along the last axis, or along the last two in upsampling layers.
            axes = 2 if isinstance(layer, Upsampling) else 1
            values = [
                _copy_classes(own, value, ids, other_ids, axes)
                for own, value in zip(layer.get_weights(), values, strict=True)
            ]
        layer.set_weights(values)


def _copy_classes(
    own: np.ndarray, other: np.ndarray, ids: Sequence[int], other_ids: Sequence[int], axes: int
) -> np.ndarray:
    """Returns ``own`` with classes ``ids`` taken from ``other_ids`` of ``other``."""

    def at(classes: Sequence[int]) -> tuple[Any, ...]:
        return (slice(None),) * (own.ndim - axes) + np.ix_(*[classes] * axes)

    result = own.copy()
    result[at(ids)] = other[at(other_ids)]
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
    """Formats a field of the architecture as a command-line option."""
    if isinstance(value, bool):
        return OPTIONS[name].split("/")[not value]
    return f"{OPTIONS[name]} {value}{'s' * (name == 'skips')}"
