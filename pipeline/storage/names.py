"""Paths and URIs as text: names are literal and never escaped, except in globs."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from model_build.common.errors import GONE, UserError

_LAST_CHARACTER = "\U0010ffff"  # no store allows a character beyond it in a key


def is_remote(path: str) -> bool:
    """Returns whether the path is a URI, such as ``gs://…``."""
    return "://" in path


def absolute(path: str) -> str:
    """Returns a local path from the root of the disk on, and a URI unchanged.

    Raises:
        UserError: the path is relative, and the current folder has been removed.
    """
    if is_remote(path):
        return path
    try:
        whole = os.path.abspath(path)
    except FileNotFoundError:
        raise UserError(f"{path}: {GONE}") from None
    # POSIX lets a path begin with two slashes; to disks they mean one.
    return f"/{whole.lstrip('/')}"


def printable(name: str) -> str:
    """Returns a name with each byte that is not UTF-8 written as ``\\udcXX``."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def scheme_of(path: str) -> str:
    """Returns the scheme of a URI, ``""`` for a local path."""
    return path.partition("://")[0] if is_remote(path) else ""


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Splits ``gs://bucket/a/b`` into ``("bucket", "a/b")``."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def join(folder: str, name: str) -> str:
    """Returns the path of ``name`` below ``folder``."""
    return f"{folder.rstrip('/')}/{name}"


def folder_of(path: str) -> str:
    """Returns the folder that contains a file."""
    return path.rpartition("/")[0]


def escape_folders(name: str, extension: str) -> str:
    """Appends ``_`` to each folder of a name that is called like a file with an extension.

    ``a.png/b`` → ``a.png_/b``, ``a.png_/b`` → ``a.png__/b``: so no file with that extension has the
    name of a folder, and different names stay different.

    Args:
        name: a path below a folder; ``/`` separates folders.
        extension: of the files, with its dot.
    """
    return re.sub(rf"({re.escape(extension)}_*)(?=/)", r"\1_", name)


def unescape_folders(name: str, extension: str) -> str:
    """Reverses :func:`escape_folders`; other names stay unchanged."""
    return re.sub(rf"({re.escape(extension)}_*)_(?=/)", r"\1", name)


def glob_folder(pattern: str) -> str:
    """Returns the deepest folder that contains everything a glob can match."""
    return "/".join(itertools.takewhile(lambda part: not glob.has_magic(part), pattern.split("/")))


def pattern_of(pattern: str) -> re.Pattern[str]:
    """Compiles a glob over the names in a store: only ``**`` matches ``/``."""
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


def prefixes_beyond(key_beyond: Callable[[str], str | None], last: str) -> Iterator[str]:
    """Splits the keys beyond one by their prefixes: each of these keys has exactly one of them.

    They grow by a character where keys differ: beyond ``a/0099`` they are ``a/01``, ``a/02`` and so
    on, then ``a/1``, then ``b``.

    Args:
        key_beyond: returns the first key beyond a text, None if there is none.
        last: the key.
    """
    prefix = after = last
    while (key := key_beyond(after)) is not None:
        pairs = zip(prefix, key, strict=False)
        same = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
        if same == len(prefix) and after != last:  # the key still has this prefix
            after = key
            continue
        prefix = key[: same + 1]
        yield prefix
        after = prefix + _LAST_CHARACTER


def parts_used(pattern: Sequence[str], name: str) -> frozenset[int]:
    """Returns how many parts of a local glob a name can have matched.

    Parts match as in Python's ``glob``: ``**`` matches any number of folders, and only a part that
    begins with a dot matches a name that does.

    Args:
        pattern: the parts of a glob below a folder.
        name: of a file or folder below it; ``""`` for the folder itself.

    Returns:
        All parts for a file that matches, fewer for a folder that can contain one; nothing for
        other names.
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
