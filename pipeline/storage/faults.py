"""What a failure is to blame on: one file, or what all of them need.

A file that is missing, unreadable or badly named is that file's fault. A disk that is full, a store
that does not answer and credentials that have expired would hit every other file, too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator

from model_build.common.errors import JobError, UserError, cause, first_line
from pipeline.storage.names import is_read_only
from pipeline.storage.retries import causes, is_transient, status_of


class BadName(OSError):
    """A name that the disk or store cannot hold."""


class NotRegular(OSError):
    """A pipe, a socket or a device: reading it might wait for ever."""


class Unavailable(OSError):
    """A store that has not answered, or has refused for its quota, until the last attempt."""


class Unauthenticated(PermissionError):
    """Credentials that are missing, have expired or are not accepted."""


_EVERYBODYS = {
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
_NAMES = frozenset((errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL))
# Codes of Amazon's that come with the status 400 or 403, which others have as well.
_CREDENTIAL_CODES = frozenset(
    ("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired")
    + ("InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "AuthFailure")
)
# By name, as the packages of the stores are optional.
_CREDENTIAL_ERRORS = frozenset(
    ("RefreshError", "DefaultCredentialsError", "NoCredentialsError", "CredentialRetrievalError")
    + ("PartialCredentialsError", "TokenRetrievalError", "ClientAuthenticationError")
    + ("UnauthorizedSSOTokenError", "SSOTokenLoadError")
)


def affects_all_files(error: BaseException) -> bool:
    """Whether a failure to read one file would be every other file's, too."""
    if isinstance(error, Unavailable | Unauthenticated):
        return True
    return isinstance(error, OSError) and error.errno in _EVERYBODYS


def is_name_error(error: BaseException) -> bool:
    """Whether a failure to write a file is to blame on its name, or on what has that name now."""
    if isinstance(error, BadName | IsADirectoryError | NotADirectoryError | UnicodeError):
        return True
    return isinstance(error, OSError) and error.errno in _NAMES


def remedy(error: BaseException) -> str:
    """What to do about a failure, in a few words."""
    if isinstance(error, Unauthenticated):
        return "renew the credentials"
    if isinstance(error, PermissionError):
        return "check the permissions"
    if isinstance(error, Unavailable):
        return "check the network and the store's quota"
    if isinstance(error, FileNotFoundError):
        return "restore it"
    number = error.errno if isinstance(error, OSError) else None
    return _EVERYBODYS.get(number or 0, "check the disk or store")


def describe_error(error: BaseException) -> str:
    """A failure in one line, with the file's name before the cause."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return first_line(error)


@contextlib.contextmanager
def as_job_error() -> Iterator[None]:
    """What a disk or store cannot do in its block, as a JobError that tells the remedy."""
    try:
        yield
    except OSError as error:
        raise JobError(f"{describe_error(error)}; {remedy(error)}") from error


@contextlib.contextmanager
def as_user_error(name: str, what: str, advice: str) -> Iterator[None]:
    """What cannot be done in its block with a file or folder that a user has named.

    Raises:
        UserError: the name, what cannot be done and why, and the advice.
        JobError: it is not the user's fault: the store does not answer, say.
    """
    try:
        yield
    except (OSError, ValueError) as error:  # the latter of a path with a NUL
        if affects_all_files(error):
            raise JobError(f"{describe_error(error)}; {remedy(error)}") from error
        why = describe_error(error).removeprefix(f"{name}: ")
        raise UserError(f"{name}: {what}: {why}; {advice}") from None


@contextlib.contextmanager
def on_temporary_disk() -> Iterator[None]:
    """What keeps its block from writing to the folder of temporary files, as a JobError."""
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
    """A folder for temporary files, which goes when its block ends.

    Raises:
        JobError: it cannot be made.
    """
    with on_temporary_disk():
        folder = tempfile.TemporaryDirectory()
    with folder as path:
        yield path


def of_client(error: Exception, path: str) -> OSError:
    """What a store's client raised, as the OSError that says it.

    A list of the web names many servers: what one of them refuses is its files' fault.
    """
    text = first_line(error)
    status = status_of(error.__cause__ or error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return FileNotFoundError(f"{path}: no such object or bucket")
    if isinstance(error, FileExistsError):
        return FileExistsError(f"{path}: already exists")
    if isinstance(error, OSError) and error.errno == errno.ENOENT:
        return FileNotFoundError(f"{path}: no such object or bucket")
    if is_read_only(path) and (status == 401 or is_transient(error)):
        return OSError(f"{path}: the server refused it ({type(error).__name__}: {text})")
    if status == 401 or _is_of_credentials(error):
        return Unauthenticated(f"{path}: the credentials were not accepted ({text})")
    if isinstance(error, PermissionError) or status == 403 or text.startswith("Forbidden: "):
        return PermissionError(f"{path}: permission denied ({text})")
    if is_transient(error):
        return Unavailable(f"{path}: the store does not answer ({type(error).__name__}: {text})")
    if isinstance(error, OSError):
        if status is None:
            return error
        # s3fs makes EINVAL of whatever a store refuses, which tells nothing of the name.
        kind = BadName if error.errno == errno.ENAMETOOLONG else OSError
        return kind(f"{path}: {error.strerror or text}")
    return OSError(f"{path}: {type(error).__name__}: {text}")


def _is_of_credentials(error: BaseException) -> bool:
    for one in causes(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            if response.get("Error", {}).get("Code") in _CREDENTIAL_CODES:
                return True
        elif not _CREDENTIAL_ERRORS.isdisjoint(kind.__name__ for kind in type(one).__mro__):
            return True
    return False
