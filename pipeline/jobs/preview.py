"""Before a run: is there any input, and what would be done with it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from model_build.errors import UserError, first_line
from pipeline.inputs.listing import ListOptions, list_source
from pipeline.inputs.names import group_key
from pipeline.jobs.tasks import keyed_masks, keyed_overlays, plan_group
from pipeline.outputs.folder import mask_file
from pipeline.records import ImageRef, PassedOver, Reject, Source
from pipeline.storage import Files

if TYPE_CHECKING:
    from pipeline.jobs.segment import Plan


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
    out, listing, since = plan.out, plan.listing, plan.since
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
        empty: dict[str, list] = {"images": [], "masks": [], "overlays": []}
        groups.setdefault(group_key(name), empty)["images"].append(images[name])
    if since is not None:
        for key, mask in keyed_masks(out):
            if key in groups:
                groups[key]["masks"].append(mask)
        for key, mask_name in keyed_overlays(out) if out.overlays else ():
            if key in groups:
                groups[key]["overlays"].append(mask_name)
    count = done = 0
    for group in groups.values():
        for task in plan_group(group, out, since or 0.0):
            if isinstance(task, Reject):
                rejects += 1
                say(f"{task.image}: rejected: {task.detail}")
                continue
            count += 1
            done += task.done
            state = "up to date" if task.done else "to do"
            say(f"{task.image.path} -> {mask_file(task.mask_name)}: {state}")
    say(
        f"{count} images: {count - done} to do, {done} up to date; {rejects} rejected; "
        f"{passed_over} files passed over"
    )


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
