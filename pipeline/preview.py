"""Before a run: is there any input, and what would be done with it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from model_build.errors import UserError
from pipeline.job import Settings
from pipeline.listing import MASKS, ImageRef, PassedOver, Source, group_key, list_source
from pipeline.rejects import Reject
from pipeline.tasks import keyed_masks, keyed_overlays, plan_tasks


def check_input(sources: list[Source], settings: Settings) -> None:
    """Looks for a first image, so that a mistyped INPUT fails before anything starts.

    Raises:
        UserError: the sources hold none, or cannot be listed.
    """
    passed_over = 0
    for found in _list(sources, settings):
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


def dry_run(sources: list[Source], settings: Settings, say: Callable[[str], None]) -> None:
    """Says what a run would do, a line an image; writes nothing.

    Raises:
        UserError: the sources cannot be listed.
    """
    images: dict[str, ImageRef] = {}
    rejects = passed_over = 0
    for found in _list(sources, settings):
        if isinstance(found, ImageRef):
            images[found.name] = found
        elif isinstance(found, Reject):
            rejects += 1
            say(f"{found.image}: rejected: {found.detail}")
        else:
            passed_over += 1
    groups: dict[str, dict[str, list]] = {}
    for name in sorted(images)[: settings.limit]:
        empty: dict[str, list] = {"images": [], "masks": [], "overlays": []}
        groups.setdefault(group_key(name), empty)["images"].append(images[name])
    for key, mask in keyed_masks(settings.out):
        if key in groups:
            groups[key]["masks"].append(mask)
    for key, mask_name in keyed_overlays(settings.out) if settings.overlays else ():
        if key in groups:
            groups[key]["overlays"].append(mask_name)
    count = done = 0
    for group in groups.values():
        for task in plan_tasks(group, settings.since, settings.overlays):
            count += 1
            done += task.done
            state = "up to date" if task.done else "to do"
            say(f"{task.image.path} -> {MASKS}/{task.mask_name}: {state}")
    say(
        f"{count} images: {count - done} to do, {done} up to date; {rejects} rejected; "
        f"{passed_over} files passed over"
    )


def _list(sources: list[Source], settings: Settings) -> Iterator[ImageRef | PassedOver | Reject]:
    for source in sources:
        try:
            yield from list_source(
                source, settings.root, all_files=settings.all_files, exclude=settings.out
            )
        except (OSError, ValueError) as error:
            raise UserError(f"{source.where}: cannot be listed: {error}") from None
