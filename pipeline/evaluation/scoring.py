"""Scores predicted masks against a data folder's true ones in one Beam graph.

::

    examples ─► windows: predictions ─► count against the truth ─► sum ─► findings

An image's pixels are counted on the worker that makes or reads its prediction: only the confusion
matrix is passed on. Predictions are scaled to the size of the truth before they are counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from model_build.data.labels import LabelSet
from model_build.scores import confusion_matrix
from pipeline.evaluation.predictions import Example, Fault, Prediction, decode_ids
from pipeline.images.sizes import enlarge
from pipeline.runners.progress import count
from pipeline.runners.run import run_pipeline
from pipeline.segmentation.windows import Windowed
from pipeline.storage import Files, on_temporary_disk, temporary_folder


class PixelCounts(NamedTuple):
    """One image's pixels.

    Attributes:
        name: as the split lists it.
        matrix: see :func:`model_build.scores.confusion_matrix`.
        ignored: number of pixels whose truth is void.
        unknown: number of these whose colour in an RGB truth is no label's.
        scaled: the prediction's size and the truth's, if they differ.
        void: number of pixels whose truth is stored as 255.
        reordered: number of its two masks whose palettes have the labels' colours in another order,
            see :func:`model_build.data.masks.palette_order`.
    """

    name: str
    matrix: np.ndarray
    ignored: int
    unknown: int
    scaled: str
    void: int = 0
    reordered: int = 0


def count_window(
    predictions: Sequence[Prediction], labels: LabelSet, files: Files
) -> Iterator[PixelCounts | Fault]:
    """Counts predictions' pixels against their truths, which are read in one go.

    Yields:
        For each prediction its :class:`PixelCounts`; or the faults of prediction and truth.
    """
    truths = files.read_each((prediction.truth, None) for prediction in predictions)
    for prediction, truth in zip(predictions, truths, strict=True):
        yield from _count(prediction, truth, labels)


def _count(
    prediction: Prediction, data: bytes | Exception, labels: LabelSet
) -> Iterator[PixelCounts | Fault]:
    name, predicted = prediction.name, prediction.class_map
    # The truth is read even without a prediction, so that one run reports all faults.
    truth = decode_ids(name, prediction.truth, data, "truth", labels)
    if isinstance(predicted, Fault) or isinstance(truth, Fault):
        yield from (one for one in (predicted, truth) if isinstance(one, Fault))
        return
    ids = truth.ids
    at_source = enlarge(predicted, prediction.size)
    try:
        matrix = confusion_matrix(ids, enlarge(at_source, ids.shape), len(labels))
    except ValueError:  # a mask may contain void, a prediction may not
        detail = "has void or an unknown colour where the true mask has a class; use class ids only"
        yield Fault(name, "prediction", False, prediction.file, detail)
        return
    same = at_source.shape == ids.shape
    scaled = "" if same else f"{_size(at_source)} to {_size(ids)}"
    ignored = ids.size - int(matrix.sum())
    void = ignored if truth.how == "ids" else 0
    reordered = [truth.how, prediction.how].count("palette")
    yield PixelCounts(name, matrix, ignored, truth.unknown, scaled, void, reordered)


def _size(ids: np.ndarray) -> str:
    return f"{ids.shape[1]}×{ids.shape[0]}"


class CountWindow(beam.DoFn):
    """Lists of predictions → :class:`PixelCounts`, and faults as a second output."""

    def __init__(self, labels: LabelSet, files: Files):
        self.labels, self.files = labels, files

    def process(self, predictions):
        faulty = set()
        for found in count_window(predictions, self.labels, self.files):
            if isinstance(found, Fault):
                faulty.add(found.name)
                yield beam.pvalue.TaggedOutput("faults", found)
            else:
                count(masks=1)
                yield found
        count(rejects=len(faulty))


class ConfusionMatrixFn(beam.CombineFn):
    """Sums the confusion matrices of images: int64 ``[classes, classes]``."""

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes

    def create_accumulator(self):
        return np.zeros((self.classes, self.classes), np.int64)

    def add_input(self, accumulator, matrix):
        return accumulator + matrix

    def merge_accumulators(self, accumulators):
        return sum(accumulators, self.create_accumulator())

    def extract_output(self, accumulator):
        return accumulator


class ScoreSplit(beam.PTransform):
    """Examples → one element, the dict of :func:`findings`.

    Args:
        predict: lists of examples → lists of predictions, see
            :mod:`pipeline.evaluation.predictions`.
        labels: of the data.
    """

    def __init__(self, predict: beam.PTransform, labels: LabelSet, files: Files):
        super().__init__()
        self.predict, self.labels, self.files = predict, labels, files

    def expand(self, examples):
        counted = (
            examples
            | "Spread" >> beam.Reshuffle()
            | "Window" >> Windowed()
            | "Predict" >> self.predict
            | "Count"
            >> beam.ParDo(CountWindow(self.labels, self.files)).with_outputs(
                "faults", main="counted"
            )
        )
        matrix = (
            counted.counted
            | "Matrices" >> beam.Map(lambda image: image.matrix)
            | "Sum" >> beam.CombineGlobally(ConfusionMatrixFn(len(self.labels)))
        )
        notes = counted.counted | "Notes" >> beam.Map(
            lambda image: image._replace(matrix=None)._asdict()
        )
        faults = counted.faults | "Faults" >> beam.Map(lambda fault: fault._asdict())
        return matrix | "Findings" >> beam.Map(
            findings, beam.pvalue.AsList(notes), beam.pvalue.AsList(faults)
        )


def findings(
    matrix: np.ndarray, notes: list[dict[str, Any]], faults: list[dict[str, Any]]
) -> dict[str, Any]:
    """Returns all findings in JSON's types.

    Args:
        matrix: the sum over all counted images.
        notes: their :class:`PixelCounts` without the matrix, in any order.
        faults: every :class:`Fault`, in any order.
    """
    notes = sorted(notes, key=lambda note: note["name"])
    return {
        "images": len(notes),
        "ignored_pixels": sum(note["ignored"] for note in notes),
        "unknown_color_pixels": sum(note["unknown"] for note in notes),
        "void_pixels": sum(note.get("void", 0) for note in notes),
        "reordered_palettes": sum(note.get("reordered", 0) for note in notes),
        "scaled": {note["name"]: note["scaled"] for note in notes if note["scaled"]},
        "confusion_matrix": matrix.tolist(),
        "faults": sorted(faults, key=lambda fault: (fault["name"], fault["what"])),
    }


def score(
    examples: Sequence[Example],
    predict: beam.PTransform,
    labels: LabelSet,
    files: Files,
    options: PipelineOptions,
) -> dict[str, Any]:
    """Runs :class:`ScoreSplit` in this process and waits for it.

    Args:
        options: Beam's, set to the local runner.

    Returns:
        The dict of :func:`findings`.

    Raises:
        JobError: the job failed.
        KeyboardInterrupt: on Ctrl-C.
    """
    with temporary_folder() as scratch:
        path = f"{scratch}/findings.json"
        pipeline = beam.Pipeline(options=options)
        (
            pipeline
            | "Examples" >> beam.Create(examples)
            | "ScoreSplit" >> ScoreSplit(predict, labels, files)
            | "Keep" >> beam.Map(_write_findings, path)
        )
        run_pipeline(pipeline, listed=len(examples))
        return json.loads(Path(path).read_text())


def _write_findings(found: dict[str, Any], path: str) -> None:
    with on_temporary_disk():
        Path(path).write_text(json.dumps(found))
