"""Object stores, by their clients in fsspec.

Of a client's calls only those that take names literally are used (``cat_file``, ``pipe_file``,
``rm_file``, ``info``): ``cat``, ``rm`` and ``expand_path`` take names for patterns. ``find`` and
``ls`` hold a whole listing, so each store's module asks for single pages.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import starmap
from typing import Any

from model_build.common.errors import UserError, first_line
from pipeline.storage.faults import as_os_error
from pipeline.storage.listed import File, Part
from pipeline.storage.names import bucket_and_key, pattern_of, prefixes_beyond, scheme_of
from pipeline.storage.retries import with_retries

CREDENTIALS_DEADLINE = 8.0  # seconds
# Names of options whose values may be secrets.
SECRET = re.compile(r"key|secret|token|passw|credential|connection_string|sas", re.IGNORECASE)
PAGE_SIZE = 1000  # objects, the most that stores return at once
OBJECTS_PER_PART = 10_000  # one worker lists so many, and leaves the rest of a prefix to others
NOT_LITERAL = "which the store's client does not take literally; rename it"
# Options of each client: no cached listings, and no instance shared with other users of fsspec.
UNSHARED = {"use_listings_cache": False, "skip_instance_cache": True}


class ObjectStore:
    """The behaviour that object stores share; a subclass adds what is special to one.

    Errors are known by the names of their classes, as the packages of the clients are optional.

    Attributes:
        scheme: fsspec's name of the client.
        package: the client's package; ``""`` where it comes with fsspec.
        extra: the extra that installs it.
        login: how to get credentials.
        not_secret: values of options that are not secret although their names sound so.
        versions: the client's names of a file's version, the best first. A version must change
            with every write, also within a second and at an equal size.
        read_only: whether files can be neither listed nor written.
        lists_after: whether :meth:`page` can begin after a key.
        transient_errors: failures after which another attempt may succeed, besides those of
            :mod:`pipeline.storage.retries`.
        credential_errors: missing, expired or rejected credentials.
    """

    scheme = package = extra = login = ""
    not_secret: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    read_only = False
    lists_after = True
    transient_errors: tuple[str, ...] = ()
    credential_errors: tuple[str, ...] = ()

    def __init__(self, options: Mapping[str, str]):
        """Takes the values of ``--storage-option`` for this store."""
        self.options = options

    # Special to a store

    def connect(self, options: dict[str, Any]) -> Any:
        """Returns the client, a file system of fsspec for all buckets of the store.

        Up to 16 threads of a process use it at once.

        Args:
            options: for its constructor; numbers and booleans are parsed.
        """
        import fsspec

        return fsspec.filesystem(self.scheme, **options | UNSHARED)

    def missing_credentials(self) -> str:
        """Returns why there are no credentials, or ``""``. May also raise, or never return."""
        return ""

    def key(self, uri: str) -> str:
        """Returns the client's name of a file.

        Raises:
            BadName: the client does not take it literally.
        """
        return uri.partition("://")[2]

    def page(
        self, bucket: str, prefix: str, after: str, token: Any, limit: int
    ) -> tuple[Sequence[File], Any]:
        """Lists the next objects whose keys start with a prefix, in the order of their keys.

        Args:
            prefix: may end within a name.
            after: a key that the listing begins with or after; ``""`` for all.
            token: the one that the page before gave; None for the first page. A call may be
                repeated with the same token after an error.
            limit: the most objects to ask for.

        Returns:
            The objects, by keys instead of paths, sorted as whole strings (``a.b`` before ``a/b``),
            with the time each was written; and the token of the next page, None if there is none.
            A page may be empty.

        Raises:
            FileNotFoundError: there is no such bucket; a missing folder only has no objects.
        """
        raise NotImplementedError

    def put(self, key: str, data: bytes, exclusive: bool) -> str | None:
        """Writes a file whole or not at all: readers see the old file or the new one.

        Args:
            exclusive: raise FileExistsError instead of replacing, in one operation of the store.

        Returns:
            Its version; None where the client does not report it.
        """
        found = self.client.pipe_file(key, data, mode="create" if exclusive else "overwrite")
        return self.version_of(found) if isinstance(found, Mapping) else None

    def status_of(self, error: BaseException) -> int | None:
        """Returns the HTTP status that an error of the client carries, or None."""
        for name in ("code", "status", "status_code"):
            with contextlib.suppress(AttributeError, TypeError, ValueError):
                if 100 <= (status := int(getattr(error, name))) < 600:
                    return status
        return None

    def error_names(self, error: BaseException) -> set[str]:
        """Returns the names of an error's classes, and the codes that the store gives it."""
        return {kind.__name__ for kind in type(error).__mro__}

    # Common to all stores

    @functools.cached_property
    def client(self) -> Any:
        """The file system of fsspec, made when it is first used."""
        return self.connect(dict(starmap(_parsed, self.options.items())))

    def version_of(self, info: Mapping[str, Any]) -> str | None:
        """Returns the version in a client's description of a file, or None."""
        for name in self.versions:
            if value := info.get(name):
                text = value.isoformat() if hasattr(value, "isoformat") else str(value)
                return text.strip('"')
        return None

    def check(self, path: str) -> None:
        scheme = scheme_of(path)
        if not bucket_and_key(path)[0]:
            raise UserError(f"{path}: no bucket given; write {scheme}://BUCKET/…")
        # In a thread, as some searches wait for minutes.
        problem = [f"no answer within {CREDENTIALS_DEADLINE:g} s"]

        def search() -> None:
            try:
                problem[0] = self.missing_credentials()
            except Exception as error:
                problem[0] = first_line(error)

        thread = threading.Thread(target=search, daemon=True)
        thread.start()
        thread.join(CREDENTIALS_DEADLINE)
        if problem[0]:
            raise UserError(f"{path}: no credentials for {scheme}:// ({problem[0]}); {self.login}")

    def read(self, path: str, limit: int, start: int) -> bytes:
        if limit == 0:
            return b""
        where = {"start": start or None} if limit < 0 else {"start": start, "end": start + limit}
        try:
            return self._try(path, lambda key: self.client.cat_file(key, **where))
        except OSError:
            # An empty file has no first byte, so some stores refuse to return a range of it.
            with contextlib.suppress(OSError):
                if limit > 0 and self.stat(path).size == 0:
                    return b""
            raise

    def write(self, path: str, data: bytes, scratch: str, root: str, exclusive: bool) -> File:
        if self.read_only:
            raise OSError(f"{path}: cannot be written to")
        version = self._try(path, lambda key: self.put(key, data, exclusive))
        return self.stat(path) if version is None else File(path, len(data), version)

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._try(path, lambda key: self.client.rm_file(key))

    def stat(self, path: str) -> File:
        info = self._try(path, lambda key: self.client.info(key))
        if info.get("type") == "directory":
            raise FileNotFoundError(f"{path}: no such object")
        return File(path, info.get("size"), self.version_of(info))

    def walk(self, folder: str) -> Iterator[File]:
        for part in self.whole(folder):
            yield from self._files(part.where)

    def whole(self, folder: str) -> Iterator[Part]:
        if self.read_only:
            raise OSError("cannot list a web server; put its URLs into an @LIST")
        yield Part(f"{folder.rstrip('/')}/")

    def list_part(self, where: str, to_the_end: bool) -> Iterator[File | Part]:
        def uri_beyond(after: str) -> str | None:
            return next((found.path for found in self.objects(where, after, 1)), None)

        last = ""
        for count, file in enumerate(self._files(where)):
            if count == OBJECTS_PER_PART and self.lists_after and not to_the_end:
                yield from map(Part, prefixes_beyond(uri_beyond, last))
                return
            last = file.path
            yield file

    def starting_with(self, prefix: str) -> Iterator[File]:
        return (file for file in self._files(prefix) if "/" not in file.path[len(prefix) :])

    def glob(self, pattern: str, folder: str) -> Iterator[File]:
        matches = pattern_of(pattern).fullmatch
        return (file for file in self.walk(folder) if matches(file.path))

    def objects(self, uri: str, after: str = "", limit: int | None = None) -> Iterator[File]:
        """Lists the objects whose URIs begin with one, and come after another; holds one page.

        Args:
            limit: objects to ask for at once.
        """
        bucket, prefix = bucket_and_key(uri)
        root, token = uri[: len(uri) - len(prefix)], None
        after = after.removeprefix(root)
        with self._as_os_error(uri):
            while True:
                ask = functools.partial(self.page, bucket, prefix, after, token, limit or PAGE_SIZE)
                page, token = with_retries(ask, self)
                yield from (one._replace(path=root + one.path) for one in page if one.path != after)
                if not token:
                    return

    def _files(self, uri: str) -> Iterator[File]:
        # Some tools mark a folder by an empty object.
        return (file for file in self.objects(uri) if not file.path.endswith("/"))

    def _try(self, path: str, operation: Callable[[str], Any]) -> Any:
        """Runs an operation on a file of this key, with retries."""
        with self._as_os_error(path):
            key = self.key(path)
            return with_retries(lambda: operation(key), self)

    @contextlib.contextmanager
    def _as_os_error(self, path: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            found = as_os_error(error, path, self)
            if found is error:
                raise
            raise found from error


def _parsed(name: str, value: str) -> tuple[str, Any]:
    """Parses ``true``, ``false`` and whole numbers, but not in names and secrets."""
    if name.endswith("name") or SECRET.search(name):
        return name, value
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    return name, int(value) if value.isdecimal() else value
