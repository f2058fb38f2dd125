"""Classifies errors as specific to one file or affecting all files.

A missing, unreadable or badly named file concerns that file. A full disk, a store that does not
answer and expired credentials would stop every other file as well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from model_build.common.errors import JobError, UserError, cause, first_line
from pipeline.storage.retries import causes, is_transient

if TYPE_CHECKING:
    from pipeline.storage.stores.object_store import ObjectStore


class BadName(OSError):
    """A name that the disk or store does not support."""


class NotRegular(OSError):
    """A pipe, a socket or a device: reading it might never end."""


class Unavailable(OSError):
    """A store that did not answer, or refused because of a quota, up to the last attempt."""


class Unauthenticated(PermissionError):
    """Credentials that are missing, expired or not accepted."""


_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EROFS: "make the disk writable",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files",
    errno.ENOMEM: "free some memory",
    errno.ESTALE: "mount the disk again",
    errno.ENODEV: "mount the disk again",
    errno.EXDEV: "link the whole masks folder to another disk, not a folder inside it",
}
_NAME_ERRORS = frozenset((errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL))


def affects_all_files(error: BaseException) -> bool:
    """Returns whether an error in reading one file would occur with all others."""
    if isinstance(error, Unavailable | Unauthenticated):
        return True
    return isinstance(error, OSError) and error.errno in _REMEDIES


def is_name_error(error: BaseException) -> bool:
    """Returns whether a write failed because of the name, or because a folder has that name."""
    if isinstance(error, BadName | IsADirectoryError | NotADirectoryError | UnicodeError):
        return True
    return isinstance(error, OSError) and error.errno in _NAME_ERRORS


def remedy(error: BaseException) -> str:
    """Returns what to do about an error, in a few words."""
    if isinstance(error, Unauthenticated):
        return "renew the credentials"
    if isinstance(error, PermissionError):
        return "check the permissions"
    if isinstance(error, Unavailable):
        return "check the network and the store's quota"
    if isinstance(error, FileNotFoundError):
        return "restore it"
    number = error.errno if isinstance(error, OSError) else None
    return _REMEDIES.get(number or 0, "check the disk or store")


def describe_error(error: BaseException) -> str:
    """Returns an error as one line, with the file's name before the cause."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return first_line(error)


@contextlib.contextmanager
def as_job_error() -> Iterator[None]:
    """Turns an OSError of its block into a JobError that names the remedy."""
    try:
        yield
    except OSError as error:
        raise JobError(f"{describe_error(error)}; {remedy(error)}") from error


@contextlib.contextmanager
def as_user_error(name: str, what: str, advice: str) -> Iterator[None]:
    """Turns an error of its block, about a file or folder that the user named, into a UserError.

    Args:
        name: as the user wrote it.
        what: what failed, such as "cannot be read".
        advice: how to fix it.

    Raises:
        UserError: one line of the name, what failed and why, and the advice.
        JobError: the user did not cause it: the store does not answer, for example.
    """
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        if affects_all_files(error):
            raise JobError(f"{describe_error(error)}; {remedy(error)}") from error
        why = describe_error(error).removeprefix(f"{name}: ")
        raise UserError(f"{name}: {what}: {why}; {advice}") from None


@contextlib.contextmanager
def on_temporary_disk() -> Iterator[None]:
    """Turns an OSError of its block, which writes temporary files, into a JobError."""
    try:
        yield
    except OSError as error:
        where = tempfile.tempdir or os.environ.get("TMPDIR") or "the folder of temporary files"
        raise JobError(
            f"{where}: cannot hold temporary files: {cause(error)}; free some space there, or set "
            "TMPDIR to another folder"
        ) from error


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """Makes a folder for temporary files, and deletes it after its block.

    Raises:
        JobError: the folder cannot be made.
    """
    with on_temporary_disk():
        folder = tempfile.TemporaryDirectory()
    with folder as path:
        yield path


def as_os_error(error: Exception, path: str, store: ObjectStore) -> OSError:
    """Returns the OSError that says what a store's client has raised.

    A list of URLs names many servers: what one of them refuses affects only its own files.
    """
    text = first_line(error)
    statuses = (store.status_of(one) for one in (error.__cause__, error) if one)
    status = next((one for one in statuses if one is not None), None)
    if isinstance(error, FileExistsError):
        return FileExistsError(f"{path}: already exists")
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, FileNotFoundError) or status == 404 or number == errno.ENOENT:
        return FileNotFoundError(f"{path}: no such object or bucket")
    if store.read_only and (status == 401 or is_transient(error, store)):
        return OSError(f"{path}: the server refused it ({type(error).__name__}: {text})")
    if status == 401 or any(
        not store.error_names(one).isdisjoint(store.credential_errors) for one in causes(error)
    ):
        return Unauthenticated(f"{path}: the credentials were not accepted ({text})")
    if isinstance(error, PermissionError) or status == 403:
        return PermissionError(f"{path}: permission denied ({text})")
    if is_transient(error, store):
        return Unavailable(f"{path}: the store does not answer ({type(error).__name__}: {text})")
    if isinstance(error, OSError):
        if status is None and (number is None or path in text):  # one of storage itself
            return error
        # A client may report EINVAL for any refusal, which says nothing about the name.
        kind = BadName if number == errno.ENAMETOOLONG else OSError
        named = kind(f"{path}: {error.strerror or text}")
        named.errno = None if status else number
        return named
    return OSError(f"{path}: {type(error).__name__}: {text}")
