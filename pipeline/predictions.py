"""Names of a split → predicted masks: read from a folder, or made by a model as ``segment`` does.

What cannot be had is a :class:`Fault`, an element among the others: nothing raises for one image.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import RunInference

from model_build.dataset import Layout, read_mask
from model_build.errors import UserError, first_line
from model_build.labels import LabelSet
from pipeline.inference import Photo, SegmentationHandler, Segmented
from pipeline.job import read_photo
from pipeline.rejects import Reject


class Prediction(NamedTuple):
    """A predicted class map, uint8 ``[h, w]``.

    Attributes:
        name: as the split lists it.
        file: the mask it was read from, or the photo it was made of.
        class_map: class ids, or 255 where the mask says void.
    """

    name: str
    file: str
    class_map: np.ndarray


class Fault(NamedTuple):
    """Why an image cannot be scored.

    Attributes:
        name: as the split lists it.
        what: ``"prediction"`` or ``"truth"``.
        missing: there is none, rather than one that is bad.
        file: its path; where a model should have made it, the photo's.
        detail: the cause in a sentence.
    """

    name: str
    what: str
    missing: bool
    file: str
    detail: str


def read_ids(name: str, path: Path, what: str, labels: LabelSet) -> tuple[np.ndarray, int] | Fault:
    """:func:`model_build.dataset.read_mask`, but for a fault; ``what`` is as in :class:`Fault`."""
    if not path.exists():
        return Fault(name, what, True, str(path), "no such file")
    try:
        return read_mask(str(path), labels)
    except Exception as error:  # whatever is wrong with one mask is told of that mask
        detail = first_line(error).removeprefix(f"{path}: ")
        return Fault(name, what, False, str(path), detail)


def read_prediction(name: str, folder: str, labels: LabelSet) -> Prediction | Fault:
    """Reads the mask ``folder/NAME.png``: palette, grey or RGB, as true masks are."""
    path = Path(folder) / f"{name}.png"
    found = read_ids(name, path, "prediction", labels)
    return found if isinstance(found, Fault) else Prediction(name, str(path), found[0])


def read_named_photo(
    name: str, where: Layout, long_side: int | None, max_pixels: int
) -> Photo | Fault:
    """Reads the photo of a name as ``segment`` does."""
    path = where.image(name)
    if path is None:
        return Fault(name, "prediction", True, str(where.expected(name)), "no such file")
    photo = read_photo(str(path), name, f"{name}.png", long_side=long_side, max_pixels=max_pixels)
    return _no_mask(photo, name) if isinstance(photo, Reject) else photo


def as_prediction(segmented: Segmented | Reject, where: Layout) -> Prediction | Fault:
    """What the network made of a photo."""
    if isinstance(segmented, Reject):
        below = Path(segmented.image).relative_to(where.root / where.images)
        return _no_mask(segmented, below.with_suffix("").as_posix())
    photo, class_map = segmented
    return Prediction(photo.name, photo.path, class_map)


def _no_mask(reject: Reject, name: str) -> Fault:
    # `segment` writes no mask for a photo it rejects: to score, that is a missing one.
    detail = f"{reject.stage}: {reject.error}: {reject.detail}"
    return Fault(name, "prediction", True, reject.image, detail)


class FaultsApart(beam.PTransform):
    """Elements of which some are a :class:`Fault` → the others, and the faults."""

    def expand(self, elements):
        apart = elements | beam.ParDo(_TagFaults()).with_outputs("faults", main="others")
        return apart.others, apart.faults


class _TagFaults(beam.DoFn):
    def process(self, element):
        is_fault = isinstance(element, Fault)
        yield beam.pvalue.TaggedOutput("faults", element) if is_fault else element


class ReadMasks(beam.PTransform):
    """Names → predictions read from a folder, and faults."""

    def __init__(self, folder: str, labels: LabelSet):
        super().__init__()
        self.folder, self.labels = folder, labels

    def expand(self, names):
        reading = beam.Map(read_prediction, folder=self.folder, labels=self.labels)
        return names | "ReadMasks" >> reading | "FaultsApart" >> FaultsApart()


class PredictMasks(beam.PTransform):
    """Names → the masks that ``segment`` would write for their photos, and faults.

    Args:
        where: the data folder.
        handler: runs the model.
        long_side: see :class:`pipeline.job.Settings`.
        max_pixels: likewise.
    """

    def __init__(
        self, where: Layout, handler: SegmentationHandler, long_side: int | None, max_pixels: int
    ):
        super().__init__()
        self.where, self.handler = where, handler
        self.long_side, self.max_pixels = long_side, max_pixels

    def expand(self, names):
        reading = beam.Map(
            read_named_photo,
            where=self.where,
            long_side=self.long_side,
            max_pixels=self.max_pixels,
        )
        photos, unread = names | "ReadAndDecode" >> reading | "Photos" >> FaultsApart()
        predictions, failed = (
            photos
            | "Segment" >> RunInference(self.handler)
            | "Predictions" >> beam.Map(as_prediction, where=self.where)
            | "FaultsApart" >> FaultsApart()
        )
        return predictions, (unread, failed) | "Faults" >> beam.Flatten()


def check_folder(folder: str, names: Sequence[str]) -> None:
    """Tells a folder of masks from the one above or below it.

    Raises:
        UserError: there is no such folder, or it has none of the masks itself, but a folder below
            it has the first one.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{folder}: no such folder; name the one that holds the predicted masks")
    if any((root / f"{name}.png").exists() for name in names):
        return
    for found in root.rglob(f"{glob.escape(names[0])}.png"):
        below = str(found).removesuffix(f"/{names[0]}.png")
        raise UserError(f"{folder}: holds none of the split's masks; did you mean {below}?")
