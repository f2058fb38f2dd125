"""Windows: tasks are read, segmented and written a window of photos at a time.

::

    tasks ─► read and decode ─► RunInference ─► encode and write ─► rows, rejects

A window is one element of the graph, so its files are read at once and its products are written at
once: a store with a latency of 50 ms costs no more than a disk. Pixels never leave the stage that
Beam fuses from these steps.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import RunInference

from model_build.data.labels import LabelSet
from pipeline.images.decode import DecodeOptions, decode, decoded_bytes
from pipeline.images.masks import Origin, histogram
from pipeline.network.handler import EngineOptions, SegmentationHandler
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.journal import Journal
from pipeline.outputs.products import MASKS
from pipeline.records import Photo, Reject, Row, Stamp, Task, Window, hash_of, rejected
from pipeline.runners.progress import count, stage_timer
from pipeline.storage import Files, affects_all_files, as_job_error, is_name_error

PHOTOS_PER_WINDOW = 32  # at most
MAX_WINDOW_BYTES = 256_000_000  # of the pixels and class maps in a window
MAX_FILE_BYTES = 1_000_000_000  # a larger file is no photo, and reading it could end the worker
# Of an encoder, for a photo that its format cannot hold, such as a JPEG of over 65,535 pixels.
ENCODING_ERRORS = (MemoryError, OSError, ValueError)


def read_windows(tasks: Sequence[Task], options: DecodeOptions, files: Files) -> Iterator[Window]:
    """Reads tasks' files at once and decodes them.

    Yields:
        Windows of the tasks in their order: one, or several if the images are large by their
        headers. A photo that cannot be read or decoded is replaced by a reject.
    """
    read = files.read_each(
        ((t.image.path, t.image.stamp and t.image.stamp.size) for t in tasks), MAX_FILE_BYTES + 1
    )
    window: list[tuple[Task, Photo | Reject]] = []
    held = 0
    for task in tasks:
        with stage_timer("read"):
            data = _closable(next(read))
        size = decoded_bytes(data, options) if isinstance(data, io.BytesIO) else 0
        if window and held + size > MAX_WINDOW_BYTES:
            yield _window(window)
            window, held = [], 0
        with stage_timer("decode"):
            window.append((task, _decode(task, data, options)))
        held += size
    if window:
        yield _window(window)


def _window(window: list[tuple[Task, Photo | Reject]]) -> Window:
    tasks, photos = zip(*window, strict=True)
    return Window(tasks, photos)


def _closable(data: bytes | Exception) -> io.BytesIO | Exception:
    """Wraps a file's bytes so that decoding can free them: a name for them would keep them."""
    return io.BytesIO(data) if isinstance(data, bytes) else data


def _decode(task: Task, data: io.BytesIO | Exception, options: DecodeOptions) -> Photo | Reject:
    path = task.image.path
    if isinstance(data, Exception):
        if affects_all_files(data):
            with as_job_error():
                raise data
        return rejected(path, "read", data)._replace(row=task.row)
    if data.getbuffer().nbytes > MAX_FILE_BYTES:
        too_large = ValueError(f"the file is larger than {MAX_FILE_BYTES:,} bytes")
        return rejected(path, "read", too_large)._replace(row=task.row)
    try:
        digest = hash_of(data.getbuffer())
        return decode(data, options)._replace(hash=digest)
    except Exception as error:
        return rejected(path, "decode", error)


@dataclass(frozen=True)
class WriteOptions:
    """How products are written.

    Attributes:
        labels: of the network.
        recipe: id of the mask recipe.
        out: the output folder.
    """

    labels: LabelSet
    recipe: str
    out: OutputFolder


class Encoded(NamedTuple):
    """An image's products, ready to be written.

    Attributes:
        task: the image.
        row: of its mask; ``written`` follows if the mask is among the files.
        files: their contents by path below OUT, in the order of writing. The mask comes first: a
            run that ends before the others leaves none that shows another mask.
        outdated: names of products to delete first: they belong to the mask that is replaced.
    """

    task: Task
    row: Row
    files: dict[str, bytes]
    outdated: frozenset[str] = frozenset()


def write_window(window: Window, options: WriteOptions, journal: Journal) -> list[Row | Reject]:
    """Encodes and writes the products of a window.

    The mask of an earlier run is replaced. If there is nothing to replace it, it is deleted once
    the reject is in the journal, see :func:`is_stale`.

    Returns:
        For each task its row, or its reject.

    Raises:
        JobError: a file cannot be written or deleted, for a cause that affects all files.
    """
    out = options.out
    encoded = [encode(*of_image, options) for of_image in zip(*window, strict=True)]
    outcomes = write_all(encoded, out)
    journal.add(outcomes)
    of_images = zip(window.tasks, encoded, outcomes, strict=True)
    stale = [task for task, one, outcome in of_images if is_stale(task, one, outcome, out)]
    if stale:
        journal.flush()
    with as_job_error():
        for task in stale:
            out.delete_products(task.mask_name)
    return outcomes


