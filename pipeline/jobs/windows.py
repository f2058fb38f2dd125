"""From tasks to written masks, a window of photos at a time.

::

    tasks ─► read and decode ─► RunInference ─► encode and write ─► rows, rejects

A window is one element of the graph, so that its files are read at once and its masks are written
at once: a store that takes 50 ms to answer costs no more than a disk. Pixels never leave the stage
that Beam fuses of these steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import RunInference

from model_build.data.labels import LabelSet
from pipeline.images.decode import DecodeOptions, decode, decoded_bytes
from pipeline.images.masks import encode_mask, encode_overlay, histogram
from pipeline.images.sizes import enlarge
from pipeline.jobs.progress import COUNTS, stage_timer
from pipeline.network.handler import EngineOptions, SegmentationHandler
from pipeline.outputs.folder import OutputFolder, mask_file, overlay_file
from pipeline.records import Photo, Reject, Row, Task, Window, rejected
from pipeline.storage import Files

PHOTOS = 32  # a window, at most
BYTES = 256 << 20  # of pixels and class maps that a window may hold
MAX_FILE_BYTES = 1 << 30  # nothing that large is a photo; reading it could end the worker


def read_windows(tasks: Sequence[Task], options: DecodeOptions, files: Files) -> Iterator[Window]:
    """Reads tasks' files at once and decodes them.

    Yields:
        Windows of the tasks in their order: one, or several where headers tell of large images.
        What cannot be read or decoded is in it as a reject.
    """
    read = files.read_each(((t.image.path, t.image.size) for t in tasks), MAX_FILE_BYTES + 1)
    window: list[tuple[Task, Photo | Reject]] = []
    held = 0
    for task in tasks:
        with stage_timer("read"):
            data = next(read)
        size = decoded_bytes(data, options) if isinstance(data, bytes) else 0
        if window and held + size > BYTES:
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


def _decode(task: Task, data: bytes | Exception, options: DecodeOptions) -> Photo | Reject:
    path = task.image.path
    if isinstance(data, Exception):
        return rejected(path, "read", data)
    if len(data) > MAX_FILE_BYTES:
        too_large = ValueError(f"the file is larger than {MAX_FILE_BYTES:,} bytes")
        return rejected(path, "read", too_large)
    try:
        return decode(data, options)
    except Exception as error:
        return rejected(path, "decode", error)


def write_window(window: Window, labels: LabelSet, out: OutputFolder) -> list[Row | Reject]:
    """Encodes and writes a window's masks, and the overlays if they are wanted.

    A mask that an earlier run wrote is replaced. Where there is none to replace it, it is deleted:
    no stale mask stands beside a reject.

    Returns:
        For each task its row, or its reject.

    Raises:
        OSError: a stale mask cannot be deleted.
    """
    outcomes: list[Row | Reject] = []
    writes: list[Callable[[], None]] = []
    for task, photo, class_map in zip(*window, strict=True):
        if isinstance(class_map, Reject):
            outcomes.append(class_map)
            writes.append(lambda: None)
            continue
        assert isinstance(photo, Photo)  # only a photo has a class map
        # One class map at a time is enlarged to the size of its source.
        row, write = _encode(task, photo, class_map, labels, out)
        outcomes.append(row)
        writes.append(write)
    for index, error in enumerate(out.files.run_each(writes)):
        if error is not None:
            outcomes[index] = rejected(window.tasks[index].image.path, "write", error)
    for task, outcome in zip(window.tasks, outcomes, strict=True):
        if isinstance(outcome, Reject):
            out.delete(mask_file(task.mask_name))
            out.delete(overlay_file(task.mask_name))
    return outcomes


def _encode(
    task: Task, photo: Photo, class_map: np.ndarray, labels: LabelSet, out: OutputFolder
) -> tuple[Row, Callable[[], None]]:
    """A task's row, and what writes its files."""
    full = enlarge(class_map, (photo.height, photo.width))
    mask = encode_mask(full, labels, task.image.name)
    overlay = encode_overlay(photo.pixels, class_map, labels) if out.overlays else None
    row = mask_row(task, full, labels)
    return row, functools.partial(_write, task, mask, overlay, out)


def _write(task: Task, mask: bytes, overlay: bytes | None, out: OutputFolder) -> None:
    # The mask comes last: where it stands, everything of its image does. An overlay does not
    # outlive its mask, as where it stands it counts as done.
    if overlay is not None:
        out.write(overlay_file(task.mask_name), overlay)
    elif task.mask_mtime is not None:
        out.delete(overlay_file(task.mask_name))
    out.write(mask_file(task.mask_name), mask)


def mask_row(task: Task, class_map: np.ndarray, labels: LabelSet) -> Row:
    """The row of a task's mask; ``class_map`` is uint8 ``[h, w]`` of the source's size."""
    height, width = class_map.shape
    pixels = histogram(class_map, labels)
    return Row(task.image.path, mask_file(task.mask_name), width, height, pixels)


class ReadWindows(beam.DoFn):
    """Lists of tasks → :class:`Window`, see :func:`read_windows`."""

    def __init__(self, options: DecodeOptions, files: Files):
        self.options, self.files = options, files

    def process(self, tasks):
        yield from read_windows(tasks, self.options, self.files)


class WriteWindow(beam.DoFn):
    """:class:`Window` → rows, and rejects apart, see :func:`write_window`."""

    def __init__(self, labels: LabelSet, out: OutputFolder):
        self.labels, self.out = labels, out

    def process(self, window):
        with stage_timer("write"):
            outcomes = write_window(window, self.labels, self.out)
        for outcome in outcomes:
            if isinstance(outcome, Reject):
                COUNTS.add(rejects=1)
                yield beam.pvalue.TaggedOutput("rejected", outcome)
            else:
                COUNTS.add(masks=1)
                yield outcome


class Segmented(NamedTuple):
    """PCollections of :class:`Row` and of :class:`Reject`."""

    rows: beam.PCollection
    rejected: beam.PCollection


class Windowed(beam.PTransform):
    """Tasks → lists of tasks, each a window's."""

    def expand(self, tasks):
        return tasks | beam.BatchElements(min_batch_size=PHOTOS, max_batch_size=PHOTOS)


class SegmentWindows(beam.PTransform):
    """Lists of tasks → masks in the output folder; :class:`Segmented`."""

    def __init__(
        self, decode: DecodeOptions, engine: EngineOptions, labels: LabelSet, out: OutputFolder
    ):
        super().__init__()
        self.decode, self.engine, self.labels, self.out = decode, engine, labels, out

    def expand(self, tasks):
        files = self.out.files
        wrote = (
            tasks
            | "Read" >> beam.ParDo(ReadWindows(self.decode, files))
            | "Infer" >> RunInference(SegmentationHandler(self.engine, files))
            | "Write"
            >> beam.ParDo(WriteWindow(self.labels, self.out)).with_outputs("rejected", main="rows")
        )
        return Segmented(wrote.rows, wrote.rejected)
