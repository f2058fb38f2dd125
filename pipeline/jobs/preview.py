"""Before a run: is there any input, and what would be done with it?"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from model_build.console import visible
from model_build.errors import UserError
from pipeline.inputs.listing import ListOptions, distinct, list_source
from pipeline.inputs.names import group_key
from pipeline.jobs.standing import State, count_edits, state
from pipeline.jobs.tasks import identify, keyed_masks, keyed_overlays, keyed_rows, plan_group
from pipeline.outputs import skipped
from pipeline.outputs.folder import mask_file
from pipeline.outputs.summary import NEVER_PHOTOS
from pipeline.records import ImageRef, MaskRef, PassedOver, Reject, Source, Task
from pipeline.storage import Files, users_fault

if TYPE_CHECKING:
    from pipeline.jobs.plan import Plan

AT_ONCE = 1000  # images of a list that are asked for together


def check_input(sources: Sequence[Source], listing: ListOptions, files: Files) -> None:
    """Looks for a first image, so that a mistyped INPUT fails before anything starts.

    Raises:
        UserError: the sources hold none, or cannot be listed.
    """
    passed_over: set[PassedOver] = set()
    for found in _list(sources, listing, files):
        if not isinstance(found, PassedOver):
            return
        passed_over.add(found)
    where = ", ".join(dict.fromkeys(source.where for source in sources))
    if not passed_over:
        raise UserError(f"{where}: no files found; check the path")
    others = sum(not (file.written or file.never_photo) for file in passed_over)
    if all(file.written for file in passed_over):
        raise UserError(
            f"{where}: contains only results of earlier runs, which are not taken as input; "
            "name the folder of the photos"
        )
    if not others:
        example = min(file.path for file in passed_over if file.never_photo)
        raise UserError(
            f"{where}: contains only files in folders that never hold photos, such as {example}; "
            "name such a folder itself to read it"
        )
    counts, found_hints = _skipped(passed_over, files)
    remedy = "; ".join(found_hints) or "add --all-files to try them all"
    raise UserError(
        f"{where}: none of its {others} files has an image extension ({counts}); {remedy}"
    )


def _skipped(passed_over: Iterable[PassedOver], files: Files) -> tuple[str, list[str]]:
    """The extensions of files that were passed over for them, and what can be done about those."""
    named = Counter(
        skipped.extension(file.path) for file in passed_over if skipped.has_another_extension(file)
    )
    counts = skipped.most_common(named, skipped.EXTENSIONS)
    lookalikes = skipped.count_lookalikes(skipped.sample_of(passed_over), files)
    return skipped.listed(counts), skipped.hints(counts, lookalikes)


def dry_run(plan: Plan, say: Callable[[str], None]) -> None:
    """Says what a run would do, a line an image, edits to be discarded first; writes nothing.

    Raises:
        UserError: the sources or OUT cannot be listed.
    """
    tell_edits(plan, say)
    out, listing = plan.out, plan.listing
    images: list[ImageRef] = []
    unlisted: set[Reject] = set()
    passed_over: set[PassedOver] = set()
    for found in _list(plan.sources, listing, out.files):
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
    extensions, found_hints = _skipped(passed_over, out.files)
    never = sum(file.never_photo for file in passed_over)
    details = ", ".join(filter(None, (extensions, f"{never} {NEVER_PHOTOS}" * (never > 0))))
    states = ", ".join(f"{count} {one.value}" for one, count in counts.items())
    say(
        f"{sum(counts.values())} images: {states}; {rejects} rejected; "
        f"{len(passed_over)} files skipped" + f" ({details})" * bool(details)
    )
    for hint in found_hints:
        say(hint)


def tell_edits(plan: Plan, say: Callable[[str], None]) -> None:
    """Says how many masks edited by hand a run discards, if that is asked for; writes nothing.

    Raises:
        UserError: the sources cannot be listed.
        JobError: a mask cannot be read.
    """
    if plan.discard_edits:
        found = _list(plan.sources, plan.listing, plan.out.files)
        images = [one for one in found if isinstance(one, ImageRef)]
        planned = _planned(plan, images)
        edits = sum(count_edits(tasks, plan.keep, plan.out) for _, tasks in planned)
        say(f"edited masks to discard: {edits}")


def _planned(plan: Plan, images: list[ImageRef]) -> Iterator[tuple[list[Reject], list[Task]]]:
    """Rejects and tasks of images, :data:`AT_ONCE` together."""
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
    while some := list(itertools.islice(planned, AT_ONCE)):
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


def _list(
    sources: Sequence[Source], listing: ListOptions, files: Files
) -> Iterator[ImageRef | PassedOver | Reject]:
    for source in sources:
        advice = "check the path and your permissions"
        with users_fault(source.where, "cannot be listed", advice):
            yield from list_source(source, listing, files)
