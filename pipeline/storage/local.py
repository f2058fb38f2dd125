"""Local disk. Names are bytes there and need not be UTF-8, which only ``os`` handles."""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import itertools
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from stat import S_ISCHR, S_ISDIR, S_ISFIFO, S_ISREG
from typing import TypeVar

from model_build.data import folders
from pipeline.storage.faults import NotRegular, on_temporary_disk
from pipeline.storage.listed import File, Link, Part, Unlisted
from pipeline.storage.names import parts_used

T = TypeVar("T")

# Errors of disks without hard links, such as exFAT and some network disks.
_NO_LINKS = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK))
_BLOCK = 1 << 16  # bytes read at once beyond the size that a file reports


def check(path: str) -> None:
    """Does nothing: local disk needs neither client nor credentials."""


def read(path: str, limit: int = -1, start: int = 0) -> bytes:
    """Returns a file's bytes from ``start`` on, at most ``limit`` unless that is negative.

    Raises:
        OSError: there is no such file, or it is not a regular one.
    """
    with open(path, "rb", opener=_open_regular) as file:
        file.seek(start)
        if limit < 0:
            return file.read()
        # Python allocates as many bytes as it is asked to read, so it is asked for the file's size.
        # Some files report none, or grow meanwhile.
        found = file.read(min(limit, max(os.fstat(file.fileno()).st_size - start, 0) + _BLOCK))
        while len(found) < limit and (more := file.read(min(limit - len(found), _BLOCK))):
            found += more
        return found


