"""The saved-model folder: what training writes and the pipeline reads.

::

    MODEL/model.json      labels, palette, normalisation, stride, long side, architecture, metrics,
                          fingerprint
    MODEL/saved_model/    a TensorFlow SavedModel with its functions:
                              body    uint8 RGB [n, h, w, 3]     → scores [n, h/s, w/s, c], where s
                                                                   is the finest stride scored
                              head    scores                     → float32 logits [n, h, w, c]
                              logits  both, one after the other: the serving signature

It loads without the code that trained it. The network is saved in two parts, so that
what interpolates can be compiled or replaced apart from the body. To be trained further, the
network is built anew from ``architecture`` and gets the SavedModel's variables
(:mod:`model_build.training.variables`).

All of this is on local disk: a folder on a store is copied here first. TensorFlow is imported where
it is used; reading ``model.json`` does not need it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from model_build.data.files import is_never_file
from model_build.data.labels import LabelSet
from model_build.errors import UserError, cause, first_line

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

FORMAT = 1
DESCRIPTION, NETWORK = "model.json", "saved_model"
DEFAULT_MODEL = str(Path(__file__).parent / "default_model")


@dataclass(frozen=True)
class Description:
    """What ``model.json`` says of a network.

    Attributes:
        backbone: name of the backbone.
        labels: the label set; the network has one output channel a label.
        normalisation: channels, scale and offset; informative, as it is part of the saved graph.
        stride: input sides must be multiples of it, in pixels: the backbone's, however fine the
            scores are.
        long_side: the longest side, in pixels, of the images the network was trained at.
        parameters: number of weights.
        training: data, recipe and metrics, as the trainer reports them.
        fingerprint: sha256 over the files of the SavedModel.
        architecture: which network it is, as :class:`model_build.network.fcn.Architecture` says
            it in JSON; empty where it is not known, as in folders of earlier versions.
    """

    backbone: str
    labels: LabelSet
    normalisation: dict[str, Any]
    stride: int
    long_side: int
    parameters: int
    training: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    architecture: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The form of ``model.json``."""
        value = {"format": FORMAT} | asdict(self) | self.labels.to_json()
        return value | {"palette": [list(color) for color in self.labels.colors]}


