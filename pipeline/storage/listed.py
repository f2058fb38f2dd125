"""Records of a listing."""

from __future__ import annotations

from typing import NamedTuple


class File(NamedTuple):
    """A file of a disk or store.

    Attributes:
        path: absolute path or URI.
        size: in bytes, None where it is unknown.
        version: changes whenever the file is written: the generation or ETag of a store, otherwise
            the time of writing, on local disk in nanoseconds since 1970; None where there is none.
        regular: False for a pipe or device, which might never end.
        written: the time of writing by the clock of the disk or store, in seconds since 1970; only
            in listings.
    """

    path: str
    size: int | None = None
    version: str | None = None
    regular: bool = True
    written: float | None = None


class Unlisted(NamedTuple):
    """A folder that cannot be listed: the exception's class, and its message."""

    path: str
    error: str
    detail: str


class Part(NamedTuple):
    """A part of a folder's listing, which can be listed separately.

    Attributes:
        where: on local disk a folder; in a store the common beginning of its objects' URIs.
    """

    where: str


class Link(NamedTuple):
    """A link to a folder of local disk; others may lead to the same folder."""

    path: str
