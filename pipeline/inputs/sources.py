"""What INPUT means: a folder, a glob, a list or an image, and the folder that holds it."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterable, Iterator

from model_build.errors import UserError
from pipeline.records import Source
from pipeline.storage import (
    Files,
    absolute,
    folder_of,
    glob_folder,
    is_read_only,
    is_remote,
    scheme_of,
    users_fault,
)


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
    with users_fault(text, "cannot be found", "check the path and your permissions"):
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
    with users_fault(where, "the list cannot be read", "check the path and your permissions"):
        kept = files.kept(where)
        lines = (
            one_of.setdefault(scheme_of(line), line) and line for line in read_list(kept, files)
        )
        folder = common_folder(map(folder_of, lines))
    if not one_of:
        raise UserError(f"{where}: the list is empty; put one path or URI on each line")
    for line in one_of.values():
        files.check(line)
    return Source("list", kept, folder)


def read_list(where: str, files: Files) -> Iterator[str]:
    """Non-empty lines of a list; relative paths are below the current folder.

    Raises:
        OSError: the list cannot be read.
    """
    data = io.BytesIO(files.read(where))
    for line in io.TextIOWrapper(data, "utf-8-sig", errors="surrogateescape", newline="\n"):
        line = line.rstrip("\r\n")
        if line:
            yield absolute(line)
