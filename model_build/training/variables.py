"""Loads weights from a Keras weights file, or from the variables of an earlier SavedModel.

Both are read as data: no SavedModel graph is run.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import h5py
import keras
import tensorflow as tf

from model_build import artifact
from model_build.common.errors import UserError, first_line
from model_build.network.fcn import LOGITS, scoring_layers

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
MAX_CLASSES = 255
OPTIONS_REMEDY = (
    "name the file's architecture with --backbone, --output-stride, --skips, --context and "
    "--learn-upsampling"
)


def load_saved_weights(folder: str, model: keras.Model) -> None:
    """Loads the weights of a local saved-model folder into a network.

    Args:
        folder: its description is that of the network.
        model: from :func:`model_build.network.fcn.fcn`.

    Raises:
        UserError: the weights belong to another network, or cannot be read.
    """
    description = artifact.describe(folder)
    artifact.check_files(folder, description)  # model.json says which labels the weights are for
    if description.format == artifact.EARLIER_FORMAT:
        load_checkpoint_variables(Path(folder, artifact.NETWORK), model)
    elif description.kind == artifact.PROGRAM:
        artifact.check_weights(folder, description)
        path = str(Path(folder, artifact.WEIGHTS))
        load_weights_file(path, model, "copy or train the model again")
    else:
        raise UserError(
            f"{folder}: its network was not made by `fcn-beam train`, which cannot train it "
            "further; name another folder for --start"
        )


def load_checkpoint_variables(network: Path, model: keras.Model) -> None:
    """Loads the variables of a SavedModel of the earlier format, a checkpoint, into a network.

    Raises:
        UserError: as :func:`load_saved_weights`.
    """
    body = keras.Model(model.input, model.get_layer(LOGITS).input).weights
    named = {f"body_weights/{index}": weight for index, weight in enumerate(body)}
    head = model.get_layer(LOGITS).weights
    named |= {f"head_weights/{index}": weight for index, weight in enumerate(head)}
    try:
        reader = tf.train.load_checkpoint(str(network / "variables" / "variables"))
        shapes = {
            key.removesuffix(SUFFIX): tuple(shape)
            for key, shape in reader.get_variable_to_shape_map().items()
            if key.endswith(SUFFIX)
        }
        if shapes != {key: tuple(weight.shape) for key, weight in named.items()}:
            raise UserError(
                f"{network}: is not the network that {artifact.DESCRIPTION} describes; use the "
                f"{artifact.DESCRIPTION} it was saved with"
            )
        for key, weight in named.items():
            weight.assign(reader.get_tensor(f"{key}{SUFFIX}"))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{network}: its variables cannot be read ({first_line(error)}); copy or train the "
            "model again"
        ) from None


def count_classes(path: str, model: keras.Model) -> int:
    """Returns the number of classes of a network in a Keras weights file.

    A file names no labels, but their number follows from its number of weights.

    Args:
        path: the file.
        model: the same network with any number of classes.

    Raises:
        UserError: the file cannot be read, or has weights of another network.
    """
    total = 0

    def count(name: str, item: Any) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset) and "/vars/" in f"/{name}":
            total += math.prod(item.shape)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(count)
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read as a Keras weights file ({first_line(error)}); save the "
            "network again with save_weights"
        ) from None
    classes = model.output.shape[-1]
    scoring = [w for name in scoring_layers(model) for w in model.get_layer(name).weights]
    fixed = model.count_params() - sum(math.prod(weight.shape) for weight in scoring)
    for number in range(1, MAX_CLASSES + 1):
        scored = sum(
            math.prod(number if side == classes else side for side in weight.shape)
            for weight in scoring
        )
        if fixed + scored == total:
            return number
    raise UserError(
        f"{path}: has {total:,} weights, which does not fit {model.name} with any number of "
        f"classes; {OPTIONS_REMEDY}"
    )


def load_weights_file(path: str, model: keras.Model, remedy: str = OPTIONS_REMEDY) -> None:
    """Loads a weights file into a network.

    Args:
        path: a Keras weights file.
        model: the network, with the number of classes it was saved with.
        remedy: the end of the message if the file does not fit.

    Raises:
        UserError: the file has weights of another network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # real errors raise exceptions
            model.load_weights(path)
    except Exception as error:
        raise UserError(
            f"{path}: cannot be loaded as weights of {model.name}: {first_line(error)}; {remedy}"
        ) from None
