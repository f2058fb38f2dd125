"""Surveys a data folder: reads every pair, lists every problem, counts every pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from model_build.common.errors import UserError
from model_build.common.progress_bar import Advance, no_progress
from model_build.data.files import extensions
from model_build.data.labels import VOID, LabelSet
from model_build.data.layouts import DataFolder
from model_build.data.masks import absence, reordered
from model_build.data.pairs import check_pair

MAX_SHOWN = 10  # in a note
MAX_BAR_LENGTH = 30  # characters


class Tally(NamedTuple):
    """One pair: its photo's size, and ``pixels``, int64 ``[256]``, by id in its mask.

    For ``how`` see :class:`model_build.data.masks.MaskFile`.
    """

    height: int
    width: int
    pixels: np.ndarray
    unknown: int
    how: str


@dataclass(frozen=True)
class Split:
    """The valid pairs of a split.

    Attributes:
        sizes: (height, width) of each photo.
        pixels: int64 ``[256]``, number of pixels by id; the last one is void.
        images: int64 ``[256]``, number of images in which an id occurs.
        unknown: number of pixels of RGB masks whose colour has no label; they also count as void.
    """

    name: str
    sizes: tuple[tuple[int, int], ...]
    pixels: np.ndarray
    images: np.ndarray
    unknown: int


@dataclass(frozen=True)
class Survey:
    """The result of :func:`survey`. Errors prevent a training, notes do not."""

    labels: LabelSet
    splits: list[Split] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def survey(
    folder: DataFolder, splits: Iterable[str] = (), advance: Advance = no_progress
) -> Survey:
    """Reads every pair of a folder; one in several splits is read once.

    Args:
        splits: names; empty means all splits of the folder.
        advance: receives the number of pairs read and the total.

    Raises:
        UserError: the folder has no split, or its ``labels.json`` is invalid.
    """
    labels, note = folder.labels(), folder.labels_note()
    result = Survey(labels, notes=[note] if note else [])
    asked = list(dict.fromkeys(splits))
    listed: dict[str, list[str]] = {}
    for split in asked or folder.splits():
        try:
            listed[split] = folder.names(split)
        except UserError as error:
            result.errors.append(str(error))
    _check_names(listed, result)
    if not asked:
        _check_photos(folder, listed, result)

    folder.photos()  # list once before the threads start
    every = list(dict.fromkeys(name for names in listed.values() for name in names))
    tallies: dict[str, Tally] = {}
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda name: _tally(folder, name, labels), every)
        for done, (name, (tally, problems)) in enumerate(zip(every, read, strict=True), 1):
            result.errors.extend(problems)
            if tally:
                tallies[name] = tally
            advance(done, len(every))
    _check_masks(folder, tallies, result)
    for split, names in listed.items():
        sound = [tallies[name] for name in dict.fromkeys(names) if name in tallies]
        result.splits.append(_summed(split, sound))
    return result


def _check_names(listed: dict[str, list[str]], result: Survey) -> None:
    for split, names in listed.items():
        for name, count in Counter(names).items():
            if count > 1:
                result.notes.append(f"{split}: lists {name} {count} times")
    in_both = set(listed.get("train", ())) & set(listed.get("val", ()))
    for name in sorted(in_both):
        result.errors.append(f"{name}: is in both train and val; remove it from one")


def _check_photos(folder: DataFolder, listed: dict[str, list[str]], result: Survey) -> None:
    photos = Counter(folder.photos())
    for name, count in photos.items():
        if count > 1:
            result.notes.append(
                f"{name}: {count} photos have this name; {folder.photo(name)} is used"
            )
    unlisted = set(photos).difference(*listed.values())
    if unlisted:
        result.notes.append(f"{folder.photo_folder}: {len(unlisted)} photos are in no split")

    orphans = sorted(set(folder.masks()).difference(photos))
    if orphans:
        result.notes.append(
            f"{folder.mask_folder}: {len(orphans)} masks have no photo: {_few(orphans)}"
        )
    for where, files in folder.unused_files().items():
        if files:
            result.notes.append(
                f"{where}: {len(files)} files are left out by their extension "
                f"({extensions(files)}): {_few(files)}"
            )
    if hidden := folder.never_photos():
        result.notes.append(
            f"{folder.photo_folder}: {len(hidden)} hidden files, or files of caches and systems, "
            f"are left out: {_few(hidden)}"
        )


def _few(names: list[str]) -> str:
    more = len(names) - MAX_SHOWN
    return ", ".join(names[:MAX_SHOWN]) + f", and {more} more" * (more > 0)


def _check_masks(folder: DataFolder, tallies: dict[str, Tally], result: Survey) -> None:
    mapped = [folder.mask(name) for name, tally in tallies.items() if tally.how == "palette"]
    if note := reordered(mapped, len(tallies)):
        result.notes.append(note)
    pixels = sum((tally.pixels for tally in tallies.values()), np.zeros(VOID + 1, np.int64))
    void = sum(int(tally.pixels[VOID]) for tally in tallies.values() if tally.how == "ids")
    if tallies and (absent := absence(result.labels.names, pixels, void)):
        result.notes.append(f"{folder.mask_folder}: {absent}")


def _tally(folder: DataFolder, name: str, labels: LabelSet) -> tuple[Tally | None, list[str]]:
    pair, problems = check_pair(folder, name, labels)
    if pair is None:
        return None, [str(problem) for problem in problems]
    pixels = np.bincount(pair.read_ids().ravel(), minlength=VOID + 1)
    return Tally(pair.height, pair.width, pixels, pair.unknown, pair.how), []


def _summed(name: str, tallies: list[Tally]) -> Split:
    pixels = np.array([tally.pixels for tally in tallies], np.int64).reshape(-1, VOID + 1)
    return Split(
        name,
        tuple((tally.height, tally.width) for tally in tallies),
        pixels.sum(axis=0),
        (pixels > 0).sum(axis=0),
        sum(tally.unknown for tally in tallies),
    )


def report(found: Survey) -> Iterator[str]:
    """Yields the lines to print: errors, notes, a table per split, and the number of errors."""
    for error in found.errors:
        yield f"error: {error}"
    for note in found.notes:
        yield f"note: {note}"
    for split in found.splits:
        yield ""
        yield from _table(split, found.labels)
    yield ""
    yield f"{len(found.errors) or 'no'} error{'s' * (len(found.errors) != 1)}"


def _table(split: Split, labels: LabelSet) -> Iterator[str]:
    count = len(split.sizes)
    if not count:
        yield f"{split.name}: no usable pair"
        return
    heights, widths = zip(*split.sizes, strict=True)
    yield (
        f"{split.name}: {count} pair{'s' * (count != 1)}, "
        f"{_range(widths)} × {_range(heights)} pixels"
    )
    if split.unknown:
        yield f"  {split.unknown} pixels have an unknown colour, and count as void"
    shares = split.pixels / split.pixels.sum()
    rows = [*enumerate(labels.names), (VOID, "(void)")]
    longest = max(len(name) for _, name in rows)
    yield f"  {'id':>3}  {'label':<{longest}}  {'pixels':>8}  {'images':>7}  square root of pixels"
    for index, name in rows:
        row = f"  {index:>3}  {name:<{longest}}  {shares[index]:>8.3%}  {split.images[index]:>7}  "
        if split.pixels[index]:
            # Square roots, as background would dwarf all others; classes that occur get a bar.
            share = shares[index] / shares.max()
            yield row + "#" * max(1, round(MAX_BAR_LENGTH * share**0.5))
        else:
            yield (row + ("never occurs" if index != VOID else "")).rstrip()


def _range(sides: tuple[int, ...]) -> str:
    return str(min(sides)) if min(sides) == max(sides) else f"{min(sides)}–{max(sides)}"
