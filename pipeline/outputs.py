"""The output folder: what a run writes, and what an earlier run has left there.

::

    OUT/run.json                      the options that decide what a mask is
    OUT/masks/NAME.png                palette PNGs, written whole or not at all
    OUT/overlays/NAME.jpg             on request
    OUT/histograms-*-of-*.jsonl       a row per mask
    OUT/rejected-*-of-*.jsonl         a row per image without one
    OUT/summary.json                  totals
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from model_build.errors import UserError
from pipeline.listing import MASKS, UNFINISHED, ImageRef, Source, is_remote, list_source

RUN, SUMMARY = "run.json", "summary.json"
HISTOGRAMS, REJECTED = "histograms", "rejected"


def write_file(path: str, data: bytes, scratch: str) -> None:
    """Writes a file whole or not at all: a rename on local disk, one object put elsewhere.

    Args:
        scratch: a folder on the same local disk for the unfinished file.
    """
    if is_remote(path):
        with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(data)
        return
    os.makedirs(scratch, exist_ok=True)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    unfinished = os.path.join(scratch, uuid.uuid4().hex)
    try:
        Path(unfinished).write_bytes(data)
        os.replace(unfinished, path)
    except OSError:
        Path(unfinished).unlink(missing_ok=True)
        raise


def read_file(path: str, limit: int = -1) -> bytes:
    """A file's bytes, from any file system of Beam's; at most ``limit`` of them."""
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return file.read(limit) if limit >= 0 else file.read()


def written(out: str, folder: str, extension: str) -> Iterator[ImageRef]:
    """What stands in ``OUT/folder``: files with that extension, with their times."""
    where = f"{out}/{folder}"
    if not is_remote(where) and not os.path.isdir(where):
        return
    for found in list_source(Source("folder", where, where), where, all_files=True):
        if isinstance(found, ImageRef) and found.name.endswith(extension):
            yield found


def read_json(path: str) -> Any:
    """The file's value, or None where there is no such file or no JSON in it."""
    try:
        return json.loads(read_file(path))
    except (OSError, ValueError):
        return None


def parse_output(text: str) -> str:
    """``--output`` as an absolute path or URI without a slash at its end.

    Raises:
        UserError: it cannot be a folder, or holds a character that Beam takes for a wildcard.
    """
    if not text:
        raise UserError("--output is empty; name a folder or URI")
    if wild := set(text) & set("*?["):
        raise UserError(
            f"{text}: an output folder's name must not hold {min(wild)}; choose another"
        )
    if is_remote(text):
        try:
            if FileSystems.get_filesystem(text).has_dirs():
                raise ValueError("only local disk and object stores can be written to")
        except ValueError as error:
            raise UserError(f"{text}: cannot be an output folder: {error}") from None
        return text.rstrip("/")
    path = os.path.abspath(text)
    if os.path.exists(path) and not os.path.isdir(path):
        raise UserError(f"{text}: is a file; --output must be a folder")
    return path


def standing_since(out: str, options: dict[str, Any], overwrite: bool) -> float | None:
    """Since when ``OUT`` has been holding masks made with these options.

    Args:
        options: every option that decides what a mask is.
        overwrite: whatever it holds is to be done again.

    Returns:
        Seconds since 1970: older masks hold no longer. None: no mask holds.

    Raises:
        UserError: it holds masks made with other options, or files of another origin.
    """
    if overwrite:
        return None
    try:
        before = read_json(f"{out}/{RUN}")
        earlier, since = dict(before["options"]), float(before["started"])
    except (KeyError, TypeError, ValueError):
        pass  # no run has been here
    else:
        for key, value in options.items():
            if (found := earlier.get(key)) != value:
                raise UserError(
                    f"{out}: holds masks made with {key} {found}, not {value}; "
                    "add --overwrite to do them again, or choose another --output"
                )
        return since
    if next(written(out, MASKS, ""), None):
        raise UserError(
            f"{out}/{MASKS}: holds files that no run has written; choose another --output, "
            "or add --overwrite to write among them"
        )
    return None


def claim(out: str, options: dict[str, Any], started: float) -> None:
    """Notes in ``OUT`` what its masks are made with from now on.

    Raises:
        UserError: the folder cannot be written.
    """
    text = json.dumps({"options": options, "started": started}, indent=1) + "\n"
    try:
        write_file(f"{out}/{RUN}", _utf8(text), f"{out}/{UNFINISHED}")
    except Exception as error:
        raise UserError(f"{out}: cannot be written: {error}; choose another --output") from None


def stage_for_workers(path: str, out: str, name: str) -> str:
    """Copies a local file or folder to a remote ``OUT``, where every worker can read it.

    Returns:
        Where it is now; the path itself if it is remote already or ``OUT`` is local.
    """
    if is_remote(path) or not is_remote(out):
        return path
    root = Path(path)
    target = f"{out}/{name}"
    for file in [root] if root.is_file() else filter(Path.is_file, root.rglob("*")):
        uri = target if file == root else f"{target}/{file.relative_to(root).as_posix()}"
        write_file(uri, file.read_bytes(), scratch="")
    return target


def finish(out: str, summary: dict[str, Any], shards: Iterable[str]) -> None:
    """Writes ``summary.json`` and removes what earlier runs have left.

    Args:
        shards: paths of this run's histogram and reject shards. Beam does not name all of them when
            it tries a write again, and not the single empty one that replaces its like: so those
            that stay are told by the number of shards in their names.
    """
    paths = list(shards)
    stale = []
    for prefix in (HISTOGRAMS, REJECTED):
        named = [path for path in paths if path.startswith(f"{out}/{prefix}-")]
        count = named[0].rpartition("-of-")[2] if named else "00001.jsonl"
        found = _matches(f"{out}/{prefix}-*-of-*.jsonl")
        stale += [path for path in found if not path.endswith(f"-of-{count}")]
    # A run that was killed leaves the folders Beam writes shards in before it renames them.
    stale += _matches(f"{out}/beam-temp-*/**")
    if stale:
        FileSystems.delete(stale)
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    write_file(f"{out}/{SUMMARY}", _utf8(text), f"{out}/{UNFINISHED}")
    if not is_remote(out):
        for folder in [Path(out, UNFINISHED), *Path(out).glob("beam-temp-*")]:
            shutil.rmtree(folder, ignore_errors=True)


def _utf8(text: str) -> bytes:
    # A local path need not be UTF-8; what is not becomes the escape that JSON knows.
    return text.encode("utf-8", "backslashreplace")


def _matches(pattern: str) -> list[str]:
    return [file.path for match in FileSystems.match([pattern]) for file in match.metadata_list]
