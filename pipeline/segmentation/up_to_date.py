"""Does a mask that stands still hold? Decided by equality, never by comparing clocks.

A mask's row tells what the stores said of its source and of itself when it was written; where both
still say so, nothing is read. Where the source says otherwise it is read, and its bytes decide;
where the mask does, or has no row, it is read too, and it is one of three: made by a run, as the
text in it proves; edited, where a run has written a mask in its place; or foreign. What is edited
or foreign is the work of a person.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from model_build.common.errors import UserError
from model_build.data.labels import LabelSet
from model_build.data.masks import read_mask
from pipeline.images.masks import find_traces, histogram
from pipeline.outputs.folder import RUN, OutputFolder, mask_file
from pipeline.outputs.run_json import unrecorded
from pipeline.records import Reject, Row, Stamp, Task, hash_of, rejected
from pipeline.storage import affects_all_files, as_job_error

MAX_MASKS_SAMPLED = 32  # masks of a folder of which nothing is known


class State(Enum):
    """What is to be done about a task, as far as rows and listings tell."""

    TO_DO = "to do"
    CHECK = "to check"
    DONE = "up to date"


class ForeignMask(ValueError):
    """A file in a mask's place that no run has made, or that is no mask of these labels."""


class EditedMask(ValueError):
    """A mask that was edited by hand, whose image is another one now."""


@dataclass(frozen=True)
class KeepOptions:
    """Which masks hold.

    Attributes:
        recipe: its id.
        labels: of the masks.
        discard_edits: masks that were edited by hand are made again.
        verify: each mask is read and checked against its row.
    """

    recipe: str
    labels: LabelSet
    discard_edits: bool = False
    verify: bool = False


def state(task: Task, options: KeepOptions, overlays: bool) -> State:
    """What a task comes to before anything is read.

    Args:
        overlays: they are wanted: a mask without one is to be done again, unless it was edited.
    """
    row, source = task.row, task.image.stamp
    if task.mask is None:
        return State.TO_DO
    if row is None:
        return State.CHECK
    if row.recipe is None:
        to_do = options.discard_edits
    else:
        lacks_overlay = overlays and not task.overlaid
        to_do = row.recipe != options.recipe or source is None or lacks_overlay
    if to_do:
        return State.TO_DO
    if options.verify or source is None or not is_same(source, row.source):
        return State.CHECK
    return State.DONE


def is_same(now: Stamp, then: Stamp) -> bool:
    """Whether a source is what it was, as far as its disk or store tells.

    Without any version nobody knows; it is taken to be, unless its size is another.
    """
    if now.version is None:
        return now.size is None or then.size is None or now.size == then.size
    return now == then


def row_of_mask(
    rows: Sequence[Row], image: str, mask: Stamp | None, source: Stamp | None
) -> Row | None:
    """Which of the rows of a mask tells of it as it stands; None if none does.

    Args:
        image: path or URI of its source.
        mask: as it stands.
        source: as it is now. Of several rows the one that knows it best is taken.
    """
    found = [row for row in rows if row.image == image and row.written == mask]
    return max(found, key=lambda row: row.source == source, default=None)


def keep_masks(
    tasks: Sequence[Task], options: KeepOptions, out: OutputFolder
) -> Iterator[Row | Reject | Task]:
    """Looks at the masks that earlier runs have written.

    Yields:
        For each task the row of its mask; or the task, where the mask does not hold or there is
        none; or a reject, where the work of a person is in its place that does not fit the image.

    Raises:
        JobError: a mask cannot be read just now. That does not undo it.
    """
    states = [state(task, options, out.overlays) for task in tasks]
    to_check = [task for task, found in zip(tasks, states, strict=True) if found is State.CHECK]
    masks = _read_masks(
        ((task.mask_name, task.mask) for task in to_check if _needs_mask(task, options)), out
    )
    images = out.files.read_each(
        (task.image.path, task.image.stamp.size if task.image.stamp else None)
        for task in to_check
        if _needs_image(task)
    )
    for task, found in zip(tasks, states, strict=True):
        if found is State.DONE:
            assert task.row is not None
            yield task.row
        elif found is State.TO_DO:
            yield task
        else:
            mask = next(masks) if _needs_mask(task, options) else None
            image = next(images) if _needs_image(task) else None
            yield check(task, mask, image, options, out)


