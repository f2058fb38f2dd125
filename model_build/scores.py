"""Computes the scores of a segmentation from its confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model_build.data.labels import VOID


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Counts pixels by their true and their predicted class.

    Args:
        truth: uint8 class ids of any shape; void (255) is left out.
        prediction: class ids of the same shape, below ``classes`` wherever the truth is not void.

    Returns:
        int64 ``[classes, classes]``: rows are true classes, columns predicted ones.

    Raises:
        ValueError: the shapes differ, or an id is not a class.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"the truth is of shape {truth.shape}, its prediction {prediction.shape}")
    known = truth != VOID
    rows, columns = truth[known].astype(np.int64), prediction[known].astype(np.int64)
    for ids in (rows, columns):
        wrong = ids[(ids < 0) | (ids >= classes)]
        if wrong.size:
            raise ValueError(f"class id {wrong[0]} is outside the {classes} classes")
    counts = np.bincount(rows * classes + columns, minlength=classes * classes)
    return counts.reshape(classes, classes)


@dataclass(frozen=True)
class Scores:
    """The four scores of the field (Long, Shelhamer & Darrell 2015, section 5), from 0 to 1.

    A class that is in neither truth nor prediction has no IoU and is left out of the means.

    Attributes:
        pixel_accuracy: share of the pixels whose class is right.
        mean_accuracy: mean over the true classes of the share of their pixels that is right.
        miou: mean over the classes of ``iou``.
        frequency_weighted_iou: ``iou`` weighted by the classes' shares of the true pixels.
        iou: intersection over union by class; None for an absent class.
    """

    pixel_accuracy: float
    mean_accuracy: float
    miou: float
    frequency_weighted_iou: float
    iou: tuple[float | None, ...]


def scores(matrix: np.ndarray) -> Scores:
    """Computes the scores of a confusion matrix, rows true, columns predicted.

    Args:
        matrix: int64 ``[classes, classes]``.

    Raises:
        ValueError: the matrix counts no pixel.
    """
    total = matrix.sum()
    if not total:
        raise ValueError("no pixel to score: all are void")
    right, true = np.diag(matrix), matrix.sum(axis=1)
    union = true + matrix.sum(axis=0) - right
    present, in_truth = union > 0, true > 0
    iou = right[present] / union[present]
    per_class: list[float | None] = [None] * len(matrix)
    for index, value in zip(np.flatnonzero(present), iou, strict=True):
        per_class[index] = float(value)
    return Scores(
        pixel_accuracy=float(right.sum() / total),
        mean_accuracy=float((right[in_truth] / true[in_truth]).mean()),
        miou=float(iou.mean()),
        frequency_weighted_iou=float((true[present] * iou).sum() / total),
        iou=tuple(per_class),
    )
