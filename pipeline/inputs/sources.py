"""Parses INPUT: a folder, a glob, a list or an image, and the folder that contains it."""

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

BYTES_PER_RANGE = 8_000_000  # of a list, read at once
_MAX_LINE_BYTES = 1 << 16  # longer than any line


def parse_source(text: str, files: Files) -> Source:
    """Finds the kind of an INPUT; a path that exists is taken literally, not as a pattern.

    Raises:
        UserError: the path does not exist, or the list is empty or unreadable.
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
    """Returns the deepest folder that contains all ``folders``; ``""`` or a scheme if none does."""
    common: list[str] | None = None
    for folder in folders:
        parts = folder.split("/")
        if common is None:
            common = parts
        else:
            same = 0
            for one, other in zip(common, parts, strict=False):
                if one != other:
                    break
                same += 1
            common = common[:same]
    return "/".join(common or [])


def _parse_list(where: str, files: Files) -> Source:
    where = absolute("/dev/stdin" if where == "-" else where)
    files.check(where)
    # By scheme: what is wrong with one of its lines is wrong with all.
    first_lines: dict[str, str] = {}
    with as_user_error(where, "the list cannot be read", "check the path and your permissions"):
        kept = files.rereadable(where)
        lines = (
            first_lines.setdefault(scheme_of(line), line) and line
            for line in _check_lines(read_list(kept, files), where)
        )
        folder = common_folder(map(folder_of, lines))
    if not first_lines:
        raise UserError(f"{where}: the list is empty; put one path or URI on each line")
    for line in first_lines.values():
        files.check(line)
    return Source("list", kept, folder)


def _check_lines(lines: Iterable[str], where: str) -> Iterator[str]:
    """Yields the lines of a list, unless it is not text: photos and UTF-16 contain NUL.

    Raises:
        UserError: a line contains NUL.
    """
    for line in lines:
        if "\0" in line:
            raise UserError(
                f"{where}: no text list in UTF-8, one path a line; save it as such, or name an "
                "image without the @"
            )
        yield line


class ListRange(NamedTuple):
    """A range of a list's bytes; lines that start in it belong to it.

    Attributes:
        start: the range's first byte.
        end: the byte after its last one.
        size: of the list in bytes; None if the list is read whole.
    """

    start: int
    end: int
    size: int | None


def list_ranges(where: str, files: Files) -> Iterator[ListRange]:
    """Splits a list into ranges of a few megabytes.

    Raises:
        OSError: its size cannot be found.
    """
    # A web server may neither know the size of a file nor support ranges.
    size = None if is_read_only(where) else files.stat(where).size
    if size is None or size <= BYTES_PER_RANGE:
        yield ListRange(0, 0, None)
        return
    for start in range(0, size, BYTES_PER_RANGE):
        yield ListRange(start, min(start + BYTES_PER_RANGE, size), size)


def read_list(where: str, files: Files) -> Iterator[str]:
    """Yields the non-empty lines of a list as paths; relative ones are below the current folder.

    Raises:
        OSError: the list cannot be read.
    """
    for lines in list_ranges(where, files):
        yield from read_lines(where, files, lines)


def read_lines(where: str, files: Files, lines: ListRange) -> Iterator[str]:
    """Yields the paths of one range of a list, as :func:`read_list` does."""
    data = io.BytesIO(_read_range(where, files, lines))
    encoding = "utf-8" if lines.start else "utf-8-sig"
    for line in io.TextIOWrapper(data, encoding, errors="surrogateescape", newline="\n"):
        line = line.rstrip("\r\n")
        if line:
            yield absolute(line)


def _read_range(where: str, files: Files, lines: ListRange) -> bytes:
    """Reads the bytes of all lines that start in a range; the last may reach beyond it."""
    start, end, size = lines
    if size is None:
        return files.read(where)
    before = min(start, 1)  # a line starts at ``start`` only if a newline is just before
    data = files.read(where, end - start + before, start - before)
    if before:
        data = data.partition(b"\n")[2]
    pieces = [data]
    while end < size and pieces[-1] and b"\n" not in pieces[-1][-1:]:
        more = files.read(where, min(_MAX_LINE_BYTES, size - end), end)
        end += len(more)
        line, newline, _ = more.partition(b"\n")
        pieces.append(line + newline)
    return b"".join(pieces)
