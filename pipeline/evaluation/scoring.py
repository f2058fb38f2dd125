"""Predicted masks against a data folder's true ones, as one Beam graph.

::

    examples ─► windows: predictions ─► count against the truth ─► sum ─► findings

An image's pixels are counted where its prediction is made or read: only its confusion matrix goes
further. A prediction is counted at the size of its truth.
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


class Counted(NamedTuple):
    """One image's pixels.

    Attributes:
        name: as the split lists it.
        matrix: see :func:`model_build.scores.confusion_matrix`.
        ignored: number of pixels whose truth is void.
        unknown: those of them that an RGB truth paints in a colour of no label.
        scaled: the prediction's size and the truth's, where they differ.
        void: number of pixels whose truth is stored as 255, which is void.
        reordered: how many of its two masks have the labels' colours in another order in their
            palettes, see :func:`model_build.data.masks.palette_order`.
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
) -> Iterator[Counted | Fault]:
    """Counts predictions' pixels against those of their truths, which are read at once.

    Yields:
        For each a :class:`Counted`; or what is wrong with the prediction, the truth, or both.
    """
    truths = files.read_each((prediction.truth, None) for prediction in predictions)
    for prediction, truth in zip(predictions, truths, strict=True):
        yield from _count(prediction, truth, labels)


def _count(
    prediction: Prediction, data: bytes | Exception, labels: LabelSet
) -> Iterator[Counted | Fault]:
    name, predicted = prediction.name, prediction.class_map
    # The truth is looked at where there is no prediction, too: one run tells all that is wrong.
    truth = decode_ids(name, prediction.truth, data, "truth", labels)
    if isinstance(predicted, Fault) or isinstance(truth, Fault):
        yield from (one for one in (predicted, truth) if isinstance(one, Fault))
        return
    ids = truth.ids
    at_source = enlarge(predicted, prediction.size)
    try:
        matrix = confusion_matrix(ids, enlarge(at_source, ids.shape), len(labels))
    except ValueError:  # void is the one id that a mask may hold and a prediction may not
        detail = "has void or an unknown colour where the true mask has a class; use class ids only"
        yield Fault(name, "prediction", False, prediction.file, detail)
        return
    same = at_source.shape == ids.shape
    scaled = "" if same else f"{_size(at_source)} to {_size(ids)}"
    ignored = ids.size - int(matrix.sum())
    void = ignored if truth.how == "ids" else 0
    reordered = [truth.how, prediction.how].count("palette")
    yield Counted(name, matrix, ignored, truth.unknown, scaled, void, reordered)


def _size(ids: np.ndarray) -> str:
    return f"{ids.shape[1]}×{ids.shape[0]}"


class CountWindow(beam.DoFn):
    """Lists of predictions → :class:`Counted`, and faults apart, see :func:`count_window`."""

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
        predict: lists of examples → lists of predictions: see
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
    """All that was found, as JSON can hold it.

    Args:
        matrix: the sum over all images that could be counted.
        notes: their :class:`Counted`, less the matrix, in any order.
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
        options: Beam's, with the local runner among them.

    Returns:
        The dict of :func:`findings`.

    Raises:
        JobError: what ended the job.
        KeyboardInterrupt: on Ctrl-C.
    """
    with temporary_folder() as scratch:
        path = f"{scratch}/findings.json"
        pipeline = beam.Pipeline(options=options)
        (
            pipeline
            | "Examples" >> beam.Create(examples)
            | "ScoreSplit" >> ScoreSplit(predict, labels, files)
            | "Keep" >> beam.Map(_keep, path)
        )
        run_pipeline(pipeline, listed=len(examples))
        return json.loads(Path(path).read_text())


def _keep(found: dict[str, Any], path: str) -> None:
    with on_temporary_disk():
        Path(path).write_text(json.dumps(found))
