"""What is to be done: the images listed, joined with what stands in the output folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import apache_beam as beam

from model_build.data.labels import LabelSet
from pipeline.images.masks import decode_mask
from pipeline.inputs.names import assign_mask_names, group_key
from pipeline.jobs.progress import COUNTS
from pipeline.jobs.windows import mask_row
from pipeline.outputs.folder import OutputFolder, mask_file, unholdable
from pipeline.records import ImageRef, MaskRef, Reject, Row, Task


def keyed_image(image: ImageRef) -> tuple[str, ImageRef]:
    """The image under its :func:`pipeline.inputs.names.group_key`; counted for the progress."""
    COUNTS.add(listed=1)
    return group_key(image.name), image


def keyed_masks(out: OutputFolder) -> Iterator[tuple[str, MaskRef]]:
    """The masks an earlier run has left, under the key of the images they may be of."""
    for mask in out.masks():
        yield group_key(mask.name), mask


def keyed_overlays(out: OutputFolder) -> Iterator[tuple[str, str]]:
    """Names of the masks that have an overlay, under the same key."""
    for mask_name in out.overlaid():
        yield group_key(mask_name), mask_name


def plan_group(
    found: Mapping[str, Iterable], out: OutputFolder, since: float = 0.0
) -> Iterator[Task | Reject]:
    """The tasks of one group of names whose masks may clash.

    Args:
        found: its ``images`` (:class:`ImageRef`) and ``masks`` (:class:`MaskRef`), and names of
            masks under ``overlays``.
        out: where overlays are wanted, an image without one is not done.
        since: masks older than this hold no longer.

    Yields:
        A task for each image, or a reject where OUT can hold no mask of its name.
    """
    # The same file may be listed twice, by two sources: it is one image.
    images = {image.name: image for image in found["images"]}
    masks = {mask.name: mask.mtime for mask in found["masks"]}
    have_overlay = set(found["overlays"])
    for name, mask_name in assign_mask_names(images).items():
        image, mask_mtime = images[name], masks.get(mask_name)
        if reason := unholdable(mask_name, out.path):
            yield Reject(image.path, "list", "NameError", reason)
            continue
        done = (
            mask_mtime is not None
            and mask_mtime >= since
            and (image.mtime is None or image.mtime <= mask_mtime)
            and (not out.overlays or mask_name in have_overlay)
        )
        yield Task(image, mask_name, mask_mtime, done)


class Planned(NamedTuple):
    """PCollections of :class:`Task`, and of :class:`Reject` where OUT can hold no such mask."""

    tasks: beam.PCollection
    rejected: beam.PCollection


class PlanTasks(beam.PTransform):
    """Image references → :class:`Planned`.

    One grouping on the mask's name breaks fusion after the listing, finds two images that claim one
    mask, and joins what the output folder already holds.

    Args:
        since: masks older than this hold no longer; None: whatever stands in OUT is not looked at.
    """

    def __init__(self, out: OutputFolder, since: float | None = None):
        super().__init__()
        self.out, self.since = out, since

    def expand(self, images):
        looked_at = [self.out] if self.since is not None else []
        out = images.pipeline | "OutputFolder" >> beam.Create(looked_at)
        if not self.out.overlays:
            overlays = images.pipeline | "NoOverlays" >> beam.Create([])
        else:
            overlays = out | "KeyOverlays" >> beam.FlatMap(keyed_overlays)
        planned = (
            {
                "images": images | "KeyImages" >> beam.Map(keyed_image),
                "masks": out | "KeyMasks" >> beam.FlatMap(keyed_masks),
                "overlays": overlays,
            }
            | "GroupByMaskName" >> beam.CoGroupByKey()
            | "PlanGroup"
            >> beam.ParDo(_PlanGroup(self.out, self.since or 0.0)).with_outputs(
                "rejected", main="tasks"
            )
        )
        return Planned(planned.tasks, planned.rejected)


class _PlanGroup(beam.DoFn):
    def __init__(self, out: OutputFolder, since: float):
        self.out, self.since = out, since

    def process(self, group):
        _, found = group
        for planned in plan_group(found, self.out, self.since):
            is_reject = isinstance(planned, Reject)
            yield beam.pvalue.TaggedOutput("rejected", planned) if is_reject else planned


def keep_masks(tasks: Sequence[Task], labels: LabelSet, out: OutputFolder) -> Iterator[Row | Task]:
    """Looks at the masks that earlier runs have written.

    Yields:
        For each task the row of its mask, recounted from it; or the task, where it has no mask, or
        one that holds no longer or is damaged: doing it again fixes that.
    """
    done = [task for task in tasks if task.done]
    masks = out.files.read_each((f"{out.path}/{mask_file(t.mask_name)}", None) for t in done)
    for task in tasks:
        if not task.done:
            yield task
            continue
        row = _recount(task, next(masks), labels, out)
        yield task._replace(done=False) if row is None else row


def _recount(
    task: Task, data: bytes | Exception, labels: LabelSet, out: OutputFolder
) -> Row | None:
    try:
        if isinstance(data, Exception):
            raise data
        if task.image.mtime is None:  # the listing could not tell
            written = out.files.stat(task.image.path).mtime
            if written is not None and task.mask_mtime is not None and written > task.mask_mtime:
                return None
        return mask_row(task, decode_mask(data, labels, task.image.name), labels)
    except Exception:  # whatever is wrong with the mask
        return None


class KeepMasks(beam.DoFn):
    """Lists of tasks → those of them that are to do; and rows of masks that hold."""

    def __init__(self, labels: LabelSet, out: OutputFolder):
        self.labels, self.out = labels, out

    def process(self, tasks):
        to_do = []
        for found in keep_masks(tasks, self.labels, self.out):
            if isinstance(found, Row):
                COUNTS.add(kept=1)
                yield beam.pvalue.TaggedOutput("rows", found)
            else:
                to_do.append(found)
        if to_do:
            yield to_do
