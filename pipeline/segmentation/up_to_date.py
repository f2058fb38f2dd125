"""Whether an existing mask is up to date, decided by equality, never by comparing clocks.

A mask's row records what the stores said of its source and of the mask when it was written. If both
still say the same, nothing is read. If the source has changed, it is read and its bytes decide. If
the mask has changed or has no row, it is read as well, and is one of three: made by a run, as the
text in it proves; edited, if a run wrote a mask there; or foreign. Edited and foreign masks are the
work of a person. Other products are not considered here: they are added to a mask that is up to
date.
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
from pipeline.outputs.folder import RUN, OutputFolder
from pipeline.outputs.products import MASKS, Product
from pipeline.outputs.run_json import unrecorded
from pipeline.records import Reject, Row, Stamp, Task, hash_of, rejected
from pipeline.storage import affects_all_files, as_job_error

MAX_MASKS_SAMPLED = 32  # of a folder about which nothing is recorded


class State(Enum):
    """The state of a mask, as far as rows and listings show it."""

    TO_DO = "to do"
    CHECK = "to check"
    DONE = "up to date"


class ForeignMask(ValueError):
    """A file under a mask's name that no run has made, or that is no mask of these labels."""


class EditedMask(ValueError):
    """A mask that was edited by hand, and whose image has changed since."""


@dataclass(frozen=True)
class KeepOptions:
    """Which masks are up to date.

    Attributes:
        recipe: id of the mask recipe.
        labels: of the masks.
        discard_edits: masks that were edited by hand are made again.
        verify: each mask is read and checked against its row.
    """

    recipe: str
    labels: LabelSet
    discard_edits: bool = False
    verify: bool = False


def state_of(task: Task, options: KeepOptions) -> State:
    """Returns the state of a task's mask before anything is read."""
    row, source = task.row, task.image.stamp
    if task.mask is None:
        return State.TO_DO
    if row is None:
        return State.CHECK
    if row.recipe is None:
        to_do = options.discard_edits
    else:
        to_do = row.recipe != options.recipe or source is None
    if to_do:
        return State.TO_DO
    if options.verify or source is None or not is_same(source, row.source):
        return State.CHECK
    return State.DONE


def is_same(now: Stamp, then: Stamp) -> bool:
    """Whether a source is unchanged, as far as its disk or store shows.

    Without a version this is unknown; the source is then taken to be unchanged if its size is.
    """
    if now.version is None:
        return now.size is None or then.size is None or now.size == then.size
    return now == then


def row_of_mask(
    rows: Sequence[Row], image: str, mask: Stamp | None, source: Stamp | None
) -> Row | None:
    """Returns the row that describes a mask as it is now, or None.

    Args:
        image: path or URI of its source.
        mask: stamp of the mask now.
        source: stamp of the source now; of several rows, one that has it is preferred.
    """
    found = [row for row in rows if row.image == image and row.written == mask]
    return max(found, key=lambda row: row.source == source, default=None)