def count_edits(tasks: Sequence[Task], options: KeepOptions, out: OutputFolder) -> int:
    """How many of the masks were edited by hand.

    Args:
        options: ``discard_edits`` among them.

    Raises:
        JobError: a mask cannot be read.
    """
    noted = sum(task.row is not None and task.row.recipe is None for task in tasks)
    in_doubt = [
        task
        for task in tasks
        if state(task, options, out.overlays) is State.CHECK and _needs_mask(task, options)
    ]
    masks = _read_masks(((task.mask_name, task.mask) for task in in_doubt), out)
    for task, mask in zip(in_doubt, masks, strict=True):
        try:
            row = _row_of(task, mask, options)
        except ForeignMask:
            continue
        noted += row is not None and row.recipe is None
    return noted


def check_unrecorded(out: OutputFolder, overwrite: bool) -> None:
    """Refuses an OUT with masks or overlays and without a ``run.json``, such as a data folder.

    Args:
        overwrite: it is taken if runs have made masks there, which prove it: its ``run.json`` was
            lost. Each file is judged for itself then.

    Raises:
        UserError: it is refused.
        JobError: OUT cannot be looked at.
    """
    folder = unrecorded(out)
    if folder is None:
        return
    with as_job_error():
        some = [
            (mask.name, mask.stamp) for mask in itertools.islice(out.masks(), MAX_MASKS_SAMPLED)
        ]
    read = _read_masks(some, out)
    made = any(isinstance(data, bytes) and find_traces(data).made for data in read)
    if not (made and overwrite):
        keeping = ", or add --overwrite to keep what was made with the same model and options"
        raise UserError(
            f"{out.path}/{folder}: contains files, but no {RUN} of this version says how they were "
            f"made; choose another --output{keeping * made}"
        )


def _read_masks(
    masks: Iterable[tuple[str, Stamp | None]], out: OutputFolder
) -> Iterator[bytes | Exception]:
    return out.files.read_each(
        (f"{out.path}/{mask_file(name)}", stamp and stamp.size) for name, stamp in masks
    )


def _needs_mask(task: Task, options: KeepOptions) -> bool:
    return task.row is None or options.verify


def _needs_image(task: Task) -> bool:
    row, stamp = task.row, task.image.stamp
    return row is None or stamp is None or not is_same(stamp, row.source)


def check(
    task: Task,
    mask: bytes | Exception | None,
    image: bytes | Exception | None,
    options: KeepOptions,
    out: OutputFolder,
) -> Row | Reject | Task:
    """What a task comes to once its files have been read.

    Args:
        mask: the mask's bytes, or why there are none; None where they are not needed.
        image: likewise, the source's.

    Returns:
        The mask's row, renewed where the source or the mask was written again; or the task, if it
        is to be done; or a reject, see :func:`keep_masks`.

    Raises:
        JobError: the mask cannot be read.
    """
    assert task.mask is not None  # else it would be to do
    where, path = f"{out.path}/{mask_file(task.mask_name)}", task.image.path
    try:
        row = task.row if mask is None else _row_of(task, mask, options)
    except ForeignMask as error:
        foreign = ForeignMask(
            f"{where}: {error}; not overwritten: move it away, or choose another --output"
        )
        return rejected(path, "write", foreign)._replace(row=next(iter(_rows(task)), None))
    if row is None:
        return task
    edited = row.recipe is None
    # As the next run is to know of the mask, should it be left alone.
    left = row._replace(image=path, written=task.mask, hash=min(_hashes(row, task), default=""))
    if edited and options.discard_edits:
        return task._replace(row=left)
    if image is not None:
        if isinstance(image, Exception) and edited:
            if affects_all_files(image):
                with as_job_error():
                    raise image
            return rejected(path, "read", image)._replace(row=left)
        # One that cannot be read is tried again with those that are to do.
        if isinstance(image, Exception) or hash_of(image) not in _hashes(row, task):
            if not edited:
                return task
            changed = EditedMask(
                f"{where}: was edited by hand, but its image has changed since; put the image "
                "back, or add --discard-edits to make the mask again"
            )
            return rejected(path, "write", changed)._replace(row=left)
        row = row._replace(hash=hash_of(image))
    if out.overlays and not task.overlaid and not edited:
        return task
    return row._replace(image=path, source=task.image.stamp or Stamp(), written=task.mask)


