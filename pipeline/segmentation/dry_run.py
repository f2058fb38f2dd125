"""Shows what a run would do, without writing anything."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from model_build.common.console import visible
from pipeline.inputs.first_look import describe_skipped, list_sources
from pipeline.inputs.listing import distinct
from pipeline.inputs.names import group_key
from pipeline.outputs import products
from pipeline.outputs.products import MASKS
from pipeline.outputs.summary import NEVER_PHOTOS
from pipeline.records import ImageRef, PassedOver, ProductFile, Reject, Task
from pipeline.segmentation.tasks import identify, keyed_products, keyed_rows, plan_group
from pipeline.segmentation.up_to_date import State, count_edits, missing_products, state_of

if TYPE_CHECKING:
    from pipeline.segmentation.plan import Plan

IMAGES_AT_ONCE = 1000  # whose metadata is fetched together
_T = TypeVar("_T")


def dry_run(plan: Plan, say: Callable[[str], None]) -> None:
    """Prints what a run would do, one line per image, after the edits to be discarded.

    Writes nothing.

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
    to_add = dict.fromkeys((product.name for product in out.products), 0)
    for clashing, tasks in _planned(plan, images):
        for reject in clashing:
            rejects += 1
            say(visible(f"{reject.image}: rejected: {reject.detail}"))
        for task in tasks:
            state = state_of(task, plan.keep)
            counts[state] += 1
            text = f"{task.image.path} -> {MASKS.file(task.mask_name)}: {state.value}"
            # A mask that is made gets its products along with it.
            for product in missing_products(task, out) if state is not State.TO_DO else ():
                to_add[product.name] += 1
                text += f", {product.name} to add"
            say(visible(text))
    extensions, found_hints = describe_skipped(passed_over, out.files)
    never = sum(file.never_photo for file in passed_over)
    details = ", ".join(filter(None, (extensions, f"{never} {NEVER_PHOTOS}" * (never > 0))))
    states = ", ".join(f"{count} {one.value}" for one, count in counts.items())
    additions = "".join(f", {count} {name} to add" for name, count in to_add.items() if count)
    say(
        f"{sum(counts.values())} images: {states}{additions}; {rejects} rejected; "
        f"{len(passed_over)} files skipped" + f" ({details})" * bool(details)
    )
    for hint in found_hints:
        say(hint)


def report_edits(plan: Plan, say: Callable[[str], None]) -> None:
    """Prints how many masks edited by hand a run discards, if that is requested.

    Writes nothing.

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
    """Yields rejects and tasks of images, :data:`IMAGES_AT_ONCE` together."""
    groups: dict[str, list[ImageRef]] = {}
    for image in distinct(images)[: plan.listing.limit]:
        groups.setdefault(group_key(image.name), []).append(image)
    out = plan.out
    files = _grouped(keyed_products(out.existing(*products.PRODUCTS)))
    rows = _grouped(one for name in plan.earlier_runs.rows(out) for one in keyed_rows(name, out))
    planned = (
        one
        for key, of_key in groups.items()
        for one in plan_group(
            {"images": of_key, "products": files.get(key, ()), "rows": rows.get(key, ())}, out
        )
        if not isinstance(one, ProductFile)
    )
    while some := list(itertools.islice(planned, IMAGES_AT_ONCE)):
        tasks = [one for one in some if isinstance(one, Task)]
        # The stamp of an image without a mask is not needed: its mask must be made anyway.
        to_ask = [task for task in tasks if task.mask is not None]
        identified = iter(identify(to_ask, out.files))
        yield (
            [one for one in some if isinstance(one, Reject)],
            [task if task.mask is None else next(identified) for task in tasks],
        )


def _grouped(keyed: Iterable[tuple[str, _T]]) -> dict[str, list[_T]]:
    groups: dict[str, list[_T]] = {}
    for key, one in keyed:
        groups.setdefault(key, []).append(one)
    return groups
