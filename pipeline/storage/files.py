"""Files of any disk or store, by literal names."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.storage import local
from pipeline.storage.faults import NotRegular, on_temporary_disk
from pipeline.storage.listed import File, Link, Part, Unlisted
from pipeline.storage.names import glob_folder, is_remote
from pipeline.storage.stores.store import Store
from pipeline.storage.stores.table import store_of

MAX_CONCURRENT = 16  # files that one process reads or writes at once
MAX_BYTES_AHEAD = 128 << 20  # that are read before they are asked for


@dataclass(frozen=True)
class Files:
    """Lists, reads, writes and deletes files of any disk or store; travels to workers.

    Names are literal, except in :meth:`glob`. Every method raises OSError if a disk or store
    fails: FileNotFoundError and PermissionError where that is the cause. Transient errors of stores
    have been retried by then.

    Args:
        options: (scheme, key, value) each, of ``--storage-option``; passed to the scheme's client.
            Not shown where the object is printed, as a value may be a secret.
    """

    options: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)

    def check(self, path: str) -> None:
        """Checks, before a job, that files there can be reached: scheme, extra and credentials.

        Raises:
            UserError: the scheme is unknown, or the extra or the credentials are missing; after ten
                seconds at most.
        """
        self._store(path).check(path)

    # One file

    def read(self, path: str, limit: int = -1, start: int = 0) -> bytes:
        """Returns a file's bytes from ``start`` on, at most ``limit`` unless that is negative."""
        return self._store(path).read(path, limit, start)

    def write(
        self, path: str, data: bytes, *, scratch: str = "", root: str = "", exclusive: bool = False
    ) -> File:
        """Writes a file whole or not at all; an existing one is replaced.

        Args:
            scratch: on local disk, a folder of the same disk for the unfinished file; by default
                the file's own.
            root: on local disk, a folder that must exist; those below it are made. By default all
                are made.
            exclusive: raise FileExistsError instead of replacing.

        Returns:
            What the disk or store reports of the written file.
        """
        return self._store(path).write(path, data, scratch, root, exclusive)

    def create_held(
        self, path: str, data: bytes, *, scratch: str = "", root: str = ""
    ) -> int | None:
        """Writes a new file, which on local disk stays locked as long as this process lives.

        Returns:
            The file descriptor that holds the lock; None where the store or disk has no locks.

        Raises:
            FileExistsError: the file exists.
        """
        if not is_remote(path):
            return local.create_held(path, data, scratch, root)
        self.write(path, data, exclusive=True)
        return None

    def is_held(self, path: str) -> bool | None:
        """Returns whether a living process holds a file; None where there are no locks."""
        return None if is_remote(path) else local.is_held(path)

    def delete(self, path: str) -> None:
        """Deletes the file of exactly this name, if there is one."""
        self._store(path).delete(path)

    def stat(self, path: str) -> File:
        """Describes a file; raises FileNotFoundError if no file has exactly this name."""
        return self._store(path).stat(path)

    def exists(self, path: str) -> bool:
        """Returns whether a file has exactly this name."""
        try:
            self.stat(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, NotRegular):
            return False
        return True

    def rereadable(self, path: str) -> str:
        """Returns a path at which a file can be read repeatedly.

        A pipe can be read once: its bytes are copied to a file that this process deletes at its
        end.
        """
        return path if is_remote(path) else local.rereadable(path)

    # Many files

    def read_each(
        self, files: Iterable[tuple[str, int | None]], limit: int = -1
    ) -> Iterator[bytes | Exception]:
        """Reads many files at once; each fails separately.

        Args:
            files: (path, size in bytes if known) each; the sizes bound what is read ahead.
            limit: see :meth:`read`.

        Yields:
            The bytes of each file, or its exception, in the given order.
        """
        rest = deque(files)
        ahead: deque[tuple[Future, int]] = deque()
        held = 0
        while rest or ahead:
            while rest and (
                not ahead
                or (len(ahead) < MAX_CONCURRENT and held + (rest[0][1] or 0) <= MAX_BYTES_AHEAD)
            ):
                path, size = rest.popleft()
                ahead.append((_pool(os.getpid()).submit(self.read, path, limit), size or 0))
                held += size or 0
            future, size = ahead.popleft()
            held -= size
            outcome = [_outcome(future)]
            del future  # so that only the caller keeps a large file in memory
            yield outcome.pop()

    def stat_each(self, paths: Sequence[str]) -> list[File | Exception]:
        """Describes many files, asked at once; each fails separately."""
        return self.run_each([functools.partial(self.stat, path) for path in paths])

    def run_each(self, operations: Sequence[Callable[[], Any]]) -> list[Any]:
        """Runs operations on files at once: returns the result of each, or its exception."""
        futures = [_pool(os.getpid()).submit(operation) for operation in operations]
        return [_outcome(future) for future in futures]

    # Folders

    def list(self, folder: str) -> Iterator[File | Unlisted]:
        """Lists every file below a folder or prefix, page by page; none if there is no folder.

        Raises:
            OSError: the store cannot list it.
        """
        return self._store(folder).walk(folder)

    def whole(self, folder: str) -> Iterator[Part]:
        """Yields a folder or prefix as one part; nothing if there is no folder.

        Raises:
            OSError: it is on a web server, which cannot be listed.
        """
        return self._store(folder).whole(folder)

    def list_part(
        self, part: Part, to_the_end: bool = False
    ) -> Iterator[File | Unlisted | Part | Link]:
        """Lists the files of a part, and the parts of it that others can list.

        On local disk these are the folders in a folder. A prefix of a store is listed up to some
        10,000 objects, and the rest split by the next characters of its keys. A store that cannot
        list from a key on (Azure's) is not split but listed to its end.

        Args:
            to_the_end: list all of it.

        Yields:
            Also links to folders of local disk: see :meth:`list_links`.
        """
        return self._store(part.where).list_part(part.where, to_the_end)

    def list_links(self, folder: str, links: Iterable[str]) -> Iterator[File | Unlisted]:
        """Lists what lies behind all links of a folder's parts, each folder once."""
        return local.walk_links(folder, links)

    def starting_with(self, prefix: str) -> Iterator[File]:
        """Lists the files whose paths start with a prefix, in its folder but not below."""
        return self._store(prefix).starting_with(prefix)

    def glob(self, pattern: str) -> Iterator[File | Unlisted]:
        """Lists the files that a pattern matches; the only method that takes one."""
        return self._store(pattern).glob(pattern, glob_folder(pattern))

    def has_any(self, folder: str) -> bool:
        """Returns whether there is any file below a folder."""
        return next(iter(self.list(folder)), None) is not None

    def delete_all(self, folder: str) -> None:
        """Deletes every file below a folder, and on local disk the folder."""
        for file in self.list(folder):
            if isinstance(file, File):
                self.delete(file.path)
        self.prune(folder)

    def make_folder(self, folder: str) -> None:
        """Makes a folder of local disk, and those above it; a store needs none."""
        if not is_remote(folder):
            os.makedirs(folder, exist_ok=True)

    def prune(self, folder: str) -> None:
        """Removes the empty folders of local disk at and below a path."""
        if not is_remote(folder):
            local.prune(folder)

    def copy_here(self, folder: str, target: str) -> None:
        """Copies everything below a folder into a temporary one, which is made.

        Raises:
            OSError: it cannot be read.
            JobError: the disk of temporary files cannot hold it.
        """
        found = [file for file in self.list(folder) if isinstance(file, File)]
        read = self.read_each((file.path, file.size) for file in found)
        for file, data in zip(found, read, strict=True):
            if isinstance(data, Exception):
                raise data
            path = Path(target) / file.path[len(folder.rstrip("/")) + 1 :]
            with on_temporary_disk():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def _store(self, path: str) -> Store:
        return store_of(path, self.options)


def _outcome(future: Future) -> Any:
    try:
        return future.result()
    except Exception as error:
        return error


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:  # threads do not survive a fork
    return ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="files")