def keep_masks(
    tasks: Sequence[Task], options: KeepOptions, out: OutputFolder
) -> Iterator[Row | Reject | Task]:
    """Checks the masks that earlier runs wrote.

    Yields:
        For each task the row of its mask, if that is up to date; or the task, if the mask must be
        made; or a reject, if a file that no run made is in its place and cannot be used.

    Raises:
        JobError: a mask cannot be read now, which does not make it out of date.
    """
    states = [state_of(task, options) for task in tasks]
    to_check = [task for task, found in zip(tasks, states, strict=True) if found is State.CHECK]
    masks = read_masks(
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
    """Returns how many of the masks were edited by hand.

    Args:
        options: with ``discard_edits``.

    Raises:
        JobError: a mask cannot be read.
    """
    edits = sum(task.row is not None and task.row.recipe is None for task in tasks)
    in_doubt = [
        task
        for task in tasks
        if state_of(task, options) is State.CHECK and _needs_mask(task, options)
    ]
    masks = read_masks(((task.mask_name, task.mask) for task in in_doubt), out)
    for task, mask in zip(in_doubt, masks, strict=True):
        try:
            row = _row_of(task, mask, options)
        except ForeignMask:
            continue
        edits += row is not None and row.recipe is None
    return edits


def check_unrecorded(out: OutputFolder, overwrite: bool) -> None:
    """Refuses an OUT that has masks or other products but no ``run.json``, such as a data folder.

    Args:
        overwrite: accept it if the text in its masks proves that runs made them, as when its
            ``run.json`` was lost. Each mask is then checked individually.

    Raises:
        UserError: it is refused.
        JobError: OUT cannot be listed.
    """
    folder = unrecorded(out)
    if folder is None:
        return
    with as_job_error():
        sample = itertools.islice(out.existing(MASKS), MAX_MASKS_SAMPLED)
        some = [(mask.mask_name, mask.stamp) for mask in sample]
    read = read_masks(some, out)
    made = any(isinstance(data, bytes) and find_traces(data).made for data in read)
    if not (made and overwrite):
        keeping = ", or add --overwrite to keep what was made with the same model and options"
        raise UserError(
            f"{out.path}/{folder}: contains files, but no {RUN} of this version says how they were "
            f"made; choose another --output{keeping * made}"
        )


def read_masks(
    masks: Iterable[tuple[str, Stamp | None]], out: OutputFolder
) -> Iterator[bytes | Exception]:
    """Reads masks concurrently, by names and stamps; an error takes the place of a mask."""
    return out.files.read_each(
        (f"{out.path}/{MASKS.file(name)}", stamp and stamp.size) for name, stamp in masks
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
    """Decides about a task once its files have been read.

    Args:
        mask: the mask's bytes, or the error; None if they are not needed.
        image: the same of the source.

    Returns:
        The mask's row, renewed if the source or the mask was written again; or the task, if the
        mask must be made; or a reject, see :func:`keep_masks`.

    Raises:
        JobError: the mask cannot be read.
    """
    assert task.mask is not None  # without one its state is TO_DO
    where, path = f"{out.path}/{MASKS.file(task.mask_name)}", task.image.path
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
    # For the next run, if the mask is left alone.
    as_found = row._replace(image=path, written=task.mask, hash=min(_hashes(row, task), default=""))
    if edited and options.discard_edits:
        return task._replace(row=as_found)
    if image is not None:
        if isinstance(image, Exception) and edited:
            if affects_all_files(image):
                with as_job_error():
                    raise image
            return rejected(path, "read", image)._replace(row=as_found)
        # An image that cannot be read is tried again when its mask is made.
        if isinstance(image, Exception) or hash_of(image) not in _hashes(row, task):
            if not edited:
                return task
            changed = EditedMask(
                f"{where}: was edited by hand, but its image has changed since; put the image "
                "back, or add --discard-edits to make the mask again"
            )
            return rejected(path, "write", changed)._replace(row=as_found)
        row = row._replace(hash=hash_of(image))
    return row._replace(image=path, source=task.image.stamp or Stamp(), written=task.mask)


def missing_products(task: Task, out: OutputFolder) -> list[Product]:
    """Returns the products that a run writes and that an image does not have yet."""
    return [product for product in out.products if product.name not in task.products]


def outdated_products(task: Task, row: Row | None) -> frozenset[str]:
    """Returns the names of products in OUT that show a mask from before it was edited by hand.

    Args:
        row: of the mask as it is now. If no earlier row has its hash, the edit is a new one.
    """
    if row is None or row.recipe is not None:
        return frozenset()
    known = {one.mask_hash for one in _rows(task)}
    return frozenset() if row.mask_hash in known else task.products


def _rows(task: Task) -> tuple[Row, ...]:
    """Returns the rows of the masks that runs wrote under a mask's name."""
    return task.earlier if task.row is None else (task.row,)


def _hashes(row: Row, task: Task) -> set[str]:
    """Returns the hashes of the images that a mask may belong to, by its row or earlier ones."""
    return {row.hash} if row.hash else {one.hash for one in _rows(task) if _size(one) == _size(row)}


def _size(row: Row) -> tuple[int, int]:
    return row.height, row.width


def _row_of(task: Task, data: bytes | Exception, options: KeepOptions) -> Row | None:
    """Returns the row of a mask by its content; None if a run made it and it is out of date.

    The row's recipe is None if the mask was edited, its hash ``""`` if neither the mask's text nor
    its row says which image it belongs to.

    Raises:
        ForeignMask: no run made it, and no run wrote a mask there or it does not fit the labels
            or the size.
        JobError: it cannot be read.
    """
    if isinstance(data, FileNotFoundError):
        return None
    if isinstance(data, Exception):
        with as_job_error():
            raise data
    if task.row is not None and task.row.mask_hash == hash_of(data):
        return task.row
    traces, file = find_traces(data), MASKS.file(task.mask_name)
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
    ids = class_ids(task, data, options.labels)
    if origin is not None and sum(origin.pixels.values()) != ids.size:
        raise ForeignMask("is not of the size that was written")
    height, width = ids.shape
    row = Row(task.image.path, file, width, height, histogram(ids, options.labels))
    known = task.row.hash if task.row else ""
    return row._replace(hash=origin.hash if origin else known, mask_hash=hash_of(data))


def class_ids(task: Task, data: bytes, labels: LabelSet) -> np.ndarray:
    """Returns the class ids of an existing mask, uint8 ``[h, w]``.

    Raises:
        ForeignMask: it is no mask of these labels, or has another size than runs wrote there.
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