def _open_regular(path: str, flags: int) -> int:
    """Opens a regular file; to open a pipe would wait for a writer."""
    try:
        handle = os.open(path, flags | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _not_regular(path) from None
        raise
    try:
        _check_regular(path, os.fstat(handle).st_mode)
        os.set_blocking(handle, True)  # reading a file on tape may wait
    except OSError:
        os.close(handle)
        raise
    return handle


def _check_regular(path: str, mode: int) -> None:
    if S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not S_ISREG(mode):
        raise _not_regular(path)


def _not_regular(path: str) -> NotRegular:
    return NotRegular(f"{path}: is a pipe, socket or device, not a file")


def rereadable(path: str) -> str:
    """Returns a path at which a file can be read repeatedly; copies a pipe to a temporary file."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return path  # reading it reports the error
    # A file passed as standard input continues where its last reader stopped.
    passed = path.startswith("/dev/") and S_ISREG(mode)
    if not (passed or S_ISFIFO(mode) or S_ISCHR(mode)):
        return path
    with on_temporary_disk():
        handle, name = tempfile.mkstemp(prefix="fcn-beam-", suffix=".txt")
    atexit.register(Path(name).unlink, missing_ok=True)
    with open(handle, "wb", buffering=0) as copy, open(path, "rb") as pipe:
        while piece := pipe.read(_BLOCK):
            with on_temporary_disk():
                _write_all(copy.fileno(), piece)
    return name


def write(path: str, data: bytes, scratch: str, root: str, exclusive: bool) -> File:
    """Writes a file under another name, then renames it.

    Args:
        scratch: a folder of the same disk for the unfinished file; by default the file's own.
        root: a folder that must exist; those below it are made. By default all are made.
        exclusive: raise FileExistsError instead of replacing.
    """

    def attempt(scratch: str) -> File:
        with _unfinished(path, data, scratch) as unfinished:
            written = stat(unfinished)
            (_rename_new if exclusive else os.replace)(unfinished, path)
        return written._replace(path=path)

    return _in_folders(attempt, path, scratch, root)


def create_held(path: str, data: bytes, scratch: str, root: str) -> int | None:
    """Writes a new file and locks it as long as this process lives; see :func:`write`.

    Returns:
        The file descriptor that holds the lock, to be closed; None where the disk has no locks.
    """

    def attempt(scratch: str) -> int | None:
        with _unfinished(path, data, scratch) as unfinished, contextlib.ExitStack() as opened:
            handle = os.open(unfinished, os.O_RDWR)
            opened.callback(os.close, handle)
            locked = _lock(handle)  # before others can see it
            _rename_new(unfinished, path)
            if not locked:
                return None
            opened.pop_all()
            return handle

    return _in_folders(attempt, path, scratch, root)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _rename_new(unfinished: str, path: str) -> None:
    """Gives an unfinished file its name.

    Raises:
        FileExistsError: the name is taken.
    """
    try:
        os.link(unfinished, path)  # unlike a rename this fails if the name is taken
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with _one_at_a_time(os.path.dirname(path)):
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
            os.rename(unfinished, path)
    else:
        _discard(unfinished)


@contextlib.contextmanager
def _one_at_a_time(folder: str) -> Iterator[None]:
    """Keeps other processes of this machine out of its block, if the disk has locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _in_folders(attempt: Callable[[str], T], path: str, scratch: str, root: str) -> T:
    """Writes a file by an attempt, and makes its folders if the attempt finds them missing.

    Usually they exist, and checking first would cost more than writing a mask. Other runs may
    remove empty folders at any moment.

    Raises:
        FileNotFoundError: the root is missing.
    """
    scratch = scratch or os.path.dirname(path)
    for _ in range(3):
        try:
            return attempt(scratch)
        except (FileNotFoundError, NotADirectoryError):
            if root and not os.path.isdir(root):
                raise FileNotFoundError(errno.ENOENT, "has been removed", root) from None
        with _named(path):
            _make(scratch, root)
            _make(os.path.dirname(path), root)
    return attempt(scratch)


def is_held(path: str) -> bool | None:
    """Returns whether a living process holds a file, see :func:`create_held`.

    Returns:
        False also if there is no such file; None where the disk has no locks.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two processes that ask do not take each other for the holder.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(handle)
    return False


@contextlib.contextmanager
def _unfinished(path: str, data: bytes, scratch: str) -> Iterator[str]:
    """Makes a file under a temporary name, to be renamed; deletes it if its block fails."""
    unfinished = os.path.join(scratch, uuid.uuid4().hex)
    with _named(path):
        try:
            _create(unfinished, data)
            yield unfinished
        except BaseException:
            _discard(unfinished)
            raise


def _create(path: str, data: bytes) -> None:
    """Writes a new file, in few calls, as each waits for Python's lock."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _write_all(handle, data)
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _discard(unfinished: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(unfinished)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Names the wanted file in errors, not the temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _make(folder: str, root: str) -> None:
    """Makes a folder and those above it, up to a root that is not made.

    Raises:
        NotADirectoryError: a file has that name.
    """
    if folder == root:
        return
    try:
        os.mkdir(folder)
    except FileExistsError:
        if os.path.exists(folder) and not os.path.isdir(folder):
            cause = os.strerror(errno.ENOTDIR)
            raise NotADirectoryError(errno.ENOTDIR, cause, folder) from None
    except FileNotFoundError:
        parent = os.path.dirname(folder)
        if parent == folder:
            raise
        _make(parent, root)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)


def delete(path: str) -> None:
    """Deletes the file of exactly this name, if there is one."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:
        if not os.path.isdir(path):  # a folder is no file; the error depends on the system
            raise


def stat(path: str) -> File:
    """Describes a file.

    Raises:
        OSError: there is no such file, or it is not a regular one.
    """
    found = os.stat(path)
    _check_regular(path, found.st_mode)
    return File(path, found.st_size, str(found.st_mtime_ns))


def prune(folder: str) -> None:
    """Removes the empty folders at and below a path."""
    for where, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(where)


def whole(folder: str) -> Iterator[Part]:
    """Yields a folder as one part; nothing if there is none."""
    if os.path.isdir(folder):
        yield Part(folder)


def list_part(folder: str, to_the_end: bool) -> Iterator[File | Unlisted | Part | Link]:
    """Lists the files, folders and links to folders in a folder, in no order.

    Args:
        to_the_end: list what is in the folders instead of them.
    """
    left = [folder]
    while left:
        folder = left.pop()
        try:
            for path, kind in folders.entries(folder):
                if kind == "file":
                    yield file_at(path)
                elif kind == "link":
                    yield Link(path)
                elif to_the_end:
                    left.append(path)
                else:
                    yield Part(path)
        except OSError as error:
            yield _found(folder, error)


def walk(folder: str) -> Iterator[File | Unlisted]:
    """Lists every file below a folder, see :mod:`model_build.data.folders`."""
    if os.path.isdir(folder):
        yield from itertools.starmap(_found, folders.walk([folder]))


def walk_links(folder: str, links: Iterable[str]) -> Iterator[File | Unlisted]:
    """Lists what lies behind all links to folders that :func:`list_part` finds below a folder."""
    return itertools.starmap(_found, folders.walk(sorted(links), listed=os.path.realpath(folder)))


def glob(pattern: str, folder: str) -> Iterator[File | Unlisted]:
    """Lists the files that a pattern matches by the rules of Python's ``glob``.

    Args:
        folder: the deepest one that contains all of them.
    """
    parts = pattern[len(folder) + 1 :].split("/")
    if parts[-1] == "**":  # any file at any depth
        parts.append("*")

    def used(path: str) -> frozenset[int]:
        return parts_used(parts, path[len(folder) + 1 :])

    if os.path.isdir(folder or "/"):
        for path, error in folders.walk([folder or "/"], lambda path: used(path) - {len(parts)}):
            if error or len(parts) in used(path):
                yield _found(path, error)


def starting_with(prefix: str) -> Iterator[File]:
    """Lists the files of one folder whose paths start with a prefix, in order."""
    folder = os.path.dirname(prefix)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if (path := f"{folder}/{name}").startswith(prefix) and os.path.isfile(path):
            yield file_at(path)


def _found(path: str, error: OSError | None) -> File | Unlisted:
    if error:
        return Unlisted(path, type(error).__name__, str(error.strerror))
    return file_at(path)


def file_at(path: str) -> File:
    """Describes a path as a listing does; a dangling link fails only when it is read."""
    try:
        found = os.stat(path)
    except OSError:
        return File(path)
    regular = S_ISREG(found.st_mode)
    return File(path, found.st_size, str(found.st_mtime_ns), regular, found.st_mtime)
