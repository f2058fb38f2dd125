"""Paths and URIs as text. No character of a name is a pattern, and none is escaped."""

from __future__ import annotations

import os
import re

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
    """A local path from the root of the disk on; a URI as it is."""
    if is_remote(path):
        return path
    # POSIX lets two slashes at the beginning mean something else than one; to disks they do not.
    return f"/{os.path.abspath(path).lstrip('/')}"


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


def pattern_of(glob: str) -> re.Pattern[str]:
    """A glob over the names in a store: ``*`` and ``?`` stop at ``/``, ``**`` does not."""
    text, index = "", 0
    while index < len(glob):
        character = glob[index]
        closing = glob.find("]", index + 2) if character == "[" else -1
        if glob.startswith("**/", index):
            text, index = text + "(?:.*/)?", index + 3
        elif glob.startswith("**", index):
            text, index = text + ".*", index + 2
        elif closing > 0:
            inner = glob[index + 1 : closing].replace("\\", r"\\")
            inner = f"^{inner[1:]}" if inner.startswith("!") else inner
            text, index = f"{text}[{inner}]", closing + 1
        else:
            text += {"*": "[^/]*", "?": "[^/]"}.get(character, re.escape(character))
            index += 1
    return re.compile(text, re.DOTALL)