def save(
    folder: str | Path, model: keras.Model, description: Description, *, half: bool = False
) -> Description:
    """Writes a saved-model folder, on local disk.

    Args:
        folder: made if it is missing; files of a model saved there before are replaced.
        model: from :func:`model_build.network.fcn.fcn`.
        description: its ``parameters`` and ``fingerprint`` are filled in here.
        half: store the kernels as float16, for half the size; they are float32 again in use.

    Returns:
        The description as written.
    """
    import dataclasses
    import shutil

    import tensorflow as tf

    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    exported = _export(model, half)
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        fresh = Path(scratch) / NETWORK
        tf.saved_model.save(exported, str(fresh), signatures={"serving_default": exported.logits})
        # Holds a random id: without it equal networks have equal files.
        (fresh / "fingerprint.pb").unlink(missing_ok=True)
        shutil.rmtree(root / NETWORK, ignore_errors=True)
        fresh.rename(root / NETWORK)
    written = dataclasses.replace(
        description, parameters=model.count_params(), fingerprint=fingerprint(root)
    )
    text = json.dumps(written.to_json(), indent=1, ensure_ascii=False)
    (root / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    return written


def _export(model: keras.Model, half: bool) -> tf.Module:
    import keras
    import tensorflow as tf

    body, head = parts(model)

    def store(layer) -> list[tf.Variable]:
        values = [tf.convert_to_tensor(weight) for weight in layer.weights]
        # Statistics and biases are few and may be tiny; only kernels are worth halving.
        small = [half and value.dtype == tf.float32 and len(value.shape) > 1 for value in values]
        return [
            tf.Variable(tf.cast(value, tf.float16) if halve else value, trainable=False)
            for value, halve in zip(values, small, strict=True)
        ]

    def apply(layer, stored, inputs):
        values = [tf.cast(s, w.dtype) for s, w in zip(stored, layer.weights, strict=True)]
        with keras.StatelessScope(list(zip(layer.weights, values, strict=True))):
            return layer(inputs, training=False)

    images = tf.TensorSpec([None, None, None, 3], tf.uint8, "images")
    scores = tf.TensorSpec([None, None, None, head.input.shape[-1]], tf.float32, "scores")
    network = tf.Module()
    network.body_weights, network.head_weights = store(body), store(head)
    network.body = tf.function(lambda x: apply(body, network.body_weights, x), [images])
    network.head = tf.function(lambda x: apply(head, network.head_weights, x), [scores])
    network.logits = tf.function(lambda x: {"logits": network.head(network.body(x))}, [images])
    return network


def parts(model: keras.Model) -> tuple[keras.Model, keras.Layer]:
    """Body and head of a network from :func:`model_build.network.fcn.fcn`, which share its weights.

    Their weights are what a SavedModel's ``body_weights`` and ``head_weights`` hold, in this order.
    """
    import keras

    from model_build.network.fcn import LOGITS

    head = model.get_layer(LOGITS)
    return keras.Model(model.input, head.input), head


def fingerprint(folder: str | Path) -> str:
    """sha256, in hex, over the names and bytes of the SavedModel's files.

    What file managers leave in any folder that they show is none of them.
    """
    root = Path(folder) / NETWORK
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if is_never_file(path.name) or not path.is_file():
            continue
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def describe(folder: str | Path, *, name: str | None = None) -> Description:
    """Reads the ``model.json`` of a local folder.

    Args:
        folder: the saved-model folder.
        name: what messages call it, such as where it was copied from; by default as it is called.

    Raises:
        UserError: there is none, or it is not of this form.
    """
    name = name or str(folder)
    try:
        data = (Path(folder) / DESCRIPTION).read_bytes()
    except OSError as error:
        raise UserError(
            f"{name}: not a saved model: cannot read {DESCRIPTION} ({cause(error)}); "
            "name a folder that `fcn-beam train` wrote"
        ) from None
    return parse_description(data, _join(name, DESCRIPTION))


def parse_description(data: bytes, where: str) -> Description:
    """Parses a ``model.json``.

    Args:
        data: the file's bytes.
        where: the file's name, for errors.

    Raises:
        UserError: it is no JSON, or not of this form.
    """
    try:
        value = json.loads(data)
    except ValueError:
        raise UserError(f"{where}: is not valid JSON; copy or train the model again") from None
    try:
        if value["format"] != FORMAT:
            raise UserError(
                f"{where}: has format {value['format']}, but this version reads {FORMAT}; "
                "train it again, or use the version of fcn-beam that saved it"
            )
        return Description(
            backbone=str(value["backbone"]),
            labels=LabelSet.from_json(value, where),
            normalisation=dict(value["normalisation"]),
            stride=int(value["stride"]),
            long_side=int(value["long_side"]),
            parameters=int(value["parameters"]),
            training=dict(value["training"]),
            fingerprint=str(value["fingerprint"]),
            architecture=dict(value.get("architecture", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: not a model description ({error!r}); copy or train the model again"
        ) from None


@dataclass(frozen=True)
class Network:
    """A loaded network: its description and its two TensorFlow functions."""

    description: Description
    body: Any
    head: Any


class Functions(NamedTuple):
    """What a SavedModel computes: body and head, and how many channels the head gives."""

    body: Any
    head: Any
    channels: int


def loaded(folder: str) -> Functions:
    """The functions of a SavedModel, as TensorFlow's loader gives them.

    Raises:
        Exception: it cannot load them.
    """
    import tensorflow as tf

    module = tf.saved_model.load(folder)
    body, head = (
        function.get_concrete_function(*function.input_signature)
        for function in (module.body, module.head)
    )
    # The functions hold their variables only through the module.
    body.module = head.module = module
    return Functions(body, head, head.structured_outputs.shape[-1])


def load(
    folder: str | Path,
    *,
    name: str | None = None,
    functions: Callable[[str, str], Functions] = lambda folder, fingerprint: loaded(folder),
) -> Network:
    """Loads a local saved-model folder.

    Args:
        folder: the saved-model folder.
        name: what messages call it, as in :func:`describe`.
        functions: what loads its SavedModel, of this folder and fingerprint.

    Raises:
        UserError: no model there, a file changed or cut short since it was saved, or a number of
            labels that is not the network's number of output channels.
    """
    name = name or str(folder)
    description = describe(folder, name=name)
    check_files(folder, description, name=name)
    try:
        body, head, channels = functions(str(Path(folder) / NETWORK), description.fingerprint)
    except Exception as error:
        raise UserError(
            f"{_join(name, NETWORK)}: TensorFlow cannot load it: {first_line(error)}"
        ) from None
    if channels != len(description.labels):
        raise UserError(
            f"{_join(name, DESCRIPTION)}: has {len(description.labels)} labels, but the "
            f"network has {channels} output channels; use the model.json it was saved with"
        )
    return Network(description, body, head)


def check_files(folder: str | Path, description: Description, *, name: str | None = None) -> None:
    """Checks that a local SavedModel's files are those that its ``model.json`` was written for.

    Raises:
        UserError: a file changed, is missing or was cut short since it was saved.
    """
    found = fingerprint(folder)
    if found != description.fingerprint:
        raise UserError(
            f"{_join(name or str(folder), NETWORK)}: does not match {DESCRIPTION} "
            f"(fingerprint {found[:12]}, not {description.fingerprint[:12]}): a file is truncated, "
            "changed or missing; copy or train the model again"
        )


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"
