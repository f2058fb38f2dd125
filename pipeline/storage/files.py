"""Files of any disk or store, by literal names."""

from __future__ import annotations

import contextlib
import functools
import glob
import itertools
import os
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_build.common.errors import UserError
from pipeline.storage import folders, local, paging, puts, stores
from pipeline.storage.faults import BadName, NotRegular, of_client, on_temporary_disk
from pipeline.storage.listed import File, Link, Part, Unlisted
from pipeline.storage.names import (
    bucket_and_key,
    folder_of,
    is_read_only,
    is_remote,
    pattern_of,
    scheme_of,
)
from pipeline.storage.retries import with_retries

AT_ONCE = 16  # files under way together, a process
AHEAD = 128 << 20  # bytes that may be read before they are asked for
SHARE = 10_000  # objects of a prefix that one worker lists before it leaves the others to others


@dataclass(frozen=True)
class Files:
    """Lists, reads, writes and deletes files of any disk or store; travels to workers.

    No character of a name is a pattern, except in :meth:`glob`. Every method raises OSError for
    what a disk or store cannot do: FileNotFoundError and PermissionError where that is the cause.
    Transient failures of stores have been tried again by then.

    Args:
        options: (scheme, key, value) each, of ``--storage-option``; passed to the scheme's client.
            Not shown where the object is printed: a value may be a secret.
    """

    options: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)

    # One file

    def read(self, path: str, limit: int = -1, start: int = 0) -> bytes:
        """A file's bytes from ``start`` on; at most ``limit`` of them, if that is not negative."""
        if not is_remote(path):
            return local.read(path, limit, start)
        if limit == 0:
            return b""
        client, key = self._client(path)
        if limit < 0:
            return self._try(path, lambda: client.cat_file(key, start=start or None))
        try:
            return self._try(path, lambda: client.cat_file(key, start=start, end=start + limit))
        except OSError:
            # An empty file has no first byte, so some stores refuse to give a range of it.
            with contextlib.suppress(OSError):
                if self.stat(path).size == 0:
                    return b""
            raise

    def write(
        self,
        path: str,
        data: bytes,
        *,
        scratch: str = "",
        root: str = "",
        exclusive: bool = False,
    ) -> File:
        """Writes a file whole or not at all; one that stands there is replaced.

        Args:
            scratch: on local disk, a folder of the same disk for the unfinished file; by default
                the file's own.
            root: on local disk, a folder that must be there; by default it is made.
            exclusive: raise FileExistsError instead of replacing.

        Returns:
            What the disk or store says of the file that it has written.
        """
        if not is_remote(path):
            return local.write(path, data, scratch or os.path.dirname(path), exclusive, root)
        if is_read_only(path):
            raise OSError(f"{path}: cannot be written to")
        client, key = self._client(path)
        put = functools.partial(puts.put, scheme_of(path), client, key, data, exclusive)
        version = self._try(path, put)
        if version is None:  # a large file, whose put tells nothing
            return self.stat(path)
        return File(path, len(data), version)

    def create_held(
        self, path: str, data: bytes, *, scratch: str = "", root: str = ""
    ) -> int | None:
        """Writes a file that must not exist yet; on local disk this process holds it as it lives.

        Returns:
            What holds it, a file descriptor to be closed; None where the store or disk knows no
            locks.

        Raises:
            FileExistsError: there is a file of that name.
        """
        if not is_remote(path):
            return local.create_held(path, data, scratch or os.path.dirname(path), root)
        self.write(path, data, exclusive=True)
        return None

    def is_held(self, path: str) -> bool | None:
        """Whether a living process holds a file; None where the store or disk knows no locks."""
        return None if is_remote(path) else local.is_held(path)

    def delete(self, path: str) -> None:
        """Deletes the file of just this name; where there is none, that is no error."""
        if not is_remote(path):
            local.delete(path)
            return
        client, key = self._client(path)
        with contextlib.suppress(FileNotFoundError):
            self._try(path, lambda: client.rm_file(key))

    def stat(self, path: str) -> File:
        """What is known of a file; FileNotFoundError where no file has just this name."""
        if not is_remote(path):
            return local.stat_file(path)
        client, key = self._client(path)
        info = self._try(path, lambda: client.info(key))
        if info.get("type") == "directory":
            raise FileNotFoundError(f"{path}: no such object")
        return File(path, info.get("size"), puts.version_of(info))

    def exists(self, path: str) -> bool:
        """Whether a file has just this name."""
        try:
            self.stat(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, NotRegular):
            return False
        return True

    def kept(self, path: str) -> str:
        """Where a file can be read again and again.

        A pipe gives its bytes once: they are copied to a file that is there while this process is.
        """
        return path if is_remote(path) else local.kept(path)

    # Many files

    def read_each(
        self, files: Iterable[tuple[str, int | None]], limit: int = -1
    ) -> Iterator[bytes | Exception]:
        """Reads many files at once; each failure is by itself.

        Args:
            files: (path, size in bytes as far as known) each; what is read ahead is bounded by it.
            limit: see :meth:`read`.

        Yields:
            The bytes, or the exception, of each file in its turn.
        """
        rest = deque(files)
        ahead: deque[tuple[Future, int]] = deque()
        held = 0
        while rest or ahead:
            while rest and (
                not ahead or (len(ahead) < AT_ONCE and held + (rest[0][1] or 0) <= AHEAD)
            ):
                path, size = rest.popleft()
                ahead.append((_pool().submit(self.read, path, limit), size or 0))
                held += size or 0
            future, size = ahead.popleft()
            held -= size
            outcome = [_outcome(future)]
            del future  # a large file is not to be held any longer than whoever gets it holds it
            yield outcome.pop()

    def stat_each(self, paths: Sequence[str]) -> list[File | Exception]:
        """What is known of many files, asked at once; each failure is by itself."""
        return self.run_each([functools.partial(self.stat, path) for path in paths])

    def run_each(self, operations: Sequence[Callable[[], Any]]) -> list[Any]:
        """Runs operations on files at once: what each returns, or its exception."""
        futures = [_pool().submit(operation) for operation in operations]
        return [_outcome(future) for future in futures]

    # Folders

    def list(self, folder: str) -> Iterator[File | Unlisted]:
        """Every file below a folder or prefix, streamed page by page; nothing for one that is not.

        Raises:
            OSError: the store cannot list it.
        """
        if not is_remote(folder):
            yield from folders.walk(folder)
            return
        for part in self.whole(folder):
            for found in self._objects(part.where):
                if isinstance(found, File):
                    yield found

    def whole(self, folder: str) -> Iterator[Part]:
        """All that lies below a folder or prefix as a part; nothing for one that is not.

        Raises:
            OSError: it is on a web server, which cannot be listed.
        """
        if is_read_only(folder):
            raise OSError("cannot list a web server; put its URLs into an @LIST")
        if is_remote(folder):
            top = f"{scheme_of(folder)}://{bucket_and_key(folder)[0]}"
            yield Part(f"{folder.rstrip('/')}/" if folder.rstrip("/") != top else f"{top}/")
        elif os.path.isdir(folder):
            yield Part(folder)

    def list_part(
        self, part: Part, to_the_end: bool = False
    ) -> Iterator[File | Unlisted | Part | Link]:
        """What lies in a part: files, and parts of it that others may list.

        On local disk these are the folders in a folder. A prefix of a store is listed up to some
        10,000 objects; what is beyond is split by the next characters of its keys. (One of Azure's
        is not split: it is listed to its end.)

        Args:
            to_the_end: list all of it.

        Yields:
            Also links to folders of local disk: see :meth:`list_links`.
        """
        if is_remote(part.where):
            yield from self._objects(part.where, None if to_the_end else SHARE)
        else:
            yield from (folders.below if to_the_end else folders.look_into)(part.where)

    def list_links(self, folder: str, links: Iterable[str]) -> Iterator[File | Unlisted]:
        """What lies behind all the links that the parts of a folder hold; each folder once."""
        return folders.behind(folder, links)

    def starting_with(self, prefix: str) -> Iterator[File]:
        """The files of one folder, those below it left out, whose paths start with a prefix."""
        if is_remote(prefix):
            for file in self._objects(prefix):
                if isinstance(file, File) and "/" not in file.path[len(prefix) :]:
                    yield file
            return
        folder = folder_of(prefix)
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if (path := f"{folder}/{name}").startswith(prefix) and os.path.isfile(path):
                yield folders.look(path)

    def _objects(self, uri: str, most: int | None = None) -> Iterator[File | Part]:
        """Objects whose URIs begin with one; beyond so many of them, as parts, if that can be."""
        scheme, (bucket, prefix) = scheme_of(uri), bucket_and_key(uri)
        root = f"{scheme}://{bucket}/"
        client, _ = self._client(root)
        last = ""
        with _as_oserror(uri):
            for count, item in enumerate(paging.objects(scheme, client, bucket, prefix)):
                if count == most and paging.can_split(scheme):
                    for block in paging.blocks_beyond(scheme, client, bucket, prefix, last):
                        yield Part(root + block)
                    return
                last = item.key
                if not item.key.endswith("/"):  # some tools mark a folder by an empty object
                    path = root + item.key
                    yield File(path, item.size, item.version, written=item.written)

    def glob(self, pattern: str) -> Iterator[File | Unlisted]:
        """The files that a pattern matches: the one place where a pattern is a pattern."""
        folder = glob_folder(pattern)
        if not is_remote(pattern):
            yield from folders.glob(pattern, folder)
            return
        matches = pattern_of(pattern).fullmatch
        for file in self.list(folder):
            if isinstance(file, Unlisted) or matches(file.path):
                yield file

    def has_any(self, folder: str) -> bool:
        """Whether any file lies below a folder."""
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
        """Removes a folder of local disk, and those below it, if empty; a store has no folders."""
        if not is_remote(folder):
            for where, _, _ in os.walk(folder, topdown=False):
                local.prune(where)

    def copy_here(self, folder: str, target: str) -> None:
        """Copies all that lies below a folder into a temporary one, which is made.

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

    # Before a job

    def check(self, path: str) -> None:
        """Tells what would keep any file there from being read: scheme, extra, credentials.

        Raises:
            UserError: an unknown scheme, a missing extra or no credentials; after ten seconds at
                most.
        """
        if is_remote(path):
            stores.check_scheme(path)
            if not bucket_and_key(path)[0]:
                raise UserError(f"{path}: no bucket given; write {scheme_of(path)}://BUCKET/…")
            stores.check_credentials(path, self._options(scheme_of(path)))

    def _client(self, uri: str) -> tuple[Any, str]:
        """The client of a URI's scheme, and what the client calls the file."""
        scheme = scheme_of(uri)
        stores.check_scheme(uri)
        if is_read_only(uri):
            # A URL may be written with or without its escapes.
            key = urllib.parse.quote(uri, safe="%/:?#[]@!$&'()*+,;=~")
        else:
            key = uri.partition("://")[2]
            if reason := stores.unsupported_key(scheme, key):
                raise BadName(f"{uri}: its name {reason}; rename it")
            if scheme == "memory":
                key = f"/{key}"  # it adds that itself, but not where a name holds ``::``
        return stores.client(scheme, self._options(scheme)), key

    def _options(self, scheme: str) -> dict[str, str]:
        return {key: value for of, key, value in self.options if of == scheme}

    def _try(self, path: str, operation: Callable[[], Any]) -> Any:
        with _as_oserror(path):
            return with_retries(operation)


@contextlib.contextmanager
def _as_oserror(path: str) -> Iterator[None]:
    """What a store's client raises, as the OSError that says it."""
    try:
        yield
    except Exception as error:
        told = of_client(error, path)
        if told is error:
            raise
        raise told from error


def glob_folder(pattern: str) -> str:
    """The deepest folder that holds all a pattern can match."""
    return "/".join(itertools.takewhile(lambda part: not glob.has_magic(part), pattern.split("/")))


def _outcome(future: Future) -> Any:
    try:
        return future.result()
    except Exception as error:
        return error


def _pool() -> ThreadPoolExecutor:
    return _pool_of(os.getpid())  # threads do not survive a fork


@functools.lru_cache(maxsize=1)
def _pool_of(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="files")
