"""Checks that INPUT holds an image before a job starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from model_build.common.errors import UserError
from pipeline.inputs import skipped
from pipeline.inputs.listing import ListOptions, list_source
from pipeline.records import ImageRef, PassedOver, Reject, Source
from pipeline.storage import Files, as_user_error


def check_input(sources: Sequence[Source], listing: ListOptions, files: Files) -> None:
    """Looks for a first image, so that a mistyped INPUT fails before the job starts.

    Raises:
        UserError: the sources hold no image, or cannot be listed.
    """
    passed_over: set[PassedOver] = set()
    for found in list_sources(sources, listing, files):
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
    counts, found_hints = describe_skipped(passed_over, files)
    remedy = "; ".join(found_hints) or "add --all-files to try them all"
    raise UserError(
        f"{where}: none of its {others} files has an image extension ({counts}); {remedy}"
    )


def describe_skipped(passed_over: Iterable[PassedOver], files: Files) -> tuple[str, list[str]]:
    """Returns the extensions of skipped files as text, and hints about them."""
    named = Counter(
        skipped.extension(file.path) for file in passed_over if skipped.has_another_extension(file)
    )
    counts = skipped.most_common(named, skipped.EXTENSIONS)
    lookalikes = skipped.count_lookalikes(skipped.sample_of(passed_over), files)
    return skipped.listed(counts), skipped.hints(counts, lookalikes)


def list_sources(
    sources: Sequence[Source], listing: ListOptions, files: Files
) -> Iterator[ImageRef | PassedOver | Reject]:
    """Lists sources in this process and yields every file found.

    Raises:
        UserError: a source cannot be listed.
    """
    for source in sources:
        advice = "check the path and your permissions"
        with as_user_error(source.where, "cannot be listed", advice):
            yield from list_source(source, listing, files)
