"""What INPUT means: a folder, a glob, a list or an image, and the folder that holds it."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from model_build.common.errors import UserError
from pipeline.records import Source
from pipeline.storage import (
    Files,
    absolute,
    as_user_error,
    folder_of,
    glob_folder,
    is_read_only,
    is_remote,
    scheme_of,
)

RANGE = 8_000_000  # bytes of a list that are read at once
_MORE = 1 << 16  # bytes, more than a line has


def parse_source(text: str, files: Files) -> Source:
    """Tells what kind an INPUT is; a path that exists is taken literally before it is a pattern.

    Raises:
        UserError: there is nothing of that name, or the list is empty or unreadable.
        JobError: the store does not answer.
    """
    if not text:
        raise UserError("an INPUT is empty; name a folder, a glob, an image or @LIST")
    if text.startswith("@"):
        return _parse_list(text[1:], files)
    magic = glob.has_magic(text)
    if not is_remote(text):
        path = absolute(text)
        if os.path.isdir(path):
            return Source("folder", path, path)
        if os.path.isfile(path):
            return Source("file", path, folder_of(path))
        if magic:
            return Source("glob", path, glob_folder(path))
        if os.path.exists(path):
            raise UserError(f"{text}: not a file or folder; to read a list from it, use @{text}")
        raise UserError(f"{text}: no such file or folder; check the path")
    files.check(text)
    if is_read_only(text):
        raise UserError(f"{text}: cannot list a web server; put its URLs into an @LIST")
    bucket_only = "/" not in text.split("://")[1].rstrip("/")
    with as_user_error(text, "cannot be found", "check the path and your permissions"):
        if not bucket_only and not text.endswith("/") and files.exists(text):
            return Source("file", text, folder_of(text))
        magic = magic and not files.has_any(text)
    if magic:
        return Source("glob", text, glob_folder(text))
    return Source("folder", text.rstrip("/"), text.rstrip("/"))


def common_folder(folders: Iterable[str]) -> str:
    """The deepest folder that holds all of ``folders``; ``""`` or a bare scheme if none does."""
    common: list[str] | None = None
    for folder in folders:
        parts = folder.split("/")
        if common is None:
            common = parts
        else:
            same = 0
            for ours, theirs in zip(common, parts, strict=False):
                if ours != theirs:
                    break
                same += 1
            common = common[:same]
    return "/".join(common or [])


def _parse_list(where: str, files: Files) -> Source:
    where = absolute("/dev/stdin" if where == "-" else where)
    files.check(where)
    one_of: dict[str, str] = {}  # scheme → its first line: what is wrong with it is so with all
    with as_user_error(where, "the list cannot be read", "check the path and your permissions"):
        kept = files.rereadable(where)
        lines = (
            one_of.setdefault(scheme_of(line), line) and line
            for line in _checked(read_list(kept, files), where)
        )
        folder = common_folder(map(folder_of, lines))
    if not one_of:
        raise UserError(f"{where}: the list is empty; put one path or URI on each line")
    for line in one_of.values():
        files.check(line)
    return Source("list", kept, folder)


def _checked(lines: Iterable[str], where: str) -> Iterator[str]:
    """The lines of a list, of which none holds what no path does, as photos and UTF-16 do.

    Raises:
        UserError: one does.
    """
    for line in lines:
        if "\0" in line:
            raise UserError(
                f"{where}: no text list in UTF-8, one path a line; save it as such, or name an "
                "image without the @"
            )
        yield line


class Lines(NamedTuple):
    """The lines of a list that begin in a range of its bytes.

    Attributes:
        start: the range's first byte.
        end: the byte behind its last one.
        size: of the list in bytes; None for one that is read whole.
    """

    start: int
    end: int
    size: int | None


def lines_of(where: str, files: Files) -> Iterator[Lines]:
    """A list in ranges of a few megabytes.

    Raises:
        OSError: it cannot be looked at.
    """
    # A web server need not know its size, nor how to give a range of it.
    size = None if is_read_only(where) else files.stat(where).size
    if size is None or size <= RANGE:
        yield Lines(0, 0, None)
        return
    for start in range(0, size, RANGE):
        yield Lines(start, min(start + RANGE, size), size)


def read_list(where: str, files: Files) -> Iterator[str]:
    """Non-empty lines of a list; relative paths are below the current folder.

    Raises:
        OSError: the list cannot be read.
    """
    for lines in lines_of(where, files):
        yield from read_lines(where, files, lines)


def read_lines(where: str, files: Files, lines: Lines) -> Iterator[str]:
    """The same of a range of it."""
    data = io.BytesIO(_read_range(where, files, lines))
    encoding = "utf-8" if lines.start else "utf-8-sig"
    for line in io.TextIOWrapper(data, encoding, errors="surrogateescape", newline="\n"):
        line = line.rstrip("\r\n")
        if line:
            yield absolute(line)


def _read_range(where: str, files: Files, lines: Lines) -> bytes:
    """The bytes of all lines that begin in a range: cut at its start, and more at its end."""
    start, end, size = lines
    if size is None:
        return files.read(where)
    before = min(start, 1)  # a line begins at the start if another one ends just before
    data = files.read(where, end - start + before, start - before)
    if before:
        data = data.partition(b"\n")[2]
    pieces = [data]
    while end < size and pieces[-1] and b"\n" not in pieces[-1][-1:]:
        more = files.read(where, min(_MORE, size - end), end)
        end += len(more)
        line, newline, _ = more.partition(b"\n")
        pieces.append(line + newline)
    return b"".join(pieces)
