"""The saved-model folder: what training writes and the pipeline reads.

::

    MODEL/model.json          labels, palette, normalisation, stride, long side, the grid of
                              scores, architecture, metrics, fingerprint
    MODEL/saved_model/        a TensorFlow SavedModel: an inference program
                              (:mod:`model_build.export`), or any other network
    MODEL/trained.weights.h5  the network's Keras weights, which only ``train --start`` reads

A job needs only the first two; they run without the code that trained the network.

These functions read local disk: a folder on a store is first copied there. TensorFlow is imported
where it is used; reading ``model.json`` does not need it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_build.common.errors import UserError, cause
from model_build.data.files import is_never_file
from model_build.data.labels import LabelSet

if TYPE_CHECKING:
    import keras

# Folders of format 1 contain a SavedModel with variables, run like any other SavedModel.
FORMAT, EARLIER_FORMAT = 2, 1
PROGRAM, SAVED_MODEL = KINDS = ("program", "saved_model")
DESCRIPTION, NETWORK, WEIGHTS = "model.json", "saved_model", "trained.weights.h5"
# No network has more; a number in a file must not decide how much memory is used.
MAX_STRIDE, MAX_AVERAGES = 1024, 1000
DEFAULT_MODEL = str(Path(__file__).parent / "default_model")


@dataclass(frozen=True)
class Scores:
    """The grid of a network's scores on an image.

    Attributes:
        stride: width and height of a score's cell in pixels.
        shift: offset, in pixels down and right, of the grid of scores from the centres of cells of
            that size, if logits are the bilinear interpolation of scores; None if a program
            enlarges them in another way or with too large an offset, and if they have the image's
            size.
        averages: number of averages over the whole image that a program uses.
    """

    stride: int = 1
    shift: float | None = None
    averages: int = 0


def is_near(stride: int, shift: float) -> bool:
    """Whether a job can interpolate between cells: the first centre is within the first cell."""
    return -1 < shift + (stride - 1) / 2 <= stride


@dataclass(frozen=True)
class Description:
    """The contents of ``model.json``.

    Attributes:
        backbone: name of the backbone.
        labels: the label set; the network has one output channel per label.
        normalisation: channels, scale and offset; only informative, as the saved graph includes it.
        stride: input sides must be multiples of it, in pixels; it is the backbone's, however fine
            the scores are.
        long_side: the longest side, in pixels, of the images the network was trained at.
        parameters: number of weights.
        training: data, recipe and metrics, as the trainer reports them.
        fingerprint: see :func:`fingerprint`.
        architecture: the JSON of :class:`model_build.network.fcn.Architecture`; empty if unknown,
            as in folders of earlier versions.
        scores: the grid of scores on an image.
        weights: sha256 of the weights file, in hex; empty if there is none.
        kind: ``"program"``, or ``"saved_model"`` for any other network.
        format: of the folder.
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
    scores: Scores = Scores()
    weights: str = ""
    kind: str = SAVED_MODEL
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON of ``model.json``."""
        value = {"format": self.format} | asdict(self) | self.labels.to_json()
        return value | {"palette": [list(color) for color in self.labels.colors]}

    def decides(self) -> dict[str, Any]:
        """Returns the fields that affect a mask's pixels or a score."""
        value = self.to_json()
        names = ("labels", "palette", "ignore_index", "stride", "long_side", "scores", "kind")
        return {name: value[name] for name in names}


def save(
    folder: str | Path, model: keras.Model, description: Description, *, half: bool = False
) -> Description:
    """Writes a saved-model folder, on local disk.

    Args:
        folder: made if it is missing; files of a model saved there before are replaced.
        model: from :func:`model_build.network.fcn.fcn`.
        description: fields that follow from the network are filled in.
        half: store the kernels as float16, for half the size. They must be exact in float16.

    Returns:
        The description as written.

    Raises:
        JobError: the exported program does not compute the same as the network; nothing is written.
    """
    from model_build import saved_model
    from model_build.export import export
    from model_build.network.weights import save_weights
    from model_build.program import IMAGES, LOGITS

    exported = export(model, half=half)
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        saved_model.write(Path(scratch) / NETWORK, exported.program.graph, IMAGES, LOGITS)
        save_weights(Path(scratch) / WEIGHTS, model, half=half)
        shutil.rmtree(root / NETWORK, ignore_errors=True)
        for name in (NETWORK, WEIGHTS):
            (Path(scratch) / name).replace(root / name)
    shift = exported.shift
    if shift is not None and not is_near(exported.stride, shift):
        shift = None
    scores = Scores(exported.stride, shift, len(exported.program.averaged))
    described = replace(
        description,
        parameters=model.count_params(),
        scores=scores,
        weights=_hash_of(root / WEIGHTS),
        kind=PROGRAM,
    )
    return write_description(root, described)


