"""Draws the figures of a training: curves, confusion matrix and samples, saved as PNG.

Figures are created without pyplot and its global state.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model_build.data.labels import VOID, LabelSet, label2image
from model_build.training.history import best_epoch, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Matplotlib logs the caches it builds and the folders it cannot write to; irrelevant here.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

CURVES = (("loss", "loss"), ("accuracy", "pixel accuracy"), ("miou", "mIoU"))
TRAINING, VALIDATION, BEST = "#7a869a", "#d9480f", "#2b8a3e"
MAX_CLASSES_WITH_NUMBERS = 25  # in the cells of a confusion matrix
MAX_NAME = 24  # characters of a class name at a confusion matrix

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw_history(rows: Sequence[Mapping[str, str]], path: str | Path) -> None:
    """Saves :func:`history_figure` as a PNG.

    Raises:
        OSError: the file cannot be written.
    """
    _save(history_figure(rows), path)


def draw_confusion(matrix: np.ndarray, label_names: Sequence[str], path: str | Path) -> None:
    """Saves :func:`confusion_figure` as a PNG.

    Raises:
        OSError: the file cannot be written.
    """
    _save(confusion_figure(matrix, label_names), path)


def draw_samples(samples: Sequence[Sample], labels: LabelSet, path: str | Path) -> None:
    """Saves :func:`samples_figure` as a PNG.

    Raises:
        OSError: the file cannot be written.
    """
    _save(samples_figure(samples, labels), path)


def history_figure(rows: Sequence[Mapping[str, str]]) -> Figure:
    """Plots loss, pixel accuracy and mIoU by epoch, in training and validation.

    Args:
        rows: of ``history.csv``, as read by :class:`csv.DictReader`: ``epoch``, ``loss``,
            ``accuracy``, ``miou`` and the same with ``val_``, all text; other columns are ignored,
            and missing or empty values leave a gap.

    Returns:
        A figure of three axes with the epoch of the best validation mIoU marked.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _figure(12, 4)
    epochs = [int(row["epoch"]) for row in rows]
    best = epochs.index(epoch) if (epoch := best_epoch(rows)) else None
    for axes, (column, title) in zip(figure.subplots(1, 3), CURVES, strict=True):
        for prefix, name, color in (("", "training", TRAINING), ("val_", "validation", VALIDATION)):
            values = [number(row, prefix + column) for row in rows]
            axes.plot(epochs, values, "o-", color=color, markersize=4, label=name)
        if best is not None:
            value = number(rows[best], f"val_{column}")
            title = f"{title}: {value:.3f} in validation, epoch {epochs[best]}"
            axes.axvline(
                epochs[best], color=BEST, linestyle=":", zorder=1, label="best validation mIoU"
            )
            ring = {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.5}
            axes.plot(epochs[best], value, "o", color=BEST, **ring)
        axes.set(title=title, xlabel="epoch")
        if epochs:
            axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.set_ylim(0, None if column == "loss" else 1)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure


def confusion_figure(matrix: np.ndarray, label_names: Sequence[str]) -> Figure:
    """Plots a confusion matrix, each row as shares of the pixels of its true class.

    The colours follow the square root of the share, so that rare confusions are visible. With up to
    :data:`MAX_CLASSES_WITH_NUMBERS` classes the cells also contain percentages. The row of a class
    without pixels is grey.

    Args:
        matrix: int64 ``[classes, classes]``, pixels by true (rows) and predicted class (columns).
        label_names: the classes' names.

    Returns:
        A figure of two axes: the matrix and its colour bar.
    """
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import PercentFormatter

    classes = len(label_names)
    totals = matrix.sum(axis=1, keepdims=True)
    absent = np.broadcast_to(totals == 0, matrix.shape)
    shares = np.ma.masked_array(matrix / np.maximum(totals, 1), absent)
    names = [name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…" for name in label_names]
    legible = classes <= MAX_CLASSES_WITH_NUMBERS
    side = max(3.0, classes * (0.45 if legible else 0.15))
    margin = 0.6 + 0.08 * max(map(len, names))
    figure = _figure(side + margin + 1, side + margin)
    axes = figure.subplots()
    colors = colormaps["Blues"].with_extremes(bad="0.85")
    image = axes.imshow(shares, colors, PowerNorm(0.5, 0, 1), interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1), aspect=8 * side, pad=0.02)
    bar.outline.set_visible(False)
    size = 9 if legible else 6.5
    axes.set_xticks(range(classes), names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(classes), names, fontsize=size, parse_math=False)
    axes.set(
        xlabel="predicted class", ylabel="true class", title="share of the true class's pixels, %"
    )
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    for row in range(classes):
        if not totals[row]:
            axes.get_yticklabels()[row].set_color("0.6")
            axes.text(
                (classes - 1) / 2,
                row,
                "no pixels",
                color="0.5",
                size=size,
                ha="center",
                va="center",
            )
            continue
        for column in range(classes) if legible else ():
            share = shares[row, column]
            if text := _percent(share):
                color = "white" if share > 0.4 else "0.2"
                axes.text(column, row, text, color=color, size=8, ha="center", va="center")
    return figure


def _percent(share: float) -> str:
    """Formats a share as ``"37"``; "" if it would round to zero."""
    text = f"{100 * share:.0f}"
    return "" if text == "0" else text


def samples_figure(samples: Sequence[Sample], labels: LabelSet) -> Figure:
    """Plots photos, predictions and truths, one column per photo.

    As at the end of "Fully Convolutional Networks" in Dive into Deep Learning.

    Args:
        samples: at least one of (photo uint8 ``[h, w, 3]``, prediction uint8 ids ``[h, w]``, truth
            uint8 ids ``[h, w]`` with 255 for void), of any sizes.
        labels: colours and names of the ids.

    Returns:
        A figure of three rows of axes, and a legend of the classes that occur.
    """
    from matplotlib.patches import Patch

    height = 2.2  # inches per row
    ratios = [min(max(photo.shape[1] / photo.shape[0], 0.5), 2.5) for photo, _, _ in samples]
    width = height * sum(ratios) + 0.4
    ids = np.unique(np.concatenate([np.unique(ids) for sample in samples for ids in sample[1:]]))
    names = dict(enumerate(labels.names)) | {VOID: "void, not scored"}
    columns = max(1, int(width / (0.7 + 0.085 * max(len(names[i]) for i in ids))))
    lines = -(-len(ids) // columns)
    figure = _figure(width, 3 * height + 0.3 + 0.22 * lines)
    grid = figure.subplots(3, len(samples), squeeze=False, width_ratios=ratios)
    for column, (photo, prediction, truth) in enumerate(samples):
        images = (photo, label2image(prediction, labels), label2image(truth, labels))
        for axes, image in zip(grid[:, column], images, strict=True):
            # Interpolated colours at edges could be those of other classes.
            axes.imshow(image, interpolation="auto" if image is photo else "nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    for axes, title in zip(grid[:, 0], ("photo", "prediction", "truth"), strict=True):
        axes.set_ylabel(title, fontsize=12)
    colors = {i: "#" + label2image(i, labels).tobytes().hex() for i in ids}
    patches = [Patch(facecolor=colors[i], edgecolor="0.5", label=names[i]) for i in ids]
    legend = figure.legend(
        patches, [names[i] for i in ids], loc="outside lower center", ncols=columns, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _figure(width: float, height: float) -> Figure:
    """Creates an empty figure; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure((width, height), dpi=110, layout="constrained")


def _save(figure: Figure, path: str | Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as a box
        figure.savefig(path, format="png")
