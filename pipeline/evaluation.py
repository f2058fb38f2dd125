"""Predicted masks against a data folder's true ones, as one Beam graph.

::

    names ─► predictions ─► count against the truth ─► sum ─► findings

An image's pixels are counted where its prediction is made or read: only its confusion matrix goes
further. A prediction is counted at the size of its truth.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from model_build.dataset import Layout
from model_build.labels import LabelSet
from model_build.scores import confusion_matrix
from pipeline import progress
from pipeline.predictions import Fault, FaultsApart, Prediction, read_ids
from pipeline.progress import COUNTS
from pipeline.shapes import restore


class Counted(NamedTuple):
    """One image's pixels.

    Attributes:
        name: as the split lists it.
        matrix: see :func:`model_build.scores.confusion_matrix`.
        ignored: number of pixels whose truth is void.
        unknown: those of them that an RGB truth paints in a colour of no label.
        scaled: the prediction's size and the truth's, where they differ.
    """

    name: str
    matrix: np.ndarray
    ignored: int
    unknown: int
    scaled: str


def count(found: Prediction | Fault, where: Layout, labels: LabelSet) -> Iterator[Counted | Fault]:
    """Counts a prediction's pixels against its truth's.

    Yields:
        A :class:`Counted`; or what is wrong with the prediction, the truth, or both.
    """
    truth = read_ids(found.name, where.mask(found.name), "truth", labels)
    if isinstance(found, Fault) or isinstance(truth, Fault):
        COUNTS.add(rejects=1)
        yield from (one for one in (found, truth) if isinstance(one, Fault))
        return
    ids, unknown = truth
    predicted = restore(found.class_map, found.class_map, ids.shape)
    try:
        matrix = confusion_matrix(ids, predicted, len(labels))
    except ValueError:  # void is the one id that a mask may hold and a prediction may not
        COUNTS.add(rejects=1)
        detail = "holds void, or a colour of no label, where the truth has a label; predict labels"
        yield Fault(found.name, "prediction", False, found.file, detail)
        return
    COUNTS.add(masks=1)
    same = found.class_map.shape == ids.shape
    scaled = "" if same else f"{_size(found.class_map)} to {_size(ids)}"
    yield Counted(found.name, matrix, ids.size - int(matrix.sum()), unknown, scaled)


def _size(ids: np.ndarray) -> str:
    return f"{ids.shape[1]}×{ids.shape[0]}"


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


class EvaluateSplit(beam.PTransform):
    """Names → one element, the dict of :func:`findings`.

    Args:
        predict: names → predictions, and faults: see :mod:`pipeline.predictions`.
        where: the data folder.
        labels: its labels.
    """

    def __init__(self, predict: beam.PTransform, where: Layout, labels: LabelSet):
        super().__init__()
        self.predict, self.where, self.labels = predict, where, labels

    def expand(self, names):
        counting = {"where": self.where, "labels": self.labels}
        predictions, unpredicted = names | "Spread" >> beam.Reshuffle() | "Predict" >> self.predict
        counted, faults = (
            predictions | "Count" >> beam.FlatMap(count, **counting) | "Counted" >> FaultsApart()
        )
        # The truth is looked at where there is no prediction, too: one run tells all that is wrong.
        more = unpredicted | "CheckTruth" >> beam.FlatMap(count, **counting)
        matrix = (
            counted
            | "Matrices" >> beam.Map(lambda image: image.matrix)
            | "Sum" >> beam.CombineGlobally(ConfusionMatrixFn(len(self.labels)))
        )
        notes = (
            counted
            | "Notes" >> beam.Map(lambda image: image._replace(matrix=None)._asdict())
            | "AllNotes" >> beam.combiners.ToList()
        )
        fault_rows = (
            (faults, more)
            | "AllFaults" >> beam.Flatten()
            | "FaultRows" >> beam.Map(lambda fault: fault._asdict())
            | "ListFaults" >> beam.combiners.ToList()
        )
        return matrix | "Findings" >> beam.Map(
            findings, beam.pvalue.AsSingleton(notes), beam.pvalue.AsSingleton(fault_rows)
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
        "scaled": {note["name"]: note["scaled"] for note in notes if note["scaled"]},
        "confusion_matrix": matrix.tolist(),
        "faults": sorted(faults, key=lambda fault: (fault["name"], fault["what"])),
    }


def evaluate(
    names: list[str],
    predict: beam.PTransform,
    where: Layout,
    labels: LabelSet,
    options: PipelineOptions,
) -> dict[str, Any]:
    """Runs :class:`EvaluateSplit` in this process and waits for it.

    Args:
        options: Beam's, with the local runner among them.

    Returns:
        The dict of :func:`findings`.

    Raises:
        Exception: what ended the job.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = f"{scratch}/findings.json"
        pipeline = beam.Pipeline(options=options)
        (
            pipeline
            | "Names" >> beam.Create(names)
            | "EvaluateSplit" >> EvaluateSplit(predict, where, labels)
            | "Keep" >> beam.Map(_keep, path)
        )
        with progress.shown():
            COUNTS.add(listed=len(names))
            pipeline.run().wait_until_finish()
        return json.loads(Path(path).read_text())


def _keep(found: dict[str, Any], path: str) -> None:
    Path(path).write_text(json.dumps(found))
