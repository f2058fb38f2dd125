"""``run.json``: which run has claimed an output folder, and by which recipe its masks are made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
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
from pipeline.storage import Files, as_job_error, describe_error, is_name_error, is_remote, remedy

FORMAT = 2
# If your change alters mask pixels of the same image, model and options, increase it.
PIXELS = 6

_SHARD = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Recipe:
    """All that decides an image's mask, as it was resolved: nothing is "auto".

    Give a new field the default by which masks were made before it: at its default it is left out
    of :attr:`id`, so that existing folders stay valid.

    Attributes:
        model: its fingerprint.
        long_side: the longest side in pixels that the network sees, None for any.
        engine: ``"xla"`` or ``"graph"``.
        precision: of the network's numbers.
        batch_size: images per call of the network.
        pixels: see :data:`PIXELS`.
        tile: the longest side in pixels of the tiles of larger images; None for no tiles.
    """

    model: str
    long_side: int | None
    engine: str
    precision: str
    batch_size: int
    pixels: int = PIXELS
    tile: int | None = None

    @property
    def id(self) -> str:
        """32 hex digits, which two recipes share only if they are equal."""
        # The default of pixels changes, so that they are never left out.
        defaults = {field.name: field.default for field in fields(self)} | {"pixels": None}
        value = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        text = json.dumps(value, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def to_json(self) -> dict[str, Any]:
        """Returns its form in ``run.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Recipe:
        """Reads the form of :meth:`to_json`.

        Raises:
            ValueError: the value has another form.
        """
        try:
            recipe = cls(**value)
        except TypeError as error:
            raise ValueError(f"no recipe: {error}") from None
        texts = (recipe.model, recipe.engine, recipe.precision)
        sides = (side for side in (recipe.long_side, recipe.tile) if side is not None)
        numbers = (recipe.batch_size, recipe.pixels, *sides)
        if all(isinstance(text, str) for text in texts) and all(
            isinstance(number, int) and number >= 0 for number in numbers
        ):
            return recipe
        raise ValueError(f"no recipe: {recipe}")

    def difference(self, other: Recipe) -> str:
        """Names the first difference, as in ``"long side 512, not 64"``; ``""`` if equal."""
        mine, others = asdict(self), asdict(other)
        for name, label in _LABELS.items():
            if mine[name] != others[name]:
                values = (_shown(name, value) for value in (mine[name], others[name]))
                return f"{label} " + ", not ".join(values)
        return ""


# Fields that decide others come first.
_LABELS = {
    "model": "model",
    "tile": "tile",
    "long_side": "long side",
    "engine": "engine",
    "precision": "precision",
    "batch_size": "batch size",
    "pixels": "mask version",
}


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "none" if name == "tile" else "native"
    return value[:12] if isinstance(value, str) else str(value)


class EarlierRuns(NamedTuple):
    """The record of earlier runs in an output folder.

    Attributes:
        recipe: by which the last run made masks; None if there was no run.
        root: the folder that names of masks are relative to.
        shards: names below OUT of the shards of the last finished run.
    """

    recipe: Recipe | None = None
    root: str = ""
    shards: tuple[str, ...] = ()

    def rows(self, out: OutputFolder) -> list[str]:
        """Returns names below OUT of all files that contain rows: shards and journal files.

        Raises:
            JobError: OUT cannot be listed.
        """
        with as_job_error():
            return [*self.shards, *journals(out)]


def read_earlier_runs(out: OutputFolder) -> EarlierRuns:
    """Reads what earlier runs have recorded in OUT.

    Raises:
        UserError: OUT contains other programs' files, or those of a newer version, or is damaged.
        JobError: OUT cannot be read.
    """
    for folder in out.obstacles():
        raise UserError(f"{folder}: not a folder; move it away, or choose another --output")
    try:
        with contextlib.suppress(FileNotFoundError):  # a missing bucket: writing reports it
            next(iter(out.files.starting_with(f"{out.path}/{HISTOGRAMS}-")), None)
        run, summary = _read(out, RUN), _read(out, SUMMARY)
    except IsADirectoryError as error:
        raise UserError(
            f"{describe_error(error)}; move it away, or choose another --output"
        ) from None
    except OSError as error:
        raise _unreadable(error) from error
    _check_written_here(run, f"{out.path}/{RUN}", "format", "started")
    if run is None:
        _check_written_here(summary, f"{out.path}/{SUMMARY}", "masks")
        return EarlierRuns()
    version, value, root = (run.get(name) for name in ("format", "recipe", "root"))
    names = shard_names(run)
    if version is None or (isinstance(version, int) and version < FORMAT):
        return EarlierRuns()  # masks of these versions do not record how they were made
    known = {field.name for field in fields(Recipe)}
    if (isinstance(version, int) and version > FORMAT) or (
        isinstance(value, dict) and not value.keys() <= known
    ):
        raise UserError(
            f"{out.path}/{RUN}: was written by a newer version of fcn-beam; update it, or choose "
            "another --output"
        )
    try:
        recipe = Recipe.from_json(value)
        if version != FORMAT or not isinstance(root, str) or names is None:
            raise ValueError(run)
    except ValueError:
        raise UserError(
            f"{out.path}/{RUN}: is damaged; choose another --output, or delete this file and add "
            "--overwrite, which keeps masks that were made with the same model and options"
        ) from None
    # Shards are valid if a summary names them; a run that has not finished keeps in run.json the
    # names of those that were valid when it began.
    finished = shard_names(summary)
    return EarlierRuns(recipe, root, names if finished is None else finished)


