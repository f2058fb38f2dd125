"""Shows what a run would do, without writing anything."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from model_build.common.console import visible
from pipeline.inputs.first_look import describe_skipped, list_sources
from pipeline.inputs.listing import distinct
from pipeline.inputs.names import group_key
from pipeline.outputs.folder import mask_file
from pipeline.outputs.summary import NEVER_PHOTOS
from pipeline.records import ImageRef, MaskRef, PassedOver, Reject, Task
from pipeline.segmentation.tasks import (
    identify,
    keyed_masks,
    keyed_overlays,
    keyed_rows,
    plan_group,
)
from pipeline.segmentation.up_to_date import State, count_edits, state

if TYPE_CHECKING:
    from pipeline.segmentation.plan import Plan

IMAGES_AT_ONCE = 1000  # whose metadata is fetched together


def dry_run(plan: Plan, say: Callable[[str], None]) -> None:
    """Says what a run would do, a line an image, edits to be discarded first; writes nothing.

    Raises:
        UserError: the sources or OUT cannot be listed.
    """
    report_edits(plan, say)
    out, listing = plan.out, plan.listing
    images: list[ImageRef] = []
    unlisted: set[Reject] = set()
    passed_over: set[PassedOver] = set()
    for found in list_sources(plan.sources, listing, out.files):
        if isinstance(found, ImageRef):
            images.append(found)
        elif isinstance(found, PassedOver):
            passed_over.add(found)
        elif found not in unlisted:
            unlisted.add(found)
            say(visible(f"{found.image}: rejected: {found.detail}"))
    rejects = len(unlisted)
    counts = dict.fromkeys(State, 0)
    for clashing, tasks in _planned(plan, images):
        for reject in clashing:
            rejects += 1
            say(visible(f"{reject.image}: rejected: {reject.detail}"))
        for task in tasks:
            comes_to = state(task, plan.keep, out.overlays)
            counts[comes_to] += 1
            path, mask = task.image.path, mask_file(task.mask_name)
            say(visible(f"{path} -> {mask}: {comes_to.value}"))
    extensions, found_hints = describe_skipped(passed_over, out.files)
    never = sum(file.never_photo for file in passed_over)
    details = ", ".join(filter(None, (extensions, f"{never} {NEVER_PHOTOS}" * (never > 0))))
    states = ", ".join(f"{count} {one.value}" for one, count in counts.items())
    say(
        f"{sum(counts.values())} images: {states}; {rejects} rejected; "
        f"{len(passed_over)} files skipped" + f" ({details})" * bool(details)
    )
    for hint in found_hints:
        say(hint)


def report_edits(plan: Plan, say: Callable[[str], None]) -> None:
    """Says how many masks edited by hand a run discards, if that is asked for; writes nothing.

    Raises:
        UserError: the sources cannot be listed.
        JobError: a mask cannot be read.
    """
    if plan.discard_edits:
        found = list_sources(plan.sources, plan.listing, plan.out.files)
        images = [one for one in found if isinstance(one, ImageRef)]
        planned = _planned(plan, images)
        edits = sum(count_edits(tasks, plan.keep, plan.out) for _, tasks in planned)
        say(f"edited masks to discard: {edits}")


def _planned(plan: Plan, images: list[ImageRef]) -> Iterator[tuple[list[Reject], list[Task]]]:
    """Rejects and tasks of images, :data:`IMAGES_AT_ONCE` together."""
    groups: dict[str, list[ImageRef]] = {}
    for image in distinct(images)[: plan.listing.limit]:
        groups.setdefault(group_key(image.name), []).append(image)
    standing = _standing(plan)
    planned = (
        one
        for key, of_key in groups.items()
        for one in plan_group(_NOTHING | standing.get(key, {}) | {"images": of_key}, plan.out)
        if not isinstance(one, MaskRef)
    )
    while some := list(itertools.islice(planned, IMAGES_AT_ONCE)):
        tasks = [one for one in some if isinstance(one, Task)]
        # Nothing need be asked of an image without a mask: it is to do.
        to_ask = [task for task in tasks if task.mask is not None]
        identified = iter(identify(to_ask, plan.out.files))
        yield (
            [one for one in some if isinstance(one, Reject)],
            [task if task.mask is None else next(identified) for task in tasks],
        )


_NOTHING: dict[str, list] = {"images": [], "masks": [], "rows": [], "overlays": []}


def _standing(plan: Plan) -> dict[str, dict[str, list]]:
    """What stands in OUT: under the key of the images it may be of, by kind."""
    out = plan.out
    rows = (one for name in plan.noted.rows(out) for one in keyed_rows(name, out))
    found: dict[str, dict[str, list]] = {}
    for kind, keyed in (
        ("masks", keyed_masks(out)),
        ("rows", rows),
        ("overlays", keyed_overlays(out)),
    ):
        for key, one in keyed:
            found.setdefault(key, {}).setdefault(kind, []).append(one)
    return found
