"""From tasks to written masks, a window of photos at a time.

::

    tasks ─► read and decode ─► RunInference ─► encode and write ─► rows, rejects

A window is one element of the graph, so that its files are read at once and its masks are written
at once: a store that takes 50 ms to answer costs no more than a disk. Pixels never leave the stage
that Beam fuses of these steps.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import RunInference

from model_build.data.labels import LabelSet
from pipeline.images.decode import DecodeOptions, decode, decoded_bytes
from pipeline.images.masks import Origin, encode_mask, encode_overlay, histogram
from pipeline.network.handler import EngineOptions, SegmentationHandler
from pipeline.outputs.folder import OutputFolder, mask_file, overlay_file
from pipeline.outputs.journal import Journal
from pipeline.records import Photo, Reject, Row, Stamp, Task, Window, hash_of, rejected
from pipeline.runners.progress import count, stage_timer
from pipeline.storage import Files, affects_all_files, as_job_error, is_name_error

PHOTOS_PER_WINDOW = 32  # a window, at most
MAX_WINDOW_BYTES = 256 << 20  # of pixels and class maps that a window may hold
MAX_FILE_BYTES = 1 << 30  # nothing that large is a photo; reading it could end the worker


def read_windows(tasks: Sequence[Task], options: DecodeOptions, files: Files) -> Iterator[Window]:
    """Reads tasks' files at once and decodes them.

    Yields:
        Windows of the tasks in their order: one, or several where headers tell of large images.
        What cannot be read or decoded is in it as a reject.
    """
    read = files.read_each(
        ((t.image.path, t.image.stamp and t.image.stamp.size) for t in tasks), MAX_FILE_BYTES + 1
    )
    window: list[tuple[Task, Photo | Reject]] = []
    held = 0
    for task in tasks:
        with stage_timer("read"):
            data = _opened(next(read))
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


def _opened(data: bytes | Exception) -> io.BytesIO | Exception:
    """A file that can be closed: bytes stay as long as anybody calls them by a name."""
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
    """How masks are written.

    Attributes:
        labels: of the network.
        recipe: id of what the masks are made by.
        out: the output folder.
    """

    labels: LabelSet
    recipe: str
    out: OutputFolder


def write_window(window: Window, options: WriteOptions, journal: Journal) -> list[Row | Reject]:
    """Encodes and writes a window's masks, and the overlays if they are wanted.

    A mask that an earlier run wrote is replaced. Where there is none to replace it, it is deleted
    once its reject is in the journal: no stale mask stands beside a reject. Only where the image
    could not even be read is it left alone.

    Returns:
        For each task its row, or its reject.

    Raises:
        JobError: a file cannot be written or deleted, for what would hit every other one, too.
    """
    outcomes: list[Row | Reject] = []
    writes: dict[int, tuple[Row, Callable[[], Stamp]]] = {}
    for index, (task, photo, class_map) in enumerate(zip(*window, strict=True)):
        if isinstance(class_map, Reject):
            outcomes.append(class_map)
            continue
        assert isinstance(photo, Photo)  # only a photo has a class map
        try:
            row, _ = writes[index] = _encode(task, photo, class_map, options)
        except MemoryError as error:
            outcomes.append(rejected(task.image.path, "write", error))
        else:
            outcomes.append(row)
    results = options.out.files.run_each([write for _, write in writes.values()])
    for (index, (row, _)), result in zip(writes.items(), results, strict=True):
        if isinstance(result, Exception):
            outcomes[index] = _failed(window.tasks[index], result)
        else:
            outcomes[index] = row._replace(written=result)
    journal.add(outcomes)
    stale = [
        task
        for index, (task, outcome) in enumerate(zip(window.tasks, outcomes, strict=True))
        if isinstance(outcome, Reject)
        # An image that cannot be read just now has not changed for that: its mask is left alone.
        and outcome.stage != "read"
        # An overlay is written before its mask. Nobody has looked at what stands in an OUT that is
        # not claimed.
        and (task.mask is not None or task.overlaid or index in writes or not options.out.run)
    ]
    if stale:
        journal.flush()
    with as_job_error():
        for task in stale:
            _delete(mask_file(task.mask_name), options.out)
            _delete(overlay_file(task.mask_name), options.out)
    return outcomes


def _delete(name: str, out: OutputFolder) -> None:
    try:
        out.delete(name)
    except OSError as error:
        if not is_name_error(error):  # where none can have that name, none has
            raise


def _failed(task: Task, error: Exception) -> Reject:
    """The reject of a write that failed because of the mask's name.

    Raises:
        JobError: it failed because of the disk or store.
        Exception: it failed because of us.
    """
    if is_name_error(error):
        return rejected(task.image.path, "write", error)
    with as_job_error():
        raise error


def _encode(
    task: Task, photo: Photo, class_map: np.ndarray, options: WriteOptions
) -> tuple[Row, Callable[[], Stamp]]:
    """A task's row, and what writes its files and returns what the store says of the mask."""
    labels, out = options.labels, options.out
    size = photo.height, photo.width
    pixels = histogram(class_map, labels, size)
    origin = Origin(task.image.name, photo.hash, options.recipe, pixels)
    mask = encode_mask(class_map, labels, origin, size)
    overlay = encode_overlay(photo.pixels, class_map, labels) if out.overlays else None
    row = Row(
        image=task.image.path,
        mask=mask_file(task.mask_name),
        width=photo.width,
        height=photo.height,
        pixels=pixels,
        source=task.image.stamp or Stamp(),
        hash=photo.hash,
        mask_hash=hash_of(mask),
        recipe=options.recipe,
    )
    return row, functools.partial(_write, task, mask, overlay, out)


def _write(task: Task, mask: bytes, overlay: bytes | None, out: OutputFolder) -> Stamp:
    # The mask comes last: where it stands, everything of its image does. An overlay does not
    # outlive its mask, as where it stands it counts as done.
    if overlay is not None:
        out.write(overlay_file(task.mask_name), overlay)
    elif task.overlaid:
        out.delete(overlay_file(task.mask_name))
    return out.write(mask_file(task.mask_name), mask)


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


class WriteWindow(beam.DoFn):
    """:class:`Window` → rows, and rejects apart, see :func:`write_window`."""

    def __init__(self, options: WriteOptions):
        self.options = options

    def start_bundle(self):
        self.journal = Journal(self.options.out)

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

    def finish_bundle(self):
        self.journal.flush()


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
