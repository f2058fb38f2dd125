"""Totals of a run: tallied in the graph, written as ``summary.json``, printed as a table."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.rejects import Reject

Tally = Counter[tuple[str, ...]]


def tally_row(row: dict[str, Any]) -> Tally:
    """Counts of one histogram row."""
    tally: Tally = Counter({("pixels", label): count for label, count in row["pixels"].items()})
    tally[("masks",)] = 1
    return tally


def tally_kept(row: dict[str, Any]) -> Tally:
    """Counts of a mask that an earlier run has written; its row is tallied as well."""
    return Counter({("kept",): 1})


def tally_reject(reject: Reject) -> Tally:
    """Counts of one reject."""
    return Counter({("rejected",): 1, ("cause", reject.stage, reject.error): 1})


def tally_passed_over(file: Any) -> Tally:
    """Counts of one file that is no image."""
    return Counter({("skipped",): 1})


def sum_tallies(tallies: Iterable[Tally]) -> Tally:
    """The sum; a Beam combiner."""
    total: Tally = Counter()
    for tally in tallies:
        total.update(tally)
    return total


def summarise(
    total: Tally, *, labels: Iterable[str], fingerprint: str, options: dict[str, Any]
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        total: over all rows, rejects and files passed over.
        labels: names of all labels.
        fingerprint: of the model.
        options: of the run; ``started`` tells its begin in seconds since 1970.
    """
    images = total[("masks",)] + total[("rejected",)]
    seconds = max(time.time() - options["started"], 1e-3)
    return {
        "images": images,
        "masks": total[("masks",)],
        "rejected": total[("rejected",)],
        "skipped": total[("skipped",)],
        "kept": total[("kept",)],
        "causes": {
            f"{key[1]}: {key[2]}": n for key, n in sorted(total.items()) if key[0] == "cause"
        },
        "pixels": {label: total[("pixels", label)] for label in labels},
        "seconds": round(seconds, 2),
        "images_per_second": round((images - total[("kept",)]) / seconds, 2),
        "model": fingerprint,
        "options": options,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of what decides the result."""
    found = {"python": platform.python_version()}
    for package in ("fcn-beam", "apache-beam", "tensorflow", "keras", "pillow", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def table(summary: dict[str, Any], stages: dict[str, float]) -> str:
    """The summary for people.

    Args:
        summary: from :func:`summarise`.
        stages: seconds by stage, see :func:`pipeline.progress.stage_seconds`.
    """
    kept, causes, pixels = summary["kept"], summary["causes"], summary["pixels"]
    rows = [
        ("images", f"{summary['images']}"),
        ("masks", f"{summary['masks']}" + (f" ({kept} kept from an earlier run)" if kept else "")),
        ("rejected", f"{summary['rejected']}"),
        *((f"  {cause}", f"{count}") for cause, count in causes.items()),
        ("passed over", f"{summary['skipped']}"),
        ("time", f"{summary['seconds']:.1f} s, {summary['images_per_second']:.2f} images/s"),
        ("  spent on", ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in stages.items())),
        ("share of pixels", ""),
    ]
    everything = sum(pixels.values()) or 1
    shares = sorted(pixels.items(), key=lambda item: -item[1])
    rows += [(f"  {label}", f"{100 * n / everything:6.2f} %") for label, n in shares if n]
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{value}".rstrip() for name, value in rows)
