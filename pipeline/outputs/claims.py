"""Whose masks an output folder holds: ``run.json``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from model_build.errors import JobError, UserError
from pipeline.outputs.folder import HISTOGRAMS, MASKS, RUN, SUMMARY, OutputFolder
from pipeline.outputs.journal import journals
from pipeline.outputs.recipe import Recipe
from pipeline.storage import Files, ends_the_job, is_names, is_remote, remedy, told

FORMAT = 2


class Noted(NamedTuple):
    """What earlier runs have noted of their masks.

    Attributes:
        recipe: that the last run made masks by; None where no run has been there.
        root: names of masks are paths below it.
        shards: names below OUT of the shards that the last finished run has left.
    """

    recipe: Recipe | None = None
    root: str = ""
    shards: tuple[str, ...] = ()

    def rows(self, out: OutputFolder) -> list[str]:
        """Names below OUT of all files that hold rows of masks: shards, and the journal's.

        Raises:
            JobError: OUT cannot be looked at.
        """
        with ends_the_job():
            journalled = list(journals(out))
        return [name for name in self.shards if name.startswith(HISTOGRAMS)] + journalled


def look(out: OutputFolder) -> Noted:
    """What OUT says of its masks.

    Raises:
        UserError: a file there cannot be understood.
        JobError: OUT cannot be looked at.
    """
    try:
        run, summary = out.read_json(RUN), out.read_json(SUMMARY)
    except OSError as error:
        raise JobError(f"{told(error)}: OUT cannot be looked at; {remedy(error)}") from error
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        return Noted()  # of no run, or of a version whose masks do not tell what they are
    try:
        recipe, root = Recipe.from_json(run["recipe"]), str(run["root"])
        # Shards are to be trusted where a summary names them; a run that has not ended notes in
        # run.json those that stood when it began.
        naming = summary if isinstance(summary, dict) else run
        shards = tuple(str(name) for name in naming.get("shards", ()))
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{out.path}/{RUN}: cannot be understood; choose another --output, or delete that file "
            "and add --overwrite: masks that prove to be of this recipe stay"
        ) from None
    return Noted(recipe, root, shards)


def check(
    out: OutputFolder, noted: Noted, recipe: Recipe, root: str, *, overwrite: bool, moved: bool
) -> None:
    """Refuses to go on with masks of another kind, or of other photos.

    Args:
        root: what names of masks are relative to.
        overwrite: masks of another recipe are to be done again.
        moved: the photos are those of the earlier root, in another place.

    Raises:
        UserError: OUT holds masks of another recipe or root, or files that no run has written.
        JobError: OUT cannot be looked at.
    """
    if noted.recipe is None:
        if not overwrite and _has_masks(out):
            raise UserError(
                f"{out.path}/{MASKS}: holds files, but no {RUN} of this version tells what they "
                "were made by; choose another --output, or add --overwrite to do again what does "
                "not prove to be of this recipe"
            )
        return
    if noted.root != root and not moved:
        raise UserError(
            f"{out.path}: holds masks of images below {noted.root}, not {root}; choose another "
            "--output, or add --moved if it is the same archive in another place"
        )
    if not overwrite and (difference := noted.recipe.difference(recipe)):
        raise UserError(
            f"{out.path}: holds masks made with {difference}; add --overwrite to do them again, or "
            "choose another --output"
        )


def _has_masks(out: OutputFolder) -> bool:
    try:
        return out.has_masks()
    except OSError as error:
        raise JobError(f"{told(error)}: OUT cannot be looked at; {remedy(error)}") from error


def prepare(path: str, files: Files) -> None:
    """Makes a local OUT.

    Raises:
        UserError: its name cannot be a folder's.
        JobError: the disk is to blame.
    """
    if not is_remote(path):
        with writing(path):
            files.make_folder(path)


def claim(
    out: OutputFolder,
    recipe: Recipe,
    root: str,
    shards: Sequence[str],
    versions: dict[str, str],
) -> None:
    """Notes in OUT what its masks are made by from now on, and that it is not complete.

    Args:
        shards: those that stand, whose rows still serve.
        versions: of the libraries, for the record.

    Raises:
        UserError, JobError: it cannot be written.
    """
    noted: dict[str, Any] = {
        "format": FORMAT,
        "run": out.run,
        "recipe": recipe.to_json(),
        "recipe_id": recipe.id,
        "root": root,
        "shards": list(shards),
        "versions": versions,
    }
    with writing(out.path):
        out.write_json(RUN, noted)
        out.delete(SUMMARY)


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Tells what keeps its block from writing to OUT, before a job has begun."""
    try:
        yield
    except OSError as error:
        if is_names(error) or isinstance(error, FileNotFoundError | FileExistsError):
            raise UserError(
                f"{path}: cannot be written: {told(error)}; choose another --output"
            ) from None
        raise JobError(f"{path}: cannot be written: {told(error)}; {remedy(error)}") from error
