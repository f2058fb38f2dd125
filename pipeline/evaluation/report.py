"""The report of an evaluation: as JSON and as a table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from model_build.common.console import visible
from model_build.data.labels import LabelSet
from model_build.data.masks import absence
from model_build.scores import scores

MAX_LINES = 10  # of one kind


def report(found: dict[str, Any], labels: LabelSet, skip_missing: bool = False) -> dict[str, Any]:
    """Computes the report from the findings.

    Args:
        found: from :func:`pipeline.evaluation.scoring.findings`.
        labels: of the data.
        skip_missing: leave out images that have no prediction or no truth. Bad files still count as
            faults.

    Returns:
        The form of ``--json``: ``scores``, ``absent`` (names), ``not_in_truth`` (names),
        ``classes``, ``skipped`` (names) and the findings. If there are faults or all pixels are
        void, ``scores`` is None and only ``images`` and ``faults`` are included.
    """
    faults = found["faults"]
    skipped = [fault for fault in faults if skip_missing and fault["missing"]]
    matrix = np.array(found["confusion_matrix"])
    if len(skipped) < len(faults) or not matrix.any():
        return {"scores": None, "images": found["images"], "faults": faults}
    scored = asdict(scores(matrix))
    classes = [
        {"name": name, "iou": iou, "true_pixels": int(true), "predicted_pixels": int(predicted)}
        for name, iou, true, predicted in zip(
            labels.names, scored.pop("iou"), matrix.sum(axis=1), matrix.sum(axis=0), strict=True
        )
    ]
    return {
        "scores": scored,
        "absent": [row["name"] for row in classes if row["iou"] is None],
        "not_in_truth": [row["name"] for row in classes if not row["true_pixels"]],
        "classes": classes,
        "skipped": sorted({fault["name"] for fault in skipped}),
        **found,
    }


def table(report: dict[str, Any]) -> str:
    """Formats a report that has scores as a table."""
    scored, classes, absent = report["scores"], report["classes"], report["absent"]
    known = sum(row["true_pixels"] for row in classes)
    true = sum(row["true_pixels"] > 0 for row in classes)
    width = max(24, *(len(row["name"]) for row in classes)) + 2
    lines = [f"{'class':<{width}}{'IoU':>8}{'true':>12}{'predicted':>12}"]
    for row in classes:
        iou = "absent" if row["iou"] is None else f"{row['iou']:.4f}"
        shares = [100 * row[pixels] / known for pixels in ("true_pixels", "predicted_pixels")]
        columns = "".join(f"{share:>10.2f} %" for share in shares)
        lines.append(f"{row['name']:<{width}}{iou:>8}{columns}")
    if absent:
        lines += [
            "",
            f"in neither true nor predicted masks, so left out of the mean: {', '.join(absent)}",
        ]
    names, pixels = zip(*((row["name"], row["true_pixels"]) for row in classes), strict=True)
    if missing := absence(names, pixels, report.get("void_pixels", 0)):
        lines += ["", f"true masks: {missing}"]
    ignored = report["ignored_pixels"]
    of_classes = f"of {len(classes)} classes"
    rows = [
        ("pixel accuracy", f"{scored['pixel_accuracy']:.4f}"),
        (
            "mean accuracy",
            f"{scored['mean_accuracy']:.4f} ({true} {of_classes}: those in the true masks)",
        ),
        ("mIoU", f"{scored['miou']:.4f} ({len(classes) - len(absent)} {of_classes})"),
        ("frequency-weighted IoU", f"{scored['frequency_weighted_iou']:.4f}"),
        ("images", f"{report['images']}"),
        ("ignored pixels", f"{ignored} ({100 * ignored / (known + ignored):.2f} %)"),
    ]
    if unknown := report["unknown_color_pixels"]:
        rows.append(("  in an unknown colour", f"{unknown}"))
    if reordered := report.get("reordered_palettes"):
        rows.append(("masks by palette colour", f"{reordered}, as the order is not the labels'"))
    if scaled := report["scaled"]:
        each = [f"{name}: {sizes}" for name, sizes in scaled.items()]
        rows.append(
            (
                "scaled predictions",
                f"{len(scaled)}, to the true mask's size ({', '.join(shorten(each))})",
            )
        )
    if skipped := report["skipped"]:
        rows.append(("skipped as missing", f"{len(skipped)} ({', '.join(shorten(skipped))})"))
    return "\n".join([*lines, "", *(f"{name:<{width}}{value}" for name, value in rows)])


def shorten(texts: list[str]) -> list[str]:
    """Returns the first few texts and the number of further ones."""
    more = len(texts) - MAX_LINES
    return [*texts[:MAX_LINES], f"and {more} more"] if more > 0 else texts


def _state(fault: dict[str, Any]) -> str:
    return "no" if fault["missing"] else "bad"


def complaint(report: dict[str, Any], names: int, skip_missing: bool = False) -> list[str]:
    """Explains why a report has no scores: a line with the remedy, then one line per file.

    Args:
        names: number of images in the split.
        skip_missing: see :func:`report`.
    """
    every = report["faults"]
    faults = [fault for fault in every if not (skip_missing and fault["missing"])]
    if not faults and report["images"]:
        return [f"no scores: all pixels of the {report['images']} true masks are void"]
    faults = faults or every
    lines = [
        visible(f"{fault['file']}: {_state(fault)} {fault['what']}: {fault['detail']}")
        for fault in faults
    ]
    remedy = "fix these files (--json FILE lists them all)"
    if not skip_missing and report["images"] and any(fault["missing"] for fault in faults):
        remedy += ", or add --skip-missing to leave out those that are missing"
    count = len({fault["name"] for fault in faults})
    return [f"no scores: {count} of {names} images cannot be scored; {remedy}", *shorten(lines)]