def _unreadable(error: OSError) -> JobError:
    return JobError(f"{describe_error(error)}: cannot read the output folder; {remedy(error)}")


def _read(out: OutputFolder, name: str) -> Any:
    """The value of a JSON file; None if it is missing or empty, ``""`` if it is not JSON.

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


def _check_written_here(value: Any, path: str, *keys: str) -> None:
    """Refuses to replace a file that no version of this program has written.

    Args:
        value: see :func:`_read`.
        keys: each version wrote one of them.

    Raises:
        UserError: another program wrote it.
    """
    if value is not None and not (isinstance(value, dict) and any(key in value for key in keys)):
        raise UserError(
            f"{path}: was not written by fcn-beam, and would be overwritten; move it away, or "
            "choose another --output"
        )


def shard_names(content: Any) -> tuple[str, ...] | None:
    """Returns the shards that ``run.json`` or ``summary.json`` names; None if it is damaged."""
    names = content.get("shards", []) if isinstance(content, dict) else None
    if not isinstance(names, list):
        return None
    return tuple(name for name in names if isinstance(name, str) and _SHARD.fullmatch(name))


def check_recipe(
    out: OutputFolder, earlier: EarlierRuns, recipe: Recipe, root: str, overwrite: bool, moved: bool
) -> None:
    """Refuses to continue with masks of another recipe, or of other photos.

    Args:
        earlier: with a recipe.
        root: the folder that names of masks are relative to.
        overwrite: remake masks of another recipe.
        moved: the photos are those of the earlier root, in another place.

    Raises:
        UserError: OUT contains masks of another recipe or root.
    """
    assert earlier.recipe is not None
    if earlier.root != root and not moved:
        raise UserError(
            f"{out.path}: contains masks of images in {earlier.root}, not {root}; choose another "
            "--output, or add --moved if it is the same archive in another place"
        )
    if not overwrite and (difference := earlier.recipe.difference(recipe)):
        raise UserError(
            f"{out.path}: contains masks made with {difference}; add --overwrite to redo them, or "
            "choose another --output"
        )


def unrecorded(out: OutputFolder) -> str | None:
    """Returns the first folder of a product in OUT, which has no ``run.json``.

    Raises:
        JobError: OUT cannot be listed.
    """
    try:
        return next(filter(out.holds, (product.name for product in products.PRODUCTS)), None)
    except OSError as error:
        raise _unreadable(error) from error


def make_folder(path: str, files: Files) -> None:
    """Makes OUT, if it is local.

    Raises:
        UserError: no folder can have its name.
        JobError: the disk fails.
    """
    if not is_remote(path):
        with explaining_writes(path):
            files.make_folder(path)


def claim(
    out: OutputFolder, recipe: Recipe, root: str, shards: Sequence[str], versions: dict[str, str]
) -> None:
    """Claims OUT for a run: names it in ``run.json``, and removes the summary of the run before.

    Args:
        recipe: of the masks from now on.
        shards: existing ones, whose rows are still valid.
        versions: of the libraries, for the record.

    Raises:
        UserError, JobError: OUT cannot be written.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "run": out.run,
        "recipe": recipe.to_json(),
        "recipe_id": recipe.id,
        "root": root,
        "shards": list(shards),
        "versions": versions,
    }
    with explaining_writes(out.path):
        out.write_json(RUN, content)
        out.delete(SUMMARY)


def check_claim(out: OutputFolder) -> None:
    """Ends a run if another one has claimed OUT since: because its lock was removed or looked dead.

    Raises:
        JobError: another run has claimed it, or ``run.json`` cannot be read.
    """
    with as_job_error():
        content = out.read_json(RUN)
    if isinstance(content, dict) and content.get("run", out.run) != out.run:
        raise JobError(
            f"{out.path}: another job has taken over this output folder; let that one finish"
        )


@contextlib.contextmanager
def explaining_writes(path: str) -> Iterator[None]:
    """Explains errors of its block's writes to OUT, before a job has begun."""
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
