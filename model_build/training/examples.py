"""Reads and checks the two splits of a data folder that a training uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model_build.common.errors import UserError
from model_build.data import crops
from model_build.data.labels import VOID, LabelSet
from model_build.data.layouts import DataFolder
from model_build.data.masks import absence, reordered
from model_build.data.pairs import Pair, read_split


@dataclass(frozen=True)
class Examples:
    """Pairs to train on, pairs to validate on, and their labels."""

    pairs: list[Pair]
    validation: list[Pair]
    labels: LabelSet


def read_examples(
    folder: DataFolder,
    labels: LabelSet,
    splits: tuple[str, str],
    crop: tuple[int, int],
    *,
    pad_small: bool = False,
    say: Callable[[str], None] = print,
) -> Examples:
    """Reads and checks both splits, and reports their sizes.

    Args:
        folder: on local disk, as TensorFlow reads the photos in every epoch.
        labels: of the folder.
        splits: names of the splits to train on and to validate on.
        crop: (height, width) of the training crops in pixels.
        pad_small: keep images smaller than the crop instead of dropping them.
        say: receives lines for the user.

    Raises:
        UserError: a pair is invalid, no image is large enough, one is in both splits, or all pixels
            of a split are void.
    """
    every, validation = (read_split(folder, split, labels) for split in splits)
    pairs = every if pad_small else crops.drop_small(every, crop)
    if not pairs:
        raise UserError(
            f"{folder.root}: all {len(every)} training images are smaller than the crop of "
            f"{crop[0]}×{crop[1]}; pad them with --pad-small or choose a smaller --crop"
        )
    both = {pair.image for pair in every} & {pair.image for pair in validation}
    if both and splits[0] != splits[1]:
        raise UserError(
            f"{min(both)}: is in both {splits[0]} and {splits[1]} ({len(both)} images are); "
            "remove them from one"
        )
    say(
        f"{folder.root}: {len(pairs)} training images ({len(every) - len(pairs)} dropped as "
        f"smaller than the crop), {len(validation)} validation images, {len(labels)} labels"
    )
    for split, found in zip(splits, (pairs, validation), strict=True):
        pixels, void = _pixels(found, len(labels))
        if not pixels.any():
            raise UserError(
                f"{folder.root}: all pixels of the split {split} are void ({VOID}), so there is "
                "nothing to learn from or score on; fix the masks or labels.json"
            )
        if absent := absence(labels.names, pixels, void):
            say(f"{folder.root}: {split}: {absent}")
    if note := folder.labels_note():
        say(note)
    every = [*every, *validation]
    if note := reordered([pair.mask for pair in every if pair.how == "palette"], len(every)):
        say(note)
    if unknown := sum(pair.unknown for pair in every):
        say(f"{folder.root}: {unknown} mask pixels have an unknown colour, and count as void")
    return Examples(pairs, validation, labels)


def _pixels(pairs: list[Pair], classes: int) -> tuple[np.ndarray, int]:
    """Counts pixels by class, int64 ``[classes]``, and void, until each class has some."""
    counts, void = np.zeros(VOID + 1, np.int64), 0
    for pair in pairs:
        found = np.bincount(pair.read_ids().ravel(), minlength=VOID + 1)
        counts += found
        void += int(found[VOID]) if pair.how == "ids" else 0
        if counts[:classes].all():
            break
    return counts[:classes], void
