"""Does a mask that stands still hold? Decided by equality, never by comparing clocks.

A mask's row tells what the stores said of its source and of itself when it was written; where both
still say so, nothing is read. Where the source says otherwise it is read, and its bytes decide;
where the mask does, or has no row, it is read too, and the text in it decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from model_build.data.labels import LabelSet
from pipeline.images.decode import upright_size
from pipeline.images.masks import ForeignMask, Mask, decode_mask, histogram
from pipeline.outputs.folder import OutputFolder, mask_file
from pipeline.records import Reject, Row, Stamp, Task, hash_of, rejected
from pipeline.storage import ends_the_job


class State(Enum):
    """What is to be done about a task, as far as rows and listings tell."""

    TO_DO = "to do"
    CHECK = "to check"
    DONE = "up to date"


@dataclass(frozen=True)
class KeepOptions:
    """Which masks hold.

    Attributes:
        recipe: its id.
        labels: of the masks.
        overwrite: masks that lack the recipe are done again, edited ones too.
        verify: each mask is read and checked against its row.
    """

    recipe: str
    labels: LabelSet
    overwrite: bool = False
    verify: bool = False


def state(task: Task, options: KeepOptions, overlays: bool) -> State:
    """What a task comes to before anything is read.

    Args:
        overlays: they are wanted: a mask without one is to be done again.
    """
    if task.mask is None or task.image.stamp is None:
        return State.TO_DO
    row = task.row
    if row is None:
        return State.CHECK
    edited = row.recipe is None
    if row.recipe != options.recipe and (options.overwrite or not edited):
        return State.TO_DO
    if overlays and not task.overlaid and not edited:
        return State.TO_DO
    if options.verify or not is_same(task.image.stamp, row.source):
        return State.CHECK
    return State.DONE


def is_same(now: Stamp, then: Stamp) -> bool:
    """Whether a source is what it was, as far as its disk or store tells.

    Without any version nobody knows; it is taken to be, unless its size is another.
    """
    if now.version is None:
        return now.size is None or then.size is None or now.size == then.size
    return now == then


def matching(
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
        none; or a reject, where a file of somebody else has the mask's name.

    Raises:
        JobError: a mask cannot be read just now. That does not undo it.
    """
    states = [state(task, options, out.overlays) for task in tasks]
    to_check = [task for task, found in zip(tasks, states, strict=True) if found is State.CHECK]
    masks = out.files.read_each(
        (f"{out.path}/{mask_file(task.mask_name)}", task.mask.size if task.mask else None)
        for task in to_check
        if _needs_mask(task, options)
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
    assert task.image.stamp is not None  # else it would be to do
    assert task.mask is not None
    try:
        row = task.row if mask is None else _proven(task, mask, options)
        if row is not None and image is not None:
            row = _of_image(row, task, image)
    except ForeignMask as error:
        if options.overwrite:
            return task
        where = f"{out.path}/{mask_file(task.mask_name)}"
        foreign = ForeignMask(
            f"{where}: {error}; not overwritten: move it away, or add --overwrite"
        )
        return rejected(task.image.path, "write", foreign)
    if row is None or (out.overlays and not task.overlaid and row.recipe is not None):
        return task
    return row._replace(image=task.image.path, source=task.image.stamp, written=task.mask)


def _proven(task: Task, data: bytes | Exception, options: KeepOptions) -> Row | None:
    """The row of a mask by what is in it; None where it is to be done again.

    Its hash is ``""`` where nothing tells of which source it is.

    Raises:
        ForeignMask: it is something else.
        JobError: it cannot be read.
    """
    if isinstance(data, FileNotFoundError):
        return None
    if isinstance(data, Exception):
        with ends_the_job():
            raise data
    if task.row is not None:  # it stands as it was written: any difference is damage
        return task.row if task.row.mask_hash == hash_of(data) else None
    try:
        mask = decode_mask(data, options.labels)
    except ForeignMask:
        raise
    except Exception:  # damaged or cut short
        return None
    if not _is_of(mask, task, options):
        return None
    height, width = mask.class_map.shape
    return Row(
        task.image.path,
        mask_file(task.mask_name),
        width,
        height,
        histogram(mask.class_map, options.labels),
        hash=mask.origin.hash if mask.origin else "",
        mask_hash=hash_of(data),
        recipe=None if mask.edited else options.recipe,
    )


def _is_of(mask: Mask, task: Task, options: KeepOptions) -> bool:
    """Whether a mask's text does not tell of another image or recipe."""
    if mask.edited and options.overwrite:
        return False
    origin = mask.origin
    return origin is None or (origin.image, origin.recipe) == (task.image.name, options.recipe)


def _of_image(row: Row, task: Task, image: bytes | Exception) -> Row | None:
    """The row of a mask with the hash of its source; None where that is another one.

    An edited mask whose text is gone is its source's if earlier rows say so; where there are none,
    there is no reason to doubt it but its size.

    Raises:
        ForeignMask: an edited mask is not of the size of its source.
    """
    if isinstance(image, Exception):
        return None  # reading it again will tell
    found = hash_of(image)
    known = {row.hash} if row.hash else task.hashes
    if known and found not in known:
        return None
    if row.recipe is None:
        try:
            size = upright_size(image)
        except Exception:  # decoding it will tell
            return None
        if size != (row.height, row.width):
            raise ForeignMask(f"is {row.width}×{row.height}, but its image is {size[1]}×{size[0]}")
    return row._replace(hash=found)
