"""Products added to existing masks: made from the photo and its mask, without the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam

from pipeline.images.decode import DecodeOptions
from pipeline.outputs.products import MASKS
from pipeline.records import Photo, Reject, Row, Task, hash_of, rejected
from pipeline.runners.progress import count, stage_timer
from pipeline.segmentation.up_to_date import (
    class_ids,
    missing_products,
    read_masks,
)
from pipeline.segmentation.windows import (
    ENCODING_ERRORS,
    Encoded,
    JournallingDoFn,
    WriteOptions,
    read_windows,
    write_all,
)
from pipeline.storage import as_job_error


class ChangedFile(ValueError):
    """A mask or photo whose bytes are not those that the mask's row records."""


def add_products(
    tasks: Sequence[Task], decode: DecodeOptions, options: WriteOptions
) -> Iterator[tuple[Task, Row | Reject]]:
    """Makes and writes the products that existing masks lack.

    Masks, their rows and their other products stay as they are, even if this fails.

    Args:
        tasks: with up-to-date masks, each with the mask's row.

    Yields:
        Each task with its row, or a reject, in any order.

    Raises:
        JobError: a file cannot be read or written, for a cause that affects all files.
    """
    files = options.out.files
    batches: Iterable[tuple[Sequence[Task], Sequence[Photo | Reject | None]]]
    if any("pixels" in product.needs for product in options.out.products):
        batches = ((one.tasks, one.photos) for one in read_windows(tasks, decode, files))
    else:
        batches = [(tasks, [None] * len(tasks))]
    for some, photos in batches:
        with stage_timer("write"):
            masks = read_masks(((task.mask_name, task.mask) for task in some), options.out)
            found = zip(some, photos, masks, strict=True)
            outcomes = write_all([encode_missing(*one, options) for one in found], options.out)
        for task, outcome in zip(some, outcomes, strict=True):
            # The next run must know a mask that is left alone.
            yield task, outcome._replace(row=task.row) if isinstance(outcome, Reject) else outcome


def encode_missing(
    task: Task, photo: Photo | Reject | None, mask: bytes | Exception, options: WriteOptions
) -> Encoded | Reject:
    """Encodes the missing products of an image from its mask; returns the reject of a photo.

    Args:
        photo: None if no product of the run needs it.
        mask: the content of the mask's file, or the error of reading it.
    """
    if isinstance(photo, Reject):
        return photo
    if isinstance(mask, Exception):
        with as_job_error():
            raise mask
    assert task.row is not None
    missing = missing_products(task, options.out)
    try:
        if hash_of(mask) != task.row.mask_hash:
            raise ChangedFile("is not as its row says (--verify checks it)")
        if photo is not None and task.row.hash and photo.hash != task.row.hash:
            raise ChangedFile("belongs to an earlier version of the image")
        ids = class_ids(task, mask, options.labels)
        materials = {"class_map": ids, "size": ids.shape, "labels": options.labels}
        if photo is not None:
            materials["pixels"] = photo.pixels
        files = {product.file(task.mask_name): product.make(materials) for product in missing}
    except ENCODING_ERRORS as error:
        where = f"{options.out.path}/{MASKS.file(task.mask_name)}"
        names = ", ".join(product.name for product in missing)
        cause = type(error)(f"{where}: {error}, so its {names} cannot be made")
        return rejected(task.image.path, "write", cause)
    return Encoded(task, task.row, files)


class AddProducts(JournallingDoFn):
    """Lists of tasks → rows, and rejects apart, see :func:`add_products`.

    The name of each product that was written is tagged ``added``.
    """

    def __init__(self, decode: DecodeOptions, options: WriteOptions):
        super().__init__(options.out)
        self.decode, self.options = decode, options

    def process(self, tasks):
        for task, outcome in add_products(tasks, self.decode, self.options):
            if isinstance(outcome, Reject):
                count(rejects=1)
                self.journal.add([outcome])
                yield beam.pvalue.TaggedOutput("rejected", outcome)
            else:
                count(kept=1)
                yield outcome
                for product in missing_products(task, self.out):
                    yield beam.pvalue.TaggedOutput("added", product.name)
