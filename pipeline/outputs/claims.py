"""Whose masks an output folder holds: ``run.json``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from model_build.common.errors import JobError, UserError
from pipeline.outputs import products
from pipeline.outputs.folder import (
    HISTOGRAMS,
    RUN,
    SUMMARY,
    OutputFolder,
    parse_json,
)
from pipeline.outputs.journal import journals
from pipeline.outputs.recipe import Recipe
from pipeline.storage import Files, as_job_error, describe_error, is_name_error, is_remote, remedy

FORMAT = 2
_NAME = re.compile(r"[\w.-]+")  # of a shard


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
        """Names below OUT of all files that hold rows: shards, also of rejects, and the journal's.

        Raises:
            JobError: OUT cannot be looked at.
        """
        with as_job_error():
            journalled = list(journals(out))
        return [*self.shards, *journalled]


def look(out: OutputFolder) -> Noted:
    """What OUT says of its masks.

    Raises:
        UserError: what stands there is of somebody else, or cannot be understood.
        JobError: OUT cannot be looked at.
    """
    for folder in out.obstacles():
        raise UserError(f"{folder}: not a folder; move it away, or choose another --output")
    try:
        with contextlib.suppress(FileNotFoundError):  # a bucket, which writing will tell of
            next(iter(out.files.starting_with(f"{out.path}/{HISTOGRAMS}-")), None)
        run, summary = _read(out, RUN), _read(out, SUMMARY)
    except IsADirectoryError as error:
        raise UserError(
            f"{describe_error(error)}; move it away, or choose another --output"
        ) from None
    except OSError as error:
        raise JobError(
            f"{describe_error(error)}: cannot read the output folder; {remedy(error)}"
        ) from error
    _check_ours(run, f"{out.path}/{RUN}", "format", "started")
    if run is None:
        _check_ours(summary, f"{out.path}/{SUMMARY}", "masks")
        return Noted()
    version = run.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise UserError(
            f"{out.path}/{RUN}: was written by a newer version of fcn-beam; update it, or choose "
            "another --output"
        )
    if version is None or (isinstance(version, int) and version < FORMAT):
        return Noted()  # its masks do not tell what they are
    try:
        recipe, root, names = Recipe.from_json(run["recipe"]), run["root"], shard_names(run)
        if version != FORMAT or not isinstance(root, str) or names is None:
            raise ValueError(run)
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{out.path}/{RUN}: is damaged; choose another --output, or delete this file and add "
            "--overwrite, which keeps masks that were made with the same model and options"
        ) from None
    # Shards are to be trusted where a summary names them; a run that has not ended notes in
    # run.json those that stood when it began.
    named = shard_names(summary)
    return Noted(recipe, root, names if named is None else named)


def _read(out: OutputFolder, name: str) -> Any:
    """The value of a JSON file; None where there is none or an empty one, ``""`` of no JSON.

    Raises:
        OSError: it cannot be read.
    """
    try:
        data = out.files.read(f"{out.path}/{name}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return parse_json(data) if data.strip(b"\0") else None  # a power cut may leave zeros
    except ValueError:
        return ""


def _check_ours(value: Any, path: str, *keys: str) -> None:
    """Refuses to replace a file that no version of this program has written.

    Args:
        value: see :func:`_read`.
        keys: of which any version's have one.

    Raises:
        UserError: it is somebody else's.
    """
    if value is not None and not (isinstance(value, dict) and any(key in value for key in keys)):
        raise UserError(
            f"{path}: was not written by fcn-beam, and would be overwritten; move it away, or "
            "choose another --output"
        )


def shard_names(noted: Any) -> tuple[str, ...] | None:
    """The shards that ``run.json`` or ``summary.json`` names; None if it is of another form."""
    names = noted.get("shards", []) if isinstance(noted, dict) else None
    if not isinstance(names, list):
        return None
    return tuple(name for name in names if isinstance(name, str) and _NAME.fullmatch(name))


def check(
    out: OutputFolder, noted: Noted, recipe: Recipe, root: str, *, overwrite: bool, moved: bool
) -> None:
    """Refuses to go on with masks of another kind, or of other photos.

    Args:
        noted: by a run that has been here.
        root: what names of masks are relative to.
        overwrite: masks of another recipe are to be done again.
        moved: the photos are those of the earlier root, in another place.

    Raises:
        UserError: OUT holds masks of another recipe or root.
    """
    assert noted.recipe is not None
    if noted.root != root and not moved:
        raise UserError(
            f"{out.path}: contains masks of images in {noted.root}, not {root}; choose another "
            "--output, or add --moved if it is the same archive in another place"
        )
    if not overwrite and (difference := noted.recipe.difference(recipe)):
        raise UserError(
            f"{out.path}: contains masks made with {difference}; add --overwrite to redo them, or "
            "choose another --output"
        )


def unrecorded(out: OutputFolder) -> str | None:
    """The first folder in OUT that holds masks or other products that no ``run.json`` records.

    Raises:
        JobError: OUT cannot be looked at.
    """
    try:
        return next(filter(out.holds, (product.name for product in products.PRODUCTS)), None)
    except OSError as error:
        raise JobError(
            f"{describe_error(error)}: cannot read the output folder; {remedy(error)}"
        ) from error


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
        if is_name_error(error) or isinstance(error, FileNotFoundError | FileExistsError):
            raise UserError(
                f"{path}: cannot be written: {describe_error(error)}; choose another --output"
            ) from None
        raise JobError(
            f"{path}: cannot be written: {describe_error(error)}; {remedy(error)}"
        ) from error
