"""The end of a run: its totals, ``summary.json``, and the removal of superseded files."""

from __future__ import annotations

import platform
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from model_build.common.console import visible
from pipeline.inputs import skipped
from pipeline.outputs import journal
from pipeline.outputs.folder import HISTOGRAMS, REJECTED, SUMMARY, OutputFolder
from pipeline.outputs.lock import later_runs
from pipeline.outputs.run_json import check_claim, shard_names
from pipeline.outputs.runs import is_run
from pipeline.records import PassedOver, Reject, Row
from pipeline.storage import as_job_error

NEVER_PHOTOS = "in folders of caches and systems"

_SHARD = re.compile(rf"(?:{HISTOGRAMS}|{REJECTED})-(?:(.+)-)?\d+-of-\d+\.jsonl")

Tally = Counter[tuple[str, ...]]


def tally_row(row: Row) -> Tally:
    """Tallies one histogram row."""
    tally: Tally = Counter({("pixels", label): count for label, count in row.pixels.items()})
    tally[("masks",)] = 1
    return tally


def tally_kept(row: Row) -> Tally:
    """Tallies a mask that an earlier run wrote, beside its row's :func:`tally_row`."""
    tally: Tally = Counter({("kept",): 1})
    if row.recipe is None:
        tally[("edited",)] = 1
    if row.source.version is None:
        tally[("unversioned",)] = 1
    return tally


def tally_outside(mask: Any) -> Tally:
    """Tallies one mask that belongs to no image of this run."""
    return Counter({("outside",): 1})


def tally_added(product: str) -> Tally:
    """Counts one product that was added to an existing mask."""
    return Counter({("added", product): 1})


def tally_reject(reject: Reject) -> Tally:
    """Tallies one reject."""
    return Counter({("rejected",): 1, ("cause", reject.stage, reject.error): 1})


def tally_passed_over(file: PassedOver) -> Tally:
    """Tallies one file that is no image."""
    tally: Tally = Counter({("skipped",): 1})
    if file.never_photo:
        tally[("never_photos",)] = 1
    elif skipped.has_another_extension(file):
        tally[("extension", skipped.extension(file.path))] = 1
    return tally


def sum_tallies(tallies: Iterable[Tally]) -> Tally:
    """Sums tallies, the rarest of many extensions as one; also a Beam combiner."""
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
    """Returns the content of ``summary.json``.

    Args:
        total: of all rows, rejects and files passed over.
        labels: names of all labels.
        recipe: of the masks, in its form in ``run.json``.
        options: of the run; ``started`` is its start in seconds since 1970.
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
    """Returns the versions of Python and the libraries that decide the result."""
    found = {"python": platform.python_version()}
    for package in ("fcn-beam", "apache-beam", "tensorflow", "keras", "pillow", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def finish(content: dict[str, Any], out: OutputFolder, shards: Iterable[str]) -> dict[str, Any]:
    """Writes ``summary.json``, which names the run's shards, then removes superseded files.

    These are files of this run and of all that have ended: those without a lock, and those whose
    locks are older. Files of a run that has taken OUT over are left alone.

    Args:
        content: of ``summary.json``.
        shards: names below OUT of the run's shards.

    Raises:
        JobError: another run has taken OUT over, or it cannot be written.
    """
    check_claim(out)
    content = content | {"run": out.run, "shards": sorted(shards)}
    with as_job_error():
        out.write_json(SUMMARY, content)
        left = dict(leftovers(out))
        runs = {*left.values(), *out.unfinished()}
        # Read after the files: a run has a lock before it has files.
        ended = {out.run, *filter(is_run, runs - later_runs(out))}
        # A run that has taken OUT over may have finished.
        named = {*content["shards"], *(shard_names(out.read_json(SUMMARY)) or ())}
        for name, run in left.items():
            if (run in ended or not run) and name not in named:
                out.delete(name)
        out.clean_up(ended)
    return content


def leftovers(out: OutputFolder) -> Iterator[tuple[str, str]]:
    """Yields names below OUT of all shards and journal files, each with its run.

    The run is ``""`` for shards of early versions, whose names do not contain it.
    """
    for prefix in (HISTOGRAMS, REJECTED):
        for file in out.files.starting_with(f"{out.path}/{prefix}-"):
            name = file.path[len(out.path) + 1 :]
            if (run := run_of_shard(name)) is not None:
                yield name, run
    for name in journal.journals(out):
        yield name, journal.run_of(name)


def run_of_shard(name: str) -> str | None:
    """Returns the run that wrote a shard; ``""`` for early versions, None if it is no shard."""
    found = _SHARD.fullmatch(name)
    return None if found is None else found[1] or ""


@dataclass(frozen=True)
class Summary:
    """The result of a run.

    Attributes:
        output: the output folder.
        images: number of images listed: the sum of ``masks`` and ``rejected``.
        masks: number of images with a mask.
        kept: number of masks that an earlier run made.
        edited: number of kept masks that were edited by hand since.
        unversioned: number of kept masks whose image has no version in its store, so that a change
            cannot be noticed.
        outside: number of masks in the output folder that belong to no image of this run.
        rejected: number of images without a mask.
        skipped: number of files that were not taken for images.
        causes: rejects by stage and cause, as in ``"decode: TooManyPixels"``.
        pixels: pixels by label, over all masks.
        seconds: duration of the run.
        images_per_second: images worked on, per second.
        model: fingerprint of the model.
        recipe: of the masks.
        options: of the run.
        versions: of Python and the libraries that decide the result.
        run: its name.
        shards: names below the output folder of the files with its rows and rejects.
        stages: seconds of each stage, over all workers.
        never_photos: number of skipped files whose name, or whose folder's name, is in
            :mod:`model_build.data.files`.
        extensions: files skipped for their extension, by it: the most common ones, with ``"none"``
            for files without one and ``"other"`` for all others.
        look_like_images: number of files in a sample of those that begin like an image.
        added: number of products that existing masks lacked and got, by name.
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
        """Reads the content of ``summary.json``, also of an earlier or later version.

        Unknown fields are left out, missing ones are empty.
        """
        known = {field.name for field in fields(cls)} - {"output", "stages"}
        values = {name: value for name, value in content.items() if name in known}
        return cls(output=output, stages=stages, **values)

    def table(self) -> str:
        """Returns the summary as text, for people."""
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
    """A row of the table, unless there is nothing to count."""
    return [(name, f"{count}")] if count else []


def allowed_rejects(limit: str | None, images: int) -> float:
    """Returns how many rejects ``--max-rejected`` allows.

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
