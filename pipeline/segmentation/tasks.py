"""What is to be done: the images listed, joined with what stands in the output folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import apache_beam as beam

from pipeline.inputs.listing import distinct
from pipeline.inputs.names import assign_mask_names, group_key, mask_key
from pipeline.inputs.parallel_listing import Found, ListFiles
from pipeline.outputs.folder import MASKS, OutputFolder, unsupported_name
from pipeline.outputs.journal import Journal, read_rows
from pipeline.records import ImageRef, MaskRef, Reject, Row, Stamp, Task
from pipeline.runners.progress import count
from pipeline.segmentation.up_to_date import KeepOptions, keep_masks, row_of_mask
from pipeline.storage import File, Files, as_job_error


def keyed_image(image: ImageRef) -> tuple[str, ImageRef]:
    """The image under its :func:`pipeline.inputs.names.group_key`; counted for the progress."""
    count(listed=1)
    return group_key(image.name), image


def keyed_masks(out: OutputFolder) -> Iterator[tuple[str, MaskRef]]:
    """The masks an earlier run has left, under the key of the images they may be of."""
    with as_job_error():
        for mask in out.masks():
            yield mask_key(mask.name), mask


def keyed_overlays(out: OutputFolder) -> Iterator[tuple[str, str]]:
    """Names of the masks that have an overlay, under the same key."""
    with as_job_error():
        for mask_name in out.overlaid():
            yield mask_key(mask_name), mask_name


def mask_keyed(found: Found, out: OutputFolder) -> Iterator[tuple[str, MaskRef]]:
    """The same of one file below OUT."""
    with as_job_error():
        for mask in out.mask(found.file):
            yield mask_key(mask.name), mask


def overlay_keyed(found: Found, out: OutputFolder) -> Iterator[tuple[str, str]]:
    """The same of one file below OUT."""
    with as_job_error():
        for mask_name in out.overlay(found.file):
            yield mask_key(mask_name), mask_name


def keyed_rows(name: str, out: OutputFolder) -> Iterator[tuple[str, Row]]:
    """The rows of masks in a shard or a file of the journal, under the same key.

    Args:
        name: the file's, below OUT. One that has gone meanwhile has none: masks without a row are
            looked at.
    """
    with as_job_error():
        try:
            data = out.files.read(f"{out.path}/{name}")
        except FileNotFoundError:
            return
    for row in read_rows(data):
        yield mask_key(row.mask.removeprefix(f"{MASKS}/")), row


def plan_group(
    found: Mapping[str, Iterable], out: OutputFolder, since: float | None = None
) -> Iterator[Task | Reject | MaskRef]:
    """The tasks of one group of names whose masks may clash.

    Args:
        found: its ``images`` (:class:`ImageRef`), ``masks`` (:class:`MaskRef`) and ``rows``
            (:class:`Row`), and names of masks under ``overlays``.
        since: when the run began, by the clock of OUT's disk or store. The run itself may find
            masks of its own, where a worker was lost and its work is done again.

    Yields:
        A task for each image; a reject where OUT can hold no mask of its name, or another image
        has that name; and the masks that are no image's.
    """
    images: dict[str, ImageRef] = {}
    for image in distinct(found["images"]):
        first = images.setdefault(image.name, image)
        if first is not image:
            clash = f"{first.path} would get the same mask name; rename one of them"
            yield Reject(image.path, "list", "NameError", clash)
    masks = {mask.name: mask for mask in found["masks"]}
    rows: dict[str, list[Row]] = {}
    for row in found["rows"]:
        rows.setdefault(row.mask.removeprefix(f"{MASKS}/"), []).append(row)
    overlaid = set(found["overlays"])
    for name, mask_name in assign_mask_names(images).items():
        image, mask = images[name], masks.pop(mask_name, None)
        if reason := unsupported_name(mask_name, out.path):
            yield Reject(image.path, "list", "NameError", reason)
            continue
        stamp = None if mask is None else mask.stamp
        of_mask = rows.get(mask_name, ())
        row = row_of_mask(of_mask, image.path, stamp, image.stamp)
        earlier = tuple(of_mask) if mask is not None and row is None else ()
        written = None if mask is None else mask.written
        ours = since is not None and written is not None and written >= since
        yield Task(image, mask_name, stamp, row, mask_name in overlaid, earlier, ours)
    yield from masks.values()


class Planned(NamedTuple):
    """PCollections.

    Attributes:
        tasks: a :class:`Task` for each image.
        rejected: a :class:`Reject` where OUT can hold no such mask.
        outside: a :class:`MaskRef` for each mask that is no image's.
    """

    tasks: beam.PCollection
    rejected: beam.PCollection
    outside: beam.PCollection


class PlanTasks(beam.PTransform):
    """Image references → :class:`Planned`.

    One grouping on the mask's name breaks fusion after the listing, finds two images that claim one
    mask, and joins what the output folder already holds.

    Args:
        rows: names below OUT of the files that hold rows; None: whatever stands there is not looked
            at.
        since: see :func:`plan_group`.
        spread: many workers list what stands.
    """

    def __init__(
        self,
        out: OutputFolder,
        rows: Sequence[str] | None = None,
        since: float | None = None,
        spread: bool = True,
    ):
        super().__init__()
        self.out, self.rows, self.since, self.spread = out, rows, since, spread

    def expand(self, images):
        start = images.pipeline
        folders = self.out.standing() if self.rows is not None else []
        standing = start | "OutputFolders" >> beam.Create(folders)
        spread = self.spread and bool(folders)
        standing = standing | "ListOutput" >> ListFiles(self.out.files, spread)
        rows = start | "RowFiles" >> beam.Create(self.rows or [])
        planned = (
            {
                "images": images | "KeyImages" >> beam.Map(keyed_image),
                "masks": standing | "KeyMasks" >> beam.FlatMap(mask_keyed, self.out),
                "rows": rows | "KeyRows" >> beam.FlatMap(keyed_rows, self.out),
                "overlays": standing | "KeyOverlays" >> beam.FlatMap(overlay_keyed, self.out),
            }
            | "GroupByMaskName" >> beam.CoGroupByKey()
            | "PlanGroup"
            >> beam.ParDo(_PlanGroup(self.out, self.since)).with_outputs(
                "rejected", "outside", main="tasks"
            )
        )
        return Planned(planned.tasks, planned.rejected, planned.outside)


class _PlanGroup(beam.DoFn):
    def __init__(self, out: OutputFolder, since: float | None):
        self.out, self.since = out, since

    def process(self, group):
        _, found = group
        for planned in plan_group(found, self.out, self.since):
            if isinstance(planned, Task):
                yield planned
            else:
                tag = "rejected" if isinstance(planned, Reject) else "outside"
                yield beam.pvalue.TaggedOutput(tag, planned)


def identify(tasks: Sequence[Task], files: Files) -> list[Task]:
    """Asks for the stamps of images that a list has named, at once.

    Those that cannot be had stay unknown: reading the image will tell why.
    """
    unknown = [task.image.path for task in tasks if task.image.stamp is None]
    found = dict(zip(unknown, files.stat_each(unknown), strict=True))
    identified = []
    for task in tasks:
        file = found.get(task.image.path)
        if isinstance(file, File):
            stamp = Stamp(file.size, file.version)
            task = task._replace(image=task.image._replace(stamp=stamp))
        identified.append(task)
    return identified


class KeepMasks(beam.DoFn):
    """Lists of tasks → those of them that are to do; rows of masks that hold; and rejects.

    Rows of masks that this run has written itself are apart, as ``ours``. Rows that were renewed
    are journalled.
    """

    def __init__(self, options: KeepOptions, out: OutputFolder):
        self.options, self.out = options, out

    def start_bundle(self):
        self.journal = Journal(self.out)

    def process(self, tasks):
        to_do = []
        for task, found in zip(tasks, keep_masks(tasks, self.options, self.out), strict=True):
            if isinstance(found, Task):
                to_do.append(found)
            elif isinstance(found, Reject):
                count(rejects=1)
                yield beam.pvalue.TaggedOutput("rejected", found)
            else:
                count(**{"masks" if task.ours else "kept": 1})
                if found != task.row:
                    self.journal.add([found])
                yield beam.pvalue.TaggedOutput("ours" if task.ours else "rows", found)
        if to_do:
            yield to_do

    def finish_bundle(self):
        self.journal.flush()
