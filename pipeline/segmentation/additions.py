"""Products added to existing masks: made from the photo and its mask, without the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apache_beam as beam

from pipeline.images.decode import DecodeOptions
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.journal import Journal
from pipeline.outputs.products import MASKS, Product
from pipeline.records import Photo, Reject, Row, Task, hash_of, rejected
from pipeline.runners.progress import count, stage_timer
from pipeline.segmentation.up_to_date import ForeignMask, class_ids, read_masks
from pipeline.segmentation.windows import Encoded, WriteOptions, read_windows, write_all
from pipeline.storage import as_job_error


class ChangedMask(ValueError):
    """A mask whose bytes are not those that its row records, though its stamp is."""


def missing_products(task: Task, out: OutputFolder) -> list[Product]:
    """Returns the products that a run writes and that an image does not have yet."""
    return [product for product in out.products if product.name not in task.products]


def add_products(
    tasks: Sequence[Task], decode: DecodeOptions, options: WriteOptions, journal: Journal
) -> list[Row | Reject]:
    """Makes and writes the products that existing masks lack.

    Masks, their rows and their other products stay as they are, even if this fails.

    Args:
        tasks: with up-to-date masks, each with the mask's row.

    Returns:
        For each task the row, or a reject, in another order.

    Raises:
        JobError: a file cannot be read or written, for a cause that affects all files.
    """
    outcomes: list[Row | Reject] = []
    for some, photos in _with_photos(tasks, decode, options.out):
        with stage_timer("write"):
            masks = read_masks(((task.mask_name, task.mask) for task in some), options.out)
            encoded = [
                _encode(task, photo, next(masks), options)
                for task, photo in zip(some, photos, strict=True)
            ]
            written = write_all(encoded, options.out)
        # The next run must know a mask that is left alone.
        outcomes += [
            one._replace(row=task.row) if isinstance(one, Reject) else one
            for task, one in zip(some, written, strict=True)
        ]
    journal.add(outcome for outcome in outcomes if isinstance(outcome, Reject))
    return outcomes


def _with_photos(
    tasks: Sequence[Task], decode: DecodeOptions, out: OutputFolder
) -> Iterator[tuple[Sequence[Task], Sequence[Photo | Reject | None]]]:
    """Yields some tasks at a time with their photos, or None if no missing product needs them."""
    needs: dict[bool, list[Task]] = {False: [], True: []}
    for task in tasks:
        needs[any("pixels" in one.needs for one in missing_products(task, out))].append(task)
    yield needs[False], [None] * len(needs[False])
    for window in read_windows(needs[True], decode, out.files):
        yield window.tasks, window.photos


def _encode(
    task: Task, photo: Photo | Reject | None, mask: bytes | Exception, options: WriteOptions
) -> Encoded | Reject:
    """Encodes the missing products of an image from its mask."""
    if isinstance(photo, Reject):
        return photo
    if isinstance(mask, Exception):
        with as_job_error():
            raise mask
    assert task.row is not None
    missing, path = missing_products(task, options.out), task.image.path
    where = f"{options.out.path}/{MASKS.file(task.mask_name)}"
    if hash_of(mask) != task.row.mask_hash:
        changed = ChangedMask(f"{where}: is not as its row says; add --verify to check it again")
        return rejected(path, "write", changed)
    try:
        ids = class_ids(task, mask, options.labels)
        materials = {"class_map": ids, "size": ids.shape, "labels": options.labels}
        if photo is not None:
            materials["pixels"] = photo.pixels
        files = {product.file(task.mask_name): product.make(materials) for product in missing}
    except ForeignMask as error:
        names = ", ".join(product.name for product in missing)
        cause = ForeignMask(f"{where}: {error}, so its {names} cannot be made")
        return rejected(path, "write", cause)
    except MemoryError as error:
        return rejected(path, "write", error)
    return Encoded(task, task.row, files)


class AddProducts(beam.DoFn):
    """Lists of tasks → rows, and rejects apart, see :func:`add_products`.

    The name of each product that was written is tagged ``added``.
    """

    def __init__(self, decode: DecodeOptions, options: WriteOptions):
        self.decode, self.options = decode, options

    def start_bundle(self):
        self.journal = Journal(self.options.out)

    def process(self, tasks):
        outcomes = add_products(tasks, self.decode, self.options, self.journal)
        rejected_images = {one.image for one in outcomes if isinstance(one, Reject)}
        count(rejects=len(rejected_images), kept=len(outcomes) - len(rejected_images))
        for outcome in outcomes:
            is_reject = isinstance(outcome, Reject)
            yield beam.pvalue.TaggedOutput("rejected", outcome) if is_reject else outcome
        for task in tasks:
            if task.image.path not in rejected_images:
                for product in missing_products(task, self.options.out):
                    yield beam.pvalue.TaggedOutput("added", product.name)

    def finish_bundle(self):
        self.journal.flush()
