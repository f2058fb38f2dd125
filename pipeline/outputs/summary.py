"""Totals of a run: tallied in the graph, written as ``summary.json``, told to people."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from model_build.common.console import visible
from pipeline.inputs import skipped
from pipeline.records import PassedOver, Reject, Row

NEVER_PHOTOS = "in folders of caches and systems"

Tally = Counter[tuple[str, ...]]


def tally_row(row: Row) -> Tally:
    """Counts of one histogram row."""
    tally: Tally = Counter({("pixels", label): count for label, count in row.pixels.items()})
    tally[("masks",)] = 1
    return tally


def tally_kept(row: Row) -> Tally:
    """Counts of a mask that an earlier run has written; its row is tallied as well."""
    tally: Tally = Counter({("kept",): 1})
    if row.recipe is None:
        tally[("edited",)] = 1
    if row.source.version is None:
        tally[("unversioned",)] = 1
    return tally


def tally_outside(mask: Any) -> Tally:
    """Counts of one mask that no image of this run has."""
    return Counter({("outside",): 1})


def tally_added(product: str) -> Tally:
    """Counts one product that was added to an existing mask."""
    return Counter({("added", product): 1})


def tally_reject(reject: Reject) -> Tally:
    """Counts of one reject."""
    return Counter({("rejected",): 1, ("cause", reject.stage, reject.error): 1})


def tally_passed_over(file: PassedOver) -> Tally:
    """Counts of one file that is no image."""
    tally: Tally = Counter({("skipped",): 1})
    if file.never_photo:
        tally[("never_photos",)] = 1
    elif skipped.has_another_extension(file):
        tally[("extension", skipped.extension(file.path))] = 1
    return tally


def sum_tallies(tallies: Iterable[Tally]) -> Tally:
    """The sum, in which the rarest extensions count as one if they are many; a Beam combiner."""
    total: Tally = Counter()
    for tally in tallies:
        total.update(tally)
    if len(total) > skipped.COUNTED:
        found = _extensions(total, skipped.COUNTED)
        total = Counter({key: n for key, n in total.items() if key[0] != "extension"})
        total.update({("extension", name): n for name, n in found.items()})
    return total


def _extensions(total: Tally, number: int) -> dict[str, int]:
    found = {key[1]: n for key, n in total.items() if key[0] == "extension"}
    return skipped.most_common(found, number)


def summarise(
    total: Tally, *, labels: Iterable[str], recipe: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        total: over all rows, rejects and files passed over.
        labels: names of all labels.
        recipe: that its masks are made by, as ``run.json`` has it.
        options: of the run; ``started`` tells its begin in seconds since 1970.
    """
    images = total[("masks",)] + total[("rejected",)]
    seconds = max(time.time() - options["started"], 1e-3)
    added = {key[1]: n for key, n in sorted(total.items()) if key[0] == "added"}
    worked_on = images - total[("kept",)] + max(added.values(), default=0)
    return {
        "images": images,
        "masks": total[("masks",)],
        "rejected": total[("rejected",)],
        "skipped": total[("skipped",)],
        "never_photos": total[("never_photos",)],
        "extensions": _extensions(total, skipped.EXTENSIONS),
        "look_like_images": total[("look_like_images",)],
        "kept": total[("kept",)],
        "edited": total[("edited",)],
        "unversioned": total[("unversioned",)],
        "outside": total[("outside",)],
        "added": added,
        "causes": {
            f"{key[1]}: {key[2]}": n for key, n in sorted(total.items()) if key[0] == "cause"
        },
        "pixels": {label: total[("pixels", label)] for label in labels},
        "seconds": round(seconds, 2),
        "images_per_second": round(worked_on / seconds, 2),
        "model": recipe["model"],
        "recipe": recipe,
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


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    Attributes:
        output: the output folder.
        images: number of images listed: ``masks`` and ``rejected`` add up to it.
        masks: of those, how many have a mask.
        kept: of the masks, how many an earlier run had made.
        edited: of those, how many were edited by hand since.
        unversioned: of those, how many have an image whose store tells no version: whether it has
            changed nobody knows.
        outside: masks in the output folder that no image of this run has.
        rejected: how many got none.
        skipped: files that were not taken for images.
        causes: rejects by stage and cause, as in ``"decode: TooManyPixels"``.
        pixels: pixels by label, over all masks.
        seconds: how long the run took.
        images_per_second: images that were worked on, by that.
        model: fingerprint of the model.
        recipe: that the masks are made by.
        options: of the run.
        versions: of what decides the result.
        run: its name.
        shards: names below the output folder of the files with its rows and rejects.
        stages: seconds that each stage took, over all workers.
        never_photos: of the files skipped, how many have a name, or are in a folder of a name, of
            :mod:`model_build.data.files`.
        extensions: files that were skipped for their extension, by it: the most common ones, with
            ``"none"`` for those without one and ``"other"`` for all further ones.
        look_like_images: of a sample of those, how many begin like an image.
        added: products that existing masks lacked and got; number by name.
    """

    output: str
    images: int = 0
    masks: int = 0
    kept: int = 0
    edited: int = 0
    unversioned: int = 0
    outside: int = 0
    rejected: int = 0
    skipped: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    pixels: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    images_per_second: float = 0.0
    model: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    run: str = ""
    shards: list[str] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    never_photos: int = 0
    extensions: dict[str, int] = field(default_factory=dict)
    look_like_images: int = 0
    added: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, output: str, content: dict[str, Any], stages: dict[str, float]) -> Summary:
        """From the content of ``summary.json``, also of an earlier or later version.

        Fields that are not known are left out, those that are missing are empty.
        """
        known = {field.name for field in fields(cls)} - {"output", "stages"}
        values = {name: value for name, value in content.items() if name in known}
        return cls(output=output, stages=stages, **values)

    def table(self) -> str:
        """The summary for people."""
        kept = f" ({self.kept} kept from an earlier run)" if self.kept else ""
        spent = (f"{stage} {seconds:.1f} s" for stage, seconds in self.stages.items())
        rows = [
            ("images", f"{self.images}"),
            ("masks", f"{self.masks}{kept}"),
            *_if_any("  edited by hand", self.edited),
            *_if_any("  kept unchecked", self.unversioned),
            *((f"  {name} added", f"{count}") for name, count in self.added.items()),
            ("rejected", f"{self.rejected}"),
            *((f"  {cause}", f"{count}") for cause, count in self.causes.items()),
            ("skipped files", f"{self.skipped}"),
            *_if_any("  by extension", skipped.listed(self.extensions)),
            *_if_any(f"  {NEVER_PHOTOS}", self.never_photos),
            *(("", hint) for hint in skipped.hints(self.extensions, self.look_like_images)),
            *_if_any("masks outside INPUT", self.outside),
            ("time", f"{self.seconds:.1f} s, {self.images_per_second:.2f} images/s"),
            *([("  spent on", ", ".join(spent))] if self.stages else []),
            ("share of pixels", ""),
        ]
        everything = sum(self.pixels.values()) or 1
        shares = sorted(self.pixels.items(), key=lambda item: -item[1])
        rows += [(f"  {label}", f"{100 * n / everything:6.2f} %") for label, n in shares if n]
        width = max(len(name) for name, _ in rows) + 2
        return "\n".join(visible(f"{name:<{width}}{value}".rstrip()) for name, value in rows)


def _if_any(name: str, count: int | str) -> list[tuple[str, str]]:
    """A row of the table, where there is anything to count."""
    return [(name, f"{count}")] if count else []


def allowed_rejects(limit: str | None, images: int) -> float:
    """How many rejects ``--max-rejected`` allows.

    Args:
        limit: ``"20"``, ``"1.5%"`` of the images, or None for any number.
        images: number of images.

    Raises:
        ValueError: another form, a negative number, or more than 100 %.
    """
    if limit is None:
        return float("inf")
    if limit.endswith("%"):
        share = float(limit[:-1])
        if not 0 <= share <= 100:
            raise ValueError(limit)
        return images * share / 100
    count = int(limit)
    if count < 0:
        raise ValueError(limit)
    return count
