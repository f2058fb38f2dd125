"""Paths and URIs as text. No character of a name is a pattern, and none is escaped."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from model_build.common.errors import GONE, UserError

# scheme → the extra that brings its client, None where it comes along
SCHEMES = {
    "gs": "gcp",
    "s3": "aws",
    "az": "azure",
    "https": None,
    "http": None,
    "memory": None,
}


def is_remote(path: str) -> bool:
    """Whether the path has a scheme, as ``gs://`` has."""
    return "://" in path


def absolute(path: str) -> str:
    """A local path from the root of the disk on; a URI as it is.

    Raises:
        UserError: it is below the current folder, and that has been removed.
    """
    if is_remote(path):
        return path
    try:
        whole = os.path.abspath(path)
    except FileNotFoundError:
        raise UserError(f"{path}: {GONE}") from None
    # POSIX lets two slashes at the beginning mean something else than one; to disks they do not.
    return f"/{whole.lstrip('/')}"


def printable(name: str) -> str:
    """A name with bytes that are not UTF-8 written as ``\\udcXX``; equal where there are none."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def scheme_of(path: str) -> str:
    """The scheme of a URI, ``""`` for a local path."""
    return path.partition("://")[0] if is_remote(path) else ""


def is_read_only(path: str) -> bool:
    """Whether the path is on a web server, which is neither listed nor written to."""
    return scheme_of(path) in ("https", "http")


def bucket_and_key(uri: str) -> tuple[str, str]:
    """``gs://bucket/a/b`` → ``("bucket", "a/b")``."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def join(folder: str, name: str) -> str:
    """The path of ``name`` below ``folder``."""
    return f"{folder.rstrip('/')}/{name}"


def folder_of(path: str) -> str:
    """The folder that holds a file."""
    return path.rpartition("/")[0]


def escape_folders(name: str, extension: str) -> str:
    """The name with ``_`` after each folder that is called like a file with that extension.

    ``a.png/b`` → ``a.png_/b``, ``a.png_/b`` → ``a.png__/b``: so names of files with that extension
    are never folders of others, and names that differ still do.

    Args:
        name: a path below a folder; ``/`` separates folders.
        extension: of the files, with its dot.
    """
    return re.sub(rf"({re.escape(extension)}_*)(?=/)", r"\1_", name)


def unescape_folders(name: str, extension: str) -> str:
    """The way back from :func:`escape_folders`; other names stay as they are."""
    return re.sub(rf"({re.escape(extension)}_*)_(?=/)", r"\1", name)


def pattern_of(pattern: str) -> re.Pattern[str]:
    """A glob over the names in a store: ``*`` and ``?`` stop at ``/``, ``**`` does not."""
    text, index = "", 0
    while index < len(pattern):
        character = pattern[index]
        closing = pattern.find("]", index + 2) if character == "[" else -1
        if pattern.startswith("**/", index):
            text, index = text + "(?:.*/)?", index + 3
        elif pattern.startswith("**", index):
            text, index = text + ".*", index + 2
        elif closing > 0:
            inner = pattern[index + 1 : closing].replace("\\", r"\\")
            inner = f"^{inner[1:]}" if inner.startswith("!") else inner
            text, index = f"{text}[{inner}]", closing + 1
        else:
            text += {"*": "[^/]*", "?": "[^/]"}.get(character, re.escape(character))
            index += 1
    return re.compile(text, re.DOTALL)


def parts_used(pattern: Sequence[str], name: str) -> frozenset[int]:
    """How many parts of a local glob a name may have used up.

    Parts match as in Python's ``glob``: ``**`` stands for any folders, and nothing but a part that
    begins with a dot for one that does.

    Args:
        pattern: the parts of a glob below a folder.
        name: of a file or folder below it; ``""`` for the folder itself.

    Returns:
        All of them for a file that matches, fewer for a folder that may hold one; nothing for what
        neither matches nor holds what does.
    """
    used = {0}
    for part in name.split("/") if name else ():
        used = {
            after
            for place in _with_skips(pattern, used)
            if place < len(pattern)
            for after in _next(pattern[place], place, part)
        }
    return frozenset(_with_skips(pattern, used))


def _next(wildcard: str, place: int, part: str) -> Iterator[int]:
    literal = not glob.has_magic(wildcard)
    if part.startswith(".") and not (literal or wildcard.startswith(".")):
        return
    if wildcard == "**":
        yield place
    elif part == wildcard if literal else fnmatchcase(part, wildcard):
        yield place + 1


def _with_skips(pattern: Sequence[str], used: Iterable[int]) -> Iterator[int]:
    for place in used:
        yield place
        while place < len(pattern) and pattern[place] == "**":
            place += 1
            yield place
