"""What a listing yields."""

from __future__ import annotations

from typing import NamedTuple


class File(NamedTuple):
    """A file of a disk or store.

    Attributes:
        path: absolute path or URI.
        size: in bytes, None where the listing cannot tell.
        version: differs whenever the file has been written: a store's generation or ETag, else the
            time of writing, on local disk in nanoseconds since 1970; None where there is none.
        regular: False for a pipe or device, which reading might never end.
        written: when, by the clock of the disk or store, in seconds since 1970; in listings alone.
    """

    path: str
    size: int | None = None
    version: str | None = None
    regular: bool = True
    written: float | None = None


class Unlisted(NamedTuple):
    """A folder that could not be listed: the exception's class, and its message."""

    path: str
    error: str
    detail: str


class Part(NamedTuple):
    """A part of what lies below a folder, which is listed by itself.

    Attributes:
        where: on local disk a folder; in a store what the URIs of all its objects begin with.
    """

    where: str


class Link(NamedTuple):
    """A link to a folder of local disk, which others may lead to as well."""

    path: str
