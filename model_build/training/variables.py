"""Weights on disk → a network: the variables of a SavedModel, or a weights file of Keras'.

Both are read as data. Nothing of a SavedModel's graph is run, and nothing is allocated for what a
file claims to hold beyond what it does hold.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import tensorflow as tf

from model_build import artifact
from model_build.errors import UserError, first_line
from model_build.network.fcn import scoring_layers

BODY, HEAD, SUFFIX = "body_weights", "head_weights", "/.ATTRIBUTES/VARIABLE_VALUE"
MOST_CLASSES = 255


@dataclass(frozen=True)
class Variables:
    """The variables of a SavedModel, a TensorFlow checkpoint; their values are not read yet.

    Attributes:
        name: what messages call the SavedModel.
        reader: TensorFlow's reader of checkpoints.
        shapes: the shape of each variable by its key, ``body_weights/0`` and so on.
    """

    name: str
    reader: Any
    shapes: dict[str, tuple[int, ...]]

    def put_into(self, model: keras.Model) -> None:
        """Gives a network these weights; what is stored as float16 becomes float32.

        Args:
            model: from :func:`model_build.network.fcn.fcn`, of the architecture and the number of
                classes that the weights were saved with.

        Raises:
            UserError: the weights are another network's, or cannot be read.
        """
        body, head = artifact.parts(model)
        ours = {f"{BODY}/{index}": weight for index, weight in enumerate(body.weights)}
        ours |= {f"{HEAD}/{index}": weight for index, weight in enumerate(head.weights)}
        self.check({key: tuple(weight.shape) for key, weight in ours.items()})
        try:
            for key, weight in ours.items():
                weight.assign(self.reader.get_tensor(f"{key}{SUFFIX}"))
        except Exception as error:
            raise UserError(
                f"{self.name}: its variables cannot be read ({first_line(error)}); copy or train "
                "the model again"
            ) from None

    def check(self, expected: dict[str, tuple[int, ...]], prefix: str = "") -> None:
        """Checks that there are just these variables.

        Args:
            expected: shapes by key.
            prefix: look at variables whose keys begin so.

        Raises:
            UserError: one is missing, of another shape, or too many.
        """
        found = {key: shape for key, shape in self.shapes.items() if key.startswith(prefix)}
        for key in sorted(expected.keys() | found.keys()):
            if found.get(key) != expected.get(key):
                raise UserError(
                    f"{self.name}: is not the network that {artifact.DESCRIPTION} describes: {key} "
                    f"is {found.get(key, 'missing')}, but should be "
                    f"{expected.get(key, 'missing')}; use the {artifact.DESCRIPTION} it was saved "
                    "with"
                )


def saved_variables(folder: str | Path) -> Variables:
    """Opens the variables of a local saved-model folder.

    Raises:
        UserError: no model there, a file changed or cut short since it was saved, or variables
            that :func:`model_build.artifact.save` cannot have written.
    """
    artifact.check_files(folder, artifact.describe(folder))
    network = Path(folder) / artifact.NETWORK
    variables = network / "variables"
    try:
        reader = tf.train.load_checkpoint(str(variables / "variables"))
        types = reader.get_variable_to_dtype_map()
        shapes = {
            key.removesuffix(SUFFIX): tuple(shape)
            for key, shape in reader.get_variable_to_shape_map().items()
            if key.endswith(SUFFIX)
        }
        claimed = sum(types[f"{key}{SUFFIX}"].size * math.prod(shapes[key]) for key in shapes)
        held = sum(path.stat().st_size for path in variables.iterdir())
    except Exception as error:
        raise UserError(
            f"{network}: its variables cannot be read ({first_line(error)}); name a folder that "
            "`fcn-beam train` wrote"
        ) from None
    if claimed > held:
        raise UserError(
            f"{network}: its variables take {claimed:,} bytes, but its files have {held:,}: they "
            "are truncated; copy or train the model again"
        )
    if f"{BODY}/0" not in shapes:
        raise UserError(f"{network}: was not written by `fcn-beam train`; name another folder")
    return Variables(str(network), reader, shapes)


def classes_in_file(path: str, model: keras.Model) -> int:
    """With how many classes a network was saved as a weights file of Keras'.

    A file names no labels, but its number of weights tells how many there are.

    Args:
        path: the file.
        model: the same network with any number of classes.

    Raises:
        UserError: the file cannot be read, or holds weights of another network.
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
    for number in range(1, MOST_CLASSES + 1):
        scored = sum(
            math.prod(number if side == classes else side for side in weight.shape)
            for weight in scoring
        )
        if fixed + scored == total:
            return number
    raise UserError(
        f"{path}: has {total:,} weights, which does not fit {model.name} with any number of "
        "classes; name the file's architecture with --backbone, --output-stride, --skips, "
        "--context and --learn-upsampling"
    )


def put_file_into(path: str, model: keras.Model) -> None:
    """Gives a network the weights of a file.

    Args:
        path: of a weights file of Keras'.
        model: of the network and the number of classes that it was saved with.

    Raises:
        UserError: the file holds weights of another network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters comes as an exception
            model.load_weights(path)
    except Exception as error:
        raise UserError(
            f"{path}: cannot be loaded as weights of {model.name}: {first_line(error)}; name its "
            "architecture with --backbone, --output-stride, --skips, --context and "
            "--learn-upsampling"
        ) from None