def write_description(folder: str | Path, description: Description) -> Description:
    """Writes the ``model.json`` of a local folder, next to its SavedModel.

    Args:
        folder: the saved-model folder.
        description: its ``fingerprint`` is filled in here.

    Returns:
        The description as written.
    """
    written = replace(description, fingerprint=fingerprint(folder, description))
    text = json.dumps(written.to_json(), indent=1, ensure_ascii=False)
    (Path(folder) / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    return written


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fingerprint(folder: str | Path, description: Description) -> str:
    """Returns a sha256, in hex, over everything that decides a network's results.

    It covers the names and bytes of the SavedModel's files, except those left by file managers, and
    :meth:`Description.decides`.

    Args:
        folder: the saved-model folder.
        description: its ``model.json``. In a folder of the earlier format only files count.
    """
    root = Path(folder) / NETWORK
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if is_never_file(path.name) or not path.is_file():
            continue
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    if description.format == FORMAT:
        digest.update(json.dumps(description.decides(), sort_keys=True).encode())
    return digest.hexdigest()


def describe(folder: str | Path, *, name: str | None = None) -> Description:
    """Reads the ``model.json`` of a local folder.

    Args:
        folder: the saved-model folder.
        name: its name in messages, such as the URI it was copied from; by default its path.

    Raises:
        UserError: it is missing or invalid.
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
        UserError: it is not valid JSON, or not a valid description.
    """
    try:
        value = json.loads(data)
    except ValueError:
        raise UserError(f"{where}: is not valid JSON; copy or train the model again") from None
    try:
        number = value["format"]
        if type(number) is not int or number not in (FORMAT, EARLIER_FORMAT):
            raise UserError(
                f"{where}: has format {str(number)[:40]}, but this version reads {FORMAT} and "
                f"{EARLIER_FORMAT}; train it again, or use the version of fcn-beam that saved it"
            )
        known = {field.name for field in fields(Description)} | {"palette", "ignore_index"}
        if number == EARLIER_FORMAT:
            known -= {"scores", "weights", "kind"}
        _check_fields(value, known, where)
        kind = value.get("kind", SAVED_MODEL)
        if kind not in KINDS:
            raise UserError(f"{where}: its kind is {str(kind)[:40]!r}; use {' or '.join(KINDS)}")
        stride = _whole(value, "stride", range(1, MAX_STRIDE + 1))
        return Description(
            backbone=str(value["backbone"]),
            labels=LabelSet.from_json(value, where),
            normalisation=dict(value["normalisation"]),
            stride=stride,
            long_side=_whole(value, "long_side", range(1, sys.maxsize)),
            parameters=int(value["parameters"]),
            training=dict(value["training"]),
            fingerprint=str(value["fingerprint"]),
            architecture=dict(value.get("architecture", {})),
            scores=_parse_scores(value.get("scores", {}), stride, where),
            weights=str(value.get("weights", "")),
            kind=kind,
            format=number,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: not a model description ({error!r}); copy or train the model again"
        ) from None


def _parse_scores(value: Any, stride: int, where: str) -> Scores:
    """Parses the grid of scores on an image whose sides are multiples of a stride."""
    if not isinstance(value, dict):
        raise TypeError("scores is no object")
    _check_fields(value, {field.name for field in fields(Scores)}, f"{where}: scores")
    given = asdict(Scores()) | value
    own = _whole(given, "stride", range(1, stride + 1))
    if stride % own:
        raise ValueError(f"scores of stride {own}, which does not divide {stride}")
    shift = given["shift"]
    if shift is not None and (isinstance(shift, bool) or not is_near(own, shift)):
        raise ValueError(f"a shift of {shift}")
    averages = _whole(given, "averages", range(MAX_AVERAGES + 1))
    return Scores(own, None if shift is None else float(shift), averages)


def _check_fields(value: dict[str, Any], known: Collection[str], where: str) -> None:
    if unknown := sorted(value.keys() - known):
        raise UserError(
            f"{where}: has the unknown field {unknown[0][:40]!r}: it was saved by a later "
            "version of fcn-beam; use that one"
        )


def _whole(value: dict[str, Any], name: str, allowed: range) -> int:
    number = value[name]
    if type(number) is not int or number not in allowed:
        raise ValueError(f"{name} is {str(number)[:40]}")
    return number


def check_files(folder: str | Path, description: Description, *, name: str | None = None) -> None:
    """Checks that a local SavedModel's files match the fingerprint in its ``model.json``.

    Raises:
        UserError: a file changed, is missing or was cut short since it was saved.
    """
    found = fingerprint(folder, description)
    if found != description.fingerprint:
        raise UserError(
            f"{_join(name or str(folder), NETWORK)}: does not match {DESCRIPTION} "
            f"(fingerprint {found[:12]}, not {description.fingerprint[:12]}): a file is truncated, "
            "changed or missing; copy or train the model again"
        )


def check_weights(folder: str | Path, description: Description) -> None:
    """Checks that a local folder's weights are those saved with its program.

    Raises:
        UserError: the file changed, is missing or was cut short since it was saved.
    """
    path = Path(folder) / WEIGHTS
    try:
        found = _hash_of(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({cause(error)}); copy the model again") from None
    if found != description.weights:
        raise UserError(
            f"{path}: is not the file that {DESCRIPTION} was written for: it is truncated or "
            "changed; copy or train the model again"
        )


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"
