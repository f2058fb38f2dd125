"""Local disk. Names are bytes there and need not be UTF-8, which only ``os`` gets right."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline.storage.listed import File, Unlisted


def read(path: str, limit: int = -1) -> bytes:
    """A file's first ``limit`` bytes, or all of them."""
    with open(path, "rb") as file:
        return file.read(limit)


def write(path: str, data: bytes, scratch: str, exclusive: bool = False) -> None:
    """Writes under another name in ``scratch``, a folder of the same disk, then renames."""
    os.makedirs(scratch, exist_ok=True)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    unfinished = os.path.join(scratch, uuid.uuid4().hex)
    try:
        Path(unfinished).write_bytes(data)
        if exclusive:
            os.link(unfinished, path)  # unlike a rename it fails where the name is taken
            os.unlink(unfinished)
        else:
            os.replace(unfinished, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise


def delete(path: str) -> None:
    """Deletes the file of just this name; where there is none, that is no error."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:
        if not os.path.isdir(path):  # a folder is no file; which error it is, systems differ on
            raise


def stat_file(path: str) -> File:
    """What is known of a file.

    Raises:
        OSError: there is none, or it is no regular file.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise IsADirectoryError(f"{path}: is no regular file")
    return File(path, found.st_size, found.st_mtime)


def walk(folder: str) -> Iterator[File | Unlisted]:
    """Every file below a folder, in order; links are followed, a folder met again is not."""
    if not os.path.isdir(folder):
        return
    problems: list[OSError] = []
    seen = set()
    for where, folders, files in os.walk(folder, onerror=problems.append, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for file in sorted(files):
            yield look(f"{where.rstrip('/')}/{file}")
    for error in problems:
        yield Unlisted(str(error.filename), type(error).__name__, str(error.strerror))


def look(path: str) -> File:
    """What a listing tells of one path; a dangling link is left for reading it to tell."""
    try:
        found = os.stat(path)
    except OSError:
        return File(path)
    return File(path, found.st_size, found.st_mtime, regular=stat.S_ISREG(found.st_mode))
