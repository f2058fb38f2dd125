"""Before a run: is there any input, and what would be done with it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from model_build.errors import UserError, first_line
from pipeline.inputs.listing import ListOptions, list_source
from pipeline.inputs.names import group_key
from pipeline.jobs.standing import State, state
from pipeline.jobs.tasks import identify, keyed_masks, keyed_overlays, keyed_rows, plan_group
from pipeline.outputs.folder import mask_file
from pipeline.records import ImageRef, PassedOver, Reject, Source, Task
from pipeline.storage import Files

if TYPE_CHECKING:
    from pipeline.jobs.plan import Plan

AT_ONCE = 1000  # images of a list that are asked for together


def check_input(sources: Sequence[Source], listing: ListOptions, files: Files) -> None:
    """Looks for a first image, so that a mistyped INPUT fails before anything starts.

    Raises:
        UserError: the sources hold none, or cannot be listed.
    """
    passed_over = 0
    for found in _list(sources, listing, files):
        if not isinstance(found, PassedOver):
            return
        passed_over += 1
    where = ", ".join(source.where for source in sources)
    if not passed_over:
        raise UserError(f"{where}: holds no file; check the path")
    raise UserError(
        f"{where}: none of its {passed_over} files has an image's extension; "
        "add --all-files to try them all"
    )


def dry_run(plan: Plan, say: Callable[[str], None]) -> None:
    """Says what a run would do, a line an image; writes nothing.

    Raises:
        UserError: the sources or OUT cannot be listed.
    """
    out, listing = plan.out, plan.listing
    images: dict[str, ImageRef] = {}
    rejects = passed_over = 0
    for found in _list(plan.sources, listing, out.files):
        if isinstance(found, ImageRef):
            images[found.name] = found
        elif isinstance(found, Reject):
            rejects += 1
            say(f"{found.image}: rejected: {found.detail}")
        else:
            passed_over += 1
    groups: dict[str, dict[str, list]] = {}
    for name in sorted(images)[: listing.limit]:
        empty: dict[str, list] = {"images": [], "masks": [], "rows": [], "overlays": []}
        groups.setdefault(group_key(name), empty)["images"].append(images[name])
    for kind, standing in _standing(plan):
        for key, one in standing:
            if key in groups:
                groups[key][kind].append(one)
    counts = dict.fromkeys(State, 0)
    tasks: list[Task] = []
    for planned in (one for group in groups.values() for one in plan_group(group, out)):
        if isinstance(planned, Task):
            tasks.append(planned)
        elif isinstance(planned, Reject):
            rejects += 1
            say(f"{planned.image}: rejected: {planned.detail}")
    for start in range(0, len(tasks), AT_ONCE):
        for task in identify(tasks[start : start + AT_ONCE], out.files):
            comes_to = state(task, plan.keep, out.overlays)
            counts[comes_to] += 1
            say(f"{task.image.path} -> {mask_file(task.mask_name)}: {comes_to.value}")
    say(
        f"{len(tasks)} images: "
        + ", ".join(f"{counts[one]} {one.value}" for one in (State.TO_DO, State.CHECK, State.DONE))
        + f"; {rejects} rejected; {passed_over} files passed over"
    )


def _standing(plan: Plan) -> Iterator[tuple[str, Iterator[tuple[str, Any]]]]:
    """What stands in OUT, by kind; each under the key of the images it may be of."""
    out = plan.out
    if plan.noted.recipe is None and not plan.overwrite:
        return
    yield "masks", keyed_masks(out)
    yield "rows", (one for name in plan.noted.rows(out) for one in keyed_rows(name, out))
    if out.overlays:
        yield "overlays", keyed_overlays(out)


def _list(
    sources: Sequence[Source], listing: ListOptions, files: Files
) -> Iterator[ImageRef | PassedOver | Reject]:
    for source in sources:
        try:
            yield from list_source(source, listing, files)
        except (OSError, ValueError) as error:
            cause = first_line(error).removeprefix(f"{source.where}: ")
            raise UserError(
                f"{source.where}: cannot be listed: {cause}; check the path and your permissions"
            ) from None
