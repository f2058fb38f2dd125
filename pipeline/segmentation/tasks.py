"""Tasks: the listed images, joined with what the output folder already contains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam

from pipeline.inputs.listing import distinct
from pipeline.inputs.names import assign_mask_names, group_key, mask_key
from pipeline.inputs.parallel_listing import ListFiles
from pipeline.outputs.folder import OutputFolder, unsupported_name
from pipeline.outputs.journal import read_rows
from pipeline.outputs.products import MASKS
from pipeline.records import ImageRef, ProductFile, Reject, Row, Stamp, Task
from pipeline.runners.progress import count
from pipeline.segmentation.up_to_date import (
    KeepOptions,
    keep_masks,
    missing_products,
    outdated_products,
    row_of_mask,
)
from pipeline.segmentation.windows import JournallingDoFn
from pipeline.storage import File, Files, as_job_error


def keyed_image(image: ImageRef) -> tuple[str, ImageRef]:
    """Keys an image by its :func:`pipeline.inputs.names.group_key`; counts it for the progress."""
    count(listed=1)
    return group_key(image.name), image


def keyed_products(files: Iterable[ProductFile]) -> Iterator[tuple[str, ProductFile]]:
    """Keys masks and other products by the images that they may belong to."""
    with as_job_error():
        for file in files:
            yield mask_key(file.mask_name), file


def keyed_rows(name: str, out: OutputFolder) -> Iterator[tuple[str, Row]]:
    """Keys the rows of masks in a shard or a file of the journal in the same way.

    Args:
        name: the file's path below OUT. A file that has been removed meanwhile has no rows: masks
            without a row are checked.
    """
    with as_job_error():
        try:
            data = out.files.read(f"{out.path}/{name}")
        except FileNotFoundError:
            return
    for row in read_rows(data):
        if mask_name := MASKS.mask_name(row.mask):
            yield mask_key(mask_name), row


def plan_group(
    found: Mapping[str, Iterable], out: OutputFolder, since: float | None = None
) -> Iterator[Task | Reject | ProductFile]:
    """Plans the tasks of one group of names whose masks may clash.

    Args:
        found: its ``images`` (:class:`ImageRef`), ``products`` (:class:`ProductFile`) and ``rows``
            (:class:`Row`).
        since: when the run began, by the clock of OUT's disk or store. A run may find masks of its
            own if a worker was lost and its work is repeated.

    Yields:
        A task for each image; a reject if OUT cannot hold a mask of its name, or another image
        has that name; and the masks that belong to no image.
    """
    images: dict[str, ImageRef] = {}
    for image in distinct(found["images"]):
        first = images.setdefault(image.name, image)
        if first is not image:
            clash = f"{first.path} would get the same mask name; rename one of them"
            yield Reject(image.path, "list", "BadName", clash)
    products: dict[str, dict[str, ProductFile]] = {}
    for file in found["products"]:
        products.setdefault(file.mask_name, {})[file.product] = file
    rows: dict[str | None, list[Row]] = {}
    for row in found["rows"]:
        rows.setdefault(MASKS.mask_name(row.mask), []).append(row)
    for name, mask_name in assign_mask_names(images).items():
        image, of_image = images[name], products.pop(mask_name, {})
        if reason := unsupported_name(mask_name, out.path):
            yield Reject(image.path, "list", "BadName", reason)
            continue
        mask = of_image.pop(MASKS.name, None)
        of_mask = rows.get(mask_name, ()) if mask else ()
        stamp = mask and mask.stamp
        row = row_of_mask(of_mask, image.path, stamp, image.stamp)
        earlier = () if row else tuple(of_mask)
        made = bool(since and mask and mask.written and mask.written >= since)
        yield Task(image, mask_name, stamp, row, frozenset(of_image), earlier, made)
    yield from (of_mask[MASKS.name] for of_mask in products.values() if MASKS.name in of_mask)


class Planned(NamedTuple):
    """PCollections.

    Attributes:
        tasks: a :class:`Task` for each image.
        rejected: a :class:`Reject` for each image whose mask OUT cannot hold.
        outside: a :class:`ProductFile` for each mask that belongs to no image.
    """

    tasks: beam.PCollection
    rejected: beam.PCollection
    outside: beam.PCollection


class PlanTasks(beam.PTransform):
    """Image references → :class:`Planned`.

    One grouping by the mask's name breaks fusion after the listing, finds two images that claim one
    mask, and joins what the output folder already contains.

    Args:
        rows: names below OUT of the files that contain rows; None: OUT is not listed.
        since: see :func:`plan_group`.
        spread: many workers list OUT.
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
        start, out = images.pipeline, self.out
        folders = out.product_folders() if self.rows is not None else []
        listed = start | "OutputFolders" >> beam.Create(folders)
        listed = listed | "ListOutput" >> ListFiles(out.files, self.spread and bool(folders))
        rows = start | "RowFiles" >> beam.Create(self.rows or [])
        planned = (
            {
                "images": images | "KeyImages" >> beam.Map(keyed_image),
                "products": listed
                | "KeyProducts"
                >> beam.FlatMap(lambda found: keyed_products(out.product_file(found.file))),
                "rows": rows | "KeyRows" >> beam.FlatMap(keyed_rows, out),
            }
            | "GroupByMaskName" >> beam.CoGroupByKey()
            | "PlanGroup"
            >> beam.FlatMap(_tagged, out, self.since).with_outputs(
                "rejected", "outside", main="tasks"
            )
        )
        return Planned(planned.tasks, planned.rejected, planned.outside)


def _tagged(
    keyed: tuple[str, Mapping[str, Iterable]], out: OutputFolder, since: float | None
) -> Iterator[Any]:
    for planned in plan_group(keyed[1], out, since):
        if isinstance(planned, Task):
            yield planned
        else:
            tag = "rejected" if isinstance(planned, Reject) else "outside"
            yield beam.pvalue.TaggedOutput(tag, planned)


def identify(tasks: Sequence[Task], files: Files) -> list[Task]:
    """Requests the stamps of images that come from a list, all at once.

    A stamp that cannot be had stays unknown: reading the image will show the cause.
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


class KeepMasks(JournallingDoFn):
    """Lists of tasks → lists of those whose masks must be made; rows of the others, and rejects.

    Rows of masks that this run made are tagged ``made_by_this_run``. Tasks whose masks are up to
    date but lack other products of the run are tagged ``incomplete``, as lists. Renewed rows are
    journalled.
    """

    def __init__(self, options: KeepOptions, out: OutputFolder):
        super().__init__(out)
        self.options = options

    def process(self, tasks):
        to_do, incomplete = [], []
        for task, found in zip(tasks, keep_masks(tasks, self.options, self.out), strict=True):
            if isinstance(found, Task):
                to_do.append(found)
                continue
            outdated = outdated_products(task, found if isinstance(found, Row) else found.row)
            with as_job_error():  # before the journal has the edit, after which they are up to date
                self.out.delete_products(task.mask_name, outdated)
            task = task._replace(products=task.products - outdated)
            if isinstance(found, Reject):
                count(rejects=1)
                yield beam.pvalue.TaggedOutput("rejected", found)
                continue
            if found != task.row:
                self.journal.add([found])
            if missing_products(task, self.out):
                incomplete.append(task._replace(row=found))
            elif task.made_by_this_run:
                count(masks=1)
                yield beam.pvalue.TaggedOutput("made_by_this_run", found)
            else:
                count(kept=1)
                yield beam.pvalue.TaggedOutput("rows", found)
        if incomplete:
            yield beam.pvalue.TaggedOutput("incomplete", incomplete)
        if to_do:
            yield to_do