def _rows(task: Task) -> tuple[Row, ...]:
    """The rows of what runs have written in a mask's place."""
    return task.earlier if task.row is None else (task.row,)


def _hashes(row: Row, task: Task) -> set[str]:
    """Hashes of the images that a mask may be of, by its own row or those of its place."""
    return {row.hash} if row.hash else {one.hash for one in _rows(task) if _size(one) == _size(row)}


def _size(row: Row) -> tuple[int, int]:
    return row.height, row.width


def _row_of(task: Task, data: bytes | Exception, options: KeepOptions) -> Row | None:
    """The row of a mask by what is in it; None where a run has made it and it does not hold.

    Its recipe is None where the mask was edited. Its hash is ``""`` where neither its text nor its
    row tells of which image it is.

    Raises:
        ForeignMask: it is the work of a person, but no mask was in its place, or it does not fit.
        JobError: it cannot be read.
    """
    if isinstance(data, FileNotFoundError):
        return None
    if isinstance(data, Exception):
        with as_job_error():
            raise data
    if task.row is not None and task.row.mask_hash == hash_of(data):
        return task.row
    traces, file = find_traces(data), mask_file(task.mask_name)
    if traces.ruined:
        return None
    origin = traces.origin
    if traces.made:
        assert origin is not None
        if (origin.image, origin.recipe) != (task.image.name, options.recipe):
            return None
        row = Row(task.image.path, file, *traces.size[::-1], origin.pixels, recipe=options.recipe)
        return row._replace(hash=origin.hash, mask_hash=hash_of(data))
    if origin is None and not _rows(task):
        raise ForeignMask("was not made by fcn-beam")
    ids = _edited_ids(task, data, options.labels)
    if origin is not None and sum(origin.pixels.values()) != ids.size:
        raise ForeignMask("is not of the size that was written")
    height, width = ids.shape
    row = Row(task.image.path, file, width, height, histogram(ids, options.labels))
    known = task.row.hash if task.row else ""
    return row._replace(hash=origin.hash if origin else known, mask_hash=hash_of(data))


def _edited_ids(task: Task, data: bytes, labels: LabelSet) -> np.ndarray:
    """The class ids of a mask that was edited by hand.

    Raises:
        ForeignMask: it is no mask of these labels, or not of the size that was written.
    """
    rows = _rows(task)
    if others := [label for row in rows for label in row.pixels if label not in labels.names]:
        raise ForeignMask(f"was edited with the labels of another model, such as {others[0]}")
    try:
        found = read_mask(data, task.mask_name, labels)
    except UserError as error:
        raise ForeignMask(str(error).removeprefix(f"{task.mask_name}: ")) from None
    if found.unknown:
        raise ForeignMask(f"has {found.unknown} pixels of a colour that is no label's")
    sizes = [_size(row) for row in rows]
    if sizes and found.ids.shape not in sizes:
        (height, width), (right_height, right_width) = found.ids.shape, sizes[0]
        raise ForeignMask(f"is {width}×{height}, but must be {right_width}×{right_height}")
    return found.ids