def encode(
    task: Task, photo: Photo | Reject, class_map: np.ndarray | Reject, options: WriteOptions
) -> Encoded | Reject:
    """Encodes the products of an image; returns the reject of one that has no class map.

    Args:
        class_map: uint8 ``[h, w]``, at the size of the photo's pixels.
    """
    if isinstance(class_map, Reject):
        return class_map
    assert isinstance(photo, Photo)  # only a photo has a class map
    out, size = options.out, (photo.height, photo.width)
    products = (MASKS, *out.products)
    try:
        pixels = histogram(class_map, options.labels, size)
        materials = {
            "pixels": photo.pixels,
            "class_map": class_map,
            "size": size,
            "labels": options.labels,
            "origin": Origin(task.image.name, photo.hash, options.recipe, pixels),
        }
        files = {product.file(task.mask_name): product.make(materials) for product in products}
    except ENCODING_ERRORS as error:
        return rejected(task.image.path, "write", error)
    mask = MASKS.file(task.mask_name)
    row = Row(
        image=task.image.path,
        mask=mask,
        width=photo.width,
        height=photo.height,
        pixels=pixels,
        source=task.image.stamp or Stamp(),
        hash=photo.hash,
        mask_hash=hash_of(files[mask]),
        recipe=options.recipe,
    )
    # Without a run OUT was not listed: it may contain any product of an earlier mask.
    outdated = task.products if out.run else frozenset(one.name for one in out.other_products())
    return Encoded(task, row, files, outdated)


def write_all(encoded: Sequence[Encoded | Reject], out: OutputFolder) -> list[Row | Reject]:
    """Writes all files at once.

    Returns:
        For each image its row; or its reject, also if its files cannot be written under their name.

    Raises:
        JobError: a file cannot be written because of the disk or store.
        Exception: a bug.
    """
    written = out.files.run_each([functools.partial(_write, one, out) for one in encoded])
    with as_job_error():
        for outcome in written:
            if isinstance(outcome, Exception):
                raise outcome
    return written


def _write(encoded: Encoded | Reject, out: OutputFolder) -> Row | Reject:
    if isinstance(encoded, Reject):
        return encoded
    task, row = encoded.task, encoded.row
    try:
        out.delete_products(task.mask_name, encoded.outdated)
        stamps = {name: out.write(name, data) for name, data in encoded.files.items()}
    except (OSError, ValueError) as error:
        if not is_name_error(error):
            raise
        return rejected(task.image.path, "write", error)
    return row._replace(written=stamps.get(row.mask, row.written))


def is_stale(
    task: Task, encoded: Encoded | Reject, outcome: Row | Reject, out: OutputFolder
) -> bool:
    """Whether the products that an image may have in OUT must be deleted, as it was rejected.

    An image that cannot be read now is not a changed one: its mask is left alone. A failed write
    may leave some products. An OUT that no run has claimed was not listed, so it may contain any.
    """
    if isinstance(outcome, Row) or outcome.stage == "read":
        return False
    found = task.mask is not None or bool(task.products)
    return found or isinstance(encoded, Encoded) or not out.run


class WindowCoder(beam.coders.Coder):
    """Says how large a window is without encoding it.

    Beam asks for the size of some elements, and would hold each once more to find out.
    """

    def encode(self, window: Window) -> bytes:
        return pickle.dumps(window)

    def decode(self, encoded: bytes) -> Window:
        return pickle.loads(encoded)

    def estimate_size(self, window: Window) -> int:
        held = (*(getattr(photo, "pixels", photo) for photo in window.photos), *window.class_maps)
        return sum(one.nbytes for one in held if isinstance(one, np.ndarray))

    def is_deterministic(self) -> bool:
        return False


beam.coders.registry.register_coder(Window, WindowCoder)


@beam.typehints.with_output_types(Window)
class ReadWindows(beam.DoFn):
    """Lists of tasks → :class:`Window`, see :func:`read_windows`."""

    def __init__(self, options: DecodeOptions, files: Files):
        self.options, self.files = options, files

    def process(self, tasks):
        yield from read_windows(tasks, self.options, self.files)


def infer(options: EngineOptions, files: Files) -> beam.PTransform:
    """:class:`Window` → :class:`Window` with class maps."""
    # Typed, or Beam would not know of their coder.
    return RunInference(SegmentationHandler(options, files)).with_output_types(Window)


class JournallingDoFn(beam.DoFn):
    """A step with a journal, which is flushed at the end of each bundle."""

    def __init__(self, out: OutputFolder):
        self.out = out

    def start_bundle(self):
        self.journal = Journal(self.out)

    def finish_bundle(self):
        self.journal.flush()


class WriteWindow(JournallingDoFn):
    """:class:`Window` → rows, and rejects apart, see :func:`write_window`."""

    def __init__(self, options: WriteOptions):
        super().__init__(options.out)
        self.options = options

    def process(self, window):
        with stage_timer("write"):
            outcomes = write_window(window, self.options, self.journal)
        for outcome in outcomes:
            if isinstance(outcome, Reject):
                count(rejects=1)
                yield beam.pvalue.TaggedOutput("rejected", outcome)
            else:
                count(masks=1)
                yield outcome


class Segmented(NamedTuple):
    """PCollections of :class:`Row` and of :class:`Reject`."""

    rows: beam.PCollection
    rejected: beam.PCollection


class Windowed(beam.PTransform):
    """Tasks → lists of tasks, each a window's."""

    def expand(self, tasks):
        return tasks | beam.BatchElements(
            min_batch_size=PHOTOS_PER_WINDOW, max_batch_size=PHOTOS_PER_WINDOW
        )


class SegmentWindows(beam.PTransform):
    """Lists of tasks → masks in the output folder; :class:`Segmented`."""

    def __init__(self, decode: DecodeOptions, engine: EngineOptions, write: WriteOptions):
        super().__init__()
        self.decode, self.engine, self.write = decode, engine, write

    def expand(self, tasks):
        files = self.write.out.files
        wrote = (
            tasks
            | "Read" >> beam.ParDo(ReadWindows(self.decode, files))
            | "Infer" >> infer(self.engine, files)
            | "Write" >> beam.ParDo(WriteWindow(self.write)).with_outputs("rejected", main="rows")
        )
        return Segmented(wrote.rows, wrote.rejected)
