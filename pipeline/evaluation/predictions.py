"""Names of a split → predicted masks: read from a folder, or made by a model as in ``segment``.

An image that cannot be scored becomes a :class:`Fault`, an element like the others: no single image
raises an exception.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
import numpy as np

from model_build.common.errors import UserError, first_line
from model_build.data.labels import LabelSet
from model_build.data.masks import MaskFile, read_mask
from pipeline.images.decode import DecodeOptions
from pipeline.network.handler import EngineOptions
from pipeline.records import ImageRef, Photo, Reject, Task, Window
from pipeline.segmentation.windows import ReadWindows, infer
from pipeline.storage import File, Files, is_remote


class Example(NamedTuple):
    """An image to score.

    Attributes:
        name: as the split lists it.
        photo: path or URI of its photo, or the path where it is expected.
        truth: likewise of its true mask.
    """

    name: str
    photo: str
    truth: str


class Fault(NamedTuple):
    """Why an image cannot be scored.

    Attributes:
        name: as the split lists it.
        what: ``"prediction"`` or ``"truth"``.
        missing: the file does not exist; False if it is bad.
        file: its path; the photo's if a model should have made it.
        detail: the cause in a sentence.
    """

    name: str
    what: str
    missing: bool
    file: str
    detail: str


class Prediction(NamedTuple):
    """A predicted class map.

    Attributes:
        name: as the split lists it.
        file: the mask it was read from, or the photo it was made from.
        truth: path or URI of the true mask.
        class_map: uint8 class ids ``[h, w]``, 255 for void; or a fault.
        size: (height, width) of the full-size class map, of which this may be a smaller version.
        how: how the mask was read, see :class:`model_build.data.masks.MaskFile`.
    """

    name: str
    file: str
    truth: str
    class_map: np.ndarray | Fault
    size: tuple[int, int] = (0, 0)
    how: str = "ids"


def decode_ids(
    name: str, path: str, data: bytes | Exception, what: str, labels: LabelSet
) -> MaskFile | Fault:
    """Decodes a mask; returns a fault with the given ``what`` if that fails."""
    if isinstance(data, FileNotFoundError | NotADirectoryError):
        return Fault(name, what, True, path, "no such file")
    try:
        if isinstance(data, Exception):
            raise data
        return read_mask(data, path, labels)
    except Exception as error:  # any error of one mask is reported for that mask
        return Fault(name, what, False, path, first_line(error).removeprefix(f"{path}: "))


def read_predictions(
    examples: Sequence[Example], folder: str, labels: LabelSet, files: Files
) -> Iterator[Prediction]:
    """Reads the masks ``folder/NAME.png``: palette, grey or RGB, as true masks are."""
    paths = [f"{folder.rstrip('/')}/{example.name}.png" for example in examples]
    masks = files.read_each((path, None) for path in paths)
    for example, path, data in zip(examples, paths, masks, strict=True):
        found = decode_ids(example.name, path, data, "prediction", labels)
        if isinstance(found, Fault):
            yield Prediction(example.name, path, example.truth, found)
        else:
            yield Prediction(
                example.name, path, example.truth, found.ids, found.ids.shape, found.how
            )


def as_task(example: Example) -> Task:
    """Returns the task of predicting an example."""
    return Task(ImageRef(example.photo, example.name), mask_name=example.truth)


def as_predictions(window: Window) -> Iterator[Prediction]:
    """Yields the predictions of a window whose tasks come from :func:`as_task`."""
    for task, photo, class_map in zip(*window, strict=True):
        name, path = task.image.name, task.image.path
        if isinstance(class_map, Reject):
            # `segment` writes no mask for a photo it rejects: for scores, the mask is missing.
            detail = f"{class_map.stage}: {class_map.error}: {class_map.detail}"
            if class_map.error == FileNotFoundError.__name__:
                detail = "no such file"
            fault = Fault(name, "prediction", True, path, detail)
            yield Prediction(name, path, task.mask_name, fault)
        else:
            assert isinstance(photo, Photo)  # only a photo has a class map
            size = photo.height, photo.width
            yield Prediction(name, path, task.mask_name, class_map, size)


class ReadMasks(beam.PTransform):
    """Lists of examples → lists of predictions read from a folder."""

    def __init__(self, folder: str, labels: LabelSet, files: Files):
        super().__init__()
        self.folder, self.labels, self.files = folder, labels, files

    def expand(self, examples):
        reading = {"folder": self.folder, "labels": self.labels, "files": self.files}
        return examples | "ReadMasks" >> beam.Map(
            lambda window, **reading: list(read_predictions(window, **reading)), **reading
        )


class PredictMasks(beam.PTransform):
    """Lists of examples → lists of the class maps of the masks that ``segment`` would write."""

    def __init__(self, decode: DecodeOptions, engine: EngineOptions, files: Files):
        super().__init__()
        self.decode, self.engine, self.files = decode, engine, files

    def expand(self, examples):
        return (
            examples
            | "Tasks" >> beam.Map(lambda window: [as_task(example) for example in window])
            | "Read" >> beam.ParDo(ReadWindows(self.decode, self.files))
            | "Infer" >> infer(self.engine, self.files)
            | "Predictions" >> beam.Map(lambda window: list(as_predictions(window)))
        )


def check_folder(folder: str, names: Sequence[str], files: Files) -> None:
    """Checks that a folder of masks is not the one above or below the intended one.

    Raises:
        UserError: there is no such folder, or the first mask is not there but in a folder below it.
    """
    files.check(folder)
    root = folder.rstrip("/")
    try:
        found = {file.path for file in files.list(root) if isinstance(file, File)}
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed: {first_line(error)}") from None
    if not found and (is_remote(folder) or not os.path.isdir(folder)):
        raise UserError(f"{folder}: no such folder; name the one with the predicted masks")
    if any(f"{root}/{name}.png" in found for name in names):
        return
    ending = f"/{names[0]}.png"
    for path in sorted(found):
        if path.endswith(ending):
            raise UserError(
                f"{folder}: has none of the split's masks; did you mean "
                f"{path.removesuffix(ending)}?"
            )
