"""What a listing yields."""

from __future__ import annotations

from typing import NamedTuple


class File(NamedTuple):
    """A file of a disk or store.

    Attributes:
        path: absolute path or URI.
        size: in bytes, None where the listing cannot tell.
        mtime: when it was last written, in seconds since 1970; None likewise.
        regular: False for a pipe or device, which reading might never end.
    """

    path: str
    size: int | None = None
    mtime: float | None = None
    regular: bool = True


class Unlisted(NamedTuple):
    """A folder that could not be listed: the exception's class, and its message."""

    path: str
    error: str
    detail: str
