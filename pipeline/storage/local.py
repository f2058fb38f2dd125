"""Local disk. Names are bytes there and need not be UTF-8, which only ``os`` gets right."""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pipeline.storage.faults import NotRegular, on_temporary_disk
from pipeline.storage.listed import File

T = TypeVar("T")

# What disks say that know no hard links, such as exFAT and some that are mounted from elsewhere.
_NO_LINKS = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK))
_MORE = 1 << 16  # that is read beyond what a file says its size is


def read(path: str, limit: int = -1, start: int = 0) -> bytes:
    """A file's ``limit`` bytes from ``start`` on, or all of them.

    Raises:
        OSError: there is none, or it is no regular file.
    """
    with open(path, "rb", opener=_open_regular) as file:
        file.seek(start)
        if limit < 0:
            return file.read()
        # Python takes as much memory as it is asked to read, so no more is asked for than there is.
        # Some files tell no size, or grow meanwhile.
        found = file.read(min(limit, max(os.fstat(file.fileno()).st_size - start, 0) + _MORE))
        while len(found) < limit and (more := file.read(min(limit - len(found), _MORE))):
            found += more
        return found


def _open_regular(path: str, flags: int) -> int:
    """Opens a file, and no pipe: that would wait for somebody to write to it."""
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
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise _not_regular(path)


def _not_regular(path: str) -> NotRegular:
    return NotRegular(f"{path}: is a pipe, socket or device, not a file")


def kept(path: str) -> str:
    """Where a list can be read again and again; see :meth:`pipeline.storage.Files.kept`."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return path  # reading it tells why
    # A file that is passed as standard input may be read on where it was left.
    passed = path.startswith("/dev/") and stat.S_ISREG(mode)
    if not (passed or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return path
    with on_temporary_disk():
        handle, name = tempfile.mkstemp(prefix="fcn-beam-", suffix=".txt")
    atexit.register(Path(name).unlink, missing_ok=True)
    with open(handle, "wb", buffering=0) as copy, open(path, "rb") as pipe:
        while piece := pipe.read(_MORE):
            with on_temporary_disk():
                _write_all(copy.fileno(), piece)
    return name


def write(path: str, data: bytes, scratch: str, exclusive: bool = False, root: str = "") -> File:
    """Writes under another name in ``scratch``, a folder of the same disk, then renames.

    Args:
        exclusive: raise FileExistsError instead of replacing.
        root: a folder that must be there; those below it are made.
    """

    def attempt() -> File:
        with _unfinished(path, data, scratch) as unfinished:
            written = stat_file(unfinished)
            if exclusive:
                _rename_new(unfinished, path)
            else:
                os.replace(unfinished, path)
        return written._replace(path=path)

    return _in_folders(attempt, path, scratch, root)


def create_held(path: str, data: bytes, scratch: str, root: str = "") -> int | None:
    """Writes a file that must not exist yet and holds it, as long as this process lives.

    Returns:
        What holds it, a file descriptor to be closed; None where the disk knows no locks.
    """

    def attempt() -> int | None:
        with _unfinished(path, data, scratch) as unfinished:
            handle = os.open(unfinished, os.O_RDWR)
            try:
                # Held before anybody can see it.
                held = _hold(handle)
                _rename_new(unfinished, path)
            except OSError:
                os.close(handle)
                raise
        if held:
            return handle
        os.close(handle)
        return None

    return _in_folders(attempt, path, scratch, root)


def _rename_new(unfinished: str, path: str) -> None:
    """Gives an unfinished file its name, whole, unless that is taken.

    Raises:
        FileExistsError: it is.
    """
    try:
        os.link(unfinished, path)  # unlike a rename it fails where the name is taken
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
    """Keeps others of this machine out of its block, as far as the disk knows locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _in_folders(attempt: Callable[[], T], path: str, scratch: str, root: str) -> T:
    """What writing a file gives, whose folders are made where it finds them missing.

    Most of the time they are there, and asking for them first would cost more than writing a mask.
    Somebody may remove empty ones at any moment.

    Raises:
        FileNotFoundError: the root is missing.
    """
    for _ in range(3):
        try:
            return attempt()
        except (FileNotFoundError, NotADirectoryError):
            if root and not os.path.isdir(root):
                raise FileNotFoundError(errno.ENOENT, "has been removed", root) from None
        with _named(path):
            _make(scratch, root)
            _make(os.path.dirname(path), root)
    return attempt()


def _hold(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_held(path: str) -> bool | None:
    """Whether a living process holds a file, see :func:`create_held`.

    Returns:
        False also where there is no such file; None where the disk knows no locks.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who ask do not take each other for the holder.
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
    """A file of these bytes under a name of its own, to be renamed; gone where that fails."""
    unfinished = os.path.join(scratch, uuid.uuid4().hex)
    with _named(path):
        try:
            _create(unfinished, data)
            yield unfinished
        except BaseException:
            _discard(unfinished)
            raise


def _create(path: str, data: bytes) -> None:
    """Writes a new file; in few calls, as each waits for Python's lock."""
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
    """Names errors by the file that was to be written, not by that of an attempt."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _make(folder: str, root: str) -> None:
    """Makes a folder and those above it; below a root, if one is given, which is not made.

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


def prune(folder: str) -> None:
    """Removes a folder if it is empty."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def delete(path: str) -> None:
    """Deletes the file of just this name; where there is none, that is no error."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:
        if not os.path.isdir(path):  # a folder is no file; which error it is, systems differ on
            raise


def stat_file(path: str) -> File:
    """What is known of a file.

    Raises:
        OSError: there is none, or it is no regular file.
    """
    found = os.stat(path)
    _check_regular(path, found.st_mode)
    return File(path, found.st_size, str(found.st_mtime_ns))
