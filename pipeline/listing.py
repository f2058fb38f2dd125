"""INPUT → image references, and the name each one's mask gets.

A name is the path below the *root*: INPUT itself if it is a folder, else the deepest folder that
holds all of it.
"""

from __future__ import annotations

import functools
import glob
import io
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from model_build.errors import UserError, first_line
from pipeline.rejects import Reject

IMAGE_EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".dib", ".gif")
    + (".tif", ".tiff", ".webp")
)


# What a run writes below its output folder; not to be taken for its input.
MASKS, OVERLAYS, UNFINISHED = "masks", "overlays", ".unfinished"


class ImageRef(NamedTuple):
    """An image to segment.

    Attributes:
        path: absolute path or URI.
        name: the path below the root, with its extension; ``/`` separates folders.
        mtime: seconds since 1970, or None where nobody has asked the file system yet.
    """

    path: str
    name: str
    mtime: float | None


class PassedOver(NamedTuple):
    """A file that is not taken for an image."""

    path: str


class Source(NamedTuple):
    """One INPUT.

    Attributes:
        kind: ``folder``, ``glob``, ``list`` or ``file``.
        where: path, URI or pattern.
        folder: the deepest folder that is known to hold all of it.
    """

    kind: str
    where: str
    folder: str


def is_remote(path: str) -> bool:
    """Whether the path has a scheme, as ``gs://`` has."""
    return "://" in path


def parse_source(text: str) -> Source:
    """Tells what kind an INPUT is; a path that exists is taken literally before it is a pattern.

    Raises:
        UserError: there is nothing of that name, or a list that is empty or unreadable.
    """
    if not text:
        raise UserError("an INPUT is empty; name a folder, a glob, an image or @LIST")
    if text.startswith("@"):
        return _parse_list(text[1:])
    magic = glob.has_magic(text)
    if not is_remote(text):
        path = os.path.abspath(text)
        if os.path.isdir(path):
            return Source("folder", path, path)
        if os.path.isfile(path):
            return Source("file", path, _folder_of(path))
        if magic:
            return Source("glob", path, _glob_folder(path))
        raise UserError(f"{text}: no such file or folder")
    bucket_only = "/" not in text.split("://")[1].rstrip("/")
    try:
        if FileSystems.get_filesystem(text).has_dirs():
            raise UserError(f"{text}: only object stores can be listed; name its files in an @LIST")
        if not bucket_only and not text.endswith("/") and FileSystems.exists(text):
            return Source("file", text, _folder_of(text))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{text}: cannot be looked up: {first_line(error)}") from None
    if magic:
        return Source("glob", text, _glob_folder(text))
    return Source("folder", text.rstrip("/"), text.rstrip("/"))


def common_folder(folders: Iterable[str]) -> str:
    """The deepest folder that holds all of ``folders``; ``""`` or a bare scheme if none does."""
    common: list[str] | None = None
    for folder in folders:
        parts = folder.split("/")
        if common is None:
            common = parts
        else:
            same = 0
            for ours, theirs in zip(common, parts, strict=False):
                if ours != theirs:
                    break
                same += 1
            common = common[:same]
    return "/".join(common or [])


def list_source(
    source: Source, root: str, *, all_files: bool = False, exclude: str = ""
) -> Iterator[ImageRef | PassedOver | Reject]:
    """Lists a source; never fails for one file.

    Args:
        root: names are relative to it.
        all_files: take every file for an image, not only those with a known extension.
        exclude: the output folder, which may lie in the input or around it: what runs have
            written there is passed over.

    Yields:
        Image references, files passed over, and what could not be listed.
    """
    written = tuple(_real(f"{exclude}/{own}/") for own in (MASKS, OVERLAYS, UNFINISHED) if exclude)
    for found in _files(source):
        if isinstance(found, Reject | PassedOver):
            yield found
            continue
        path, mtime = found
        name = _below(path, root)
        tried = all_files or source.kind in ("file", "list") or _image_extension(path)
        if not tried or _real(path).startswith(written):
            yield PassedOver(_printable(path))
        elif _printable(path) != path:
            yield Reject(_printable(path), "list", "NameError", "its name is not UTF-8; rename it")
        elif not {"", ".", ".."}.isdisjoint(name.split("/")):
            yield Reject(path, "list", "NameError", "its name is no path below a folder; rename it")
        else:
            yield ImageRef(path, name, mtime)


Found = tuple[str, float | None] | PassedOver | Reject


def _files(source: Source) -> Iterator[Found]:
    if source.kind == "file":
        yield source.where, None
    elif source.kind == "list":
        for line in _lines(source.where):
            yield line, None
    elif is_remote(source.where):
        yield from _remote_files(source)
    elif source.kind == "glob":
        for path in sorted(glob.iglob(source.where, recursive=True)):
            if not os.path.isdir(path):
                yield _stat(path)
    else:
        yield from _walk(source.where)


def _walk(folder: str) -> Iterator[Found]:
    """Every file below a local folder; links are followed, a folder met again is not."""
    problems: list[OSError] = []
    seen = set()
    for where, folders, files in os.walk(folder, onerror=problems.append, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for file in sorted(files):
            yield _stat(f"{where.rstrip('/')}/{file}")
    for error in problems:
        path = _printable(str(error.filename))
        yield Reject(path, "list", type(error).__name__, str(error.strerror))


def _remote_files(source: Source) -> Iterator[Found]:
    # An object store is listed by prefix: page by page, and no character of it is a wildcard.
    system = FileSystems.get_filesystem(source.where)
    found = system._list(f"{source.folder}/")
    if source.kind == "glob":
        found = system.match_files(found, source.where)
    for entry in found:
        if not entry.path.endswith("/"):  # some tools mark a folder by an empty object
            yield entry.path, entry.last_updated_in_seconds


def _parse_list(where: str) -> Source:
    where = where if is_remote(where) else os.path.abspath(where)
    try:
        folder = common_folder(_folder_of(line) for line in _lines(where))
        empty = next(iter(_lines(where)), None) is None
    except Exception as error:
        raise UserError(f"{where}: the list cannot be read: {first_line(error)}") from None
    if empty:
        raise UserError(f"{where}: the list is empty; put one path or URI on a line")
    return Source("list", where, folder)


def _lines(where: str) -> Iterator[str]:
    """Non-empty lines of a list; relative paths are below the current folder."""
    with FileSystems.open(where, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="\n")
        for line in text:
            line = line.rstrip("\r\n")
            if line:
                yield line if is_remote(line) else os.path.abspath(line)


def group_key(name: str) -> str:
    """Names whose masks may clash share this key: the name less its image extensions.

    ``a.jpg``, ``a.png`` and ``a.jpg.png`` share ``a``; so does the mask ``a.png``.
    """
    while extension := _image_extension(name):
        name = name.removesuffix(extension)
    return name


def assign_mask_names(names: Iterable[str]) -> dict[str, str]:
    """Names of the masks of all images that share a :func:`group_key`.

    An image's extension is replaced by ``.png``, anything else is kept before it; where two claim
    one mask, both keep theirs.

    Args:
        names: distinct names.

    Returns:
        The mask's name by the image's.
    """
    masks = {name: f"{name.removesuffix(_image_extension(name))}.png" for name in names}
    while True:
        claims = Counter(masks.values())
        clashing = [name for name, mask in masks.items() if claims[mask] > 1]
        if all(masks[name] == f"{name}.png" for name in clashing):
            return masks
        masks |= {name: f"{name}.png" for name in clashing}


def _image_extension(name: str) -> str:
    """The name's extension if it is an image's, in the case it has there, else nothing."""
    extension = os.path.splitext(name)[1]
    return extension if extension.lower() in IMAGE_EXTENSIONS else ""


class ListImages(beam.PTransform):
    """Sources → outputs ``images``, ``passed_over`` and ``rejected`` of :func:`list_source`."""

    def __init__(self, root: str, all_files: bool = False, exclude: str = ""):
        super().__init__()
        self.root, self.all_files, self.exclude = root, all_files, exclude

    def expand(self, sources):
        return sources | beam.ParDo(
            _ListSource(self.root, self.all_files, self.exclude)
        ).with_outputs("passed_over", "rejected", main="images")


class _ListSource(beam.DoFn):
    def __init__(self, root: str, all_files: bool, exclude: str):
        self.root, self.all_files, self.exclude = root, all_files, exclude

    def process(self, source):
        for found in list_source(source, self.root, all_files=self.all_files, exclude=self.exclude):
            if isinstance(found, ImageRef):
                yield found
            elif isinstance(found, Reject):
                yield beam.pvalue.TaggedOutput("rejected", found)
            else:
                yield beam.pvalue.TaggedOutput("passed_over", found)


def _below(path: str, root: str) -> str:
    prefix = root if root.endswith("/") else f"{root}/"
    name = path[len(prefix) :] if path.startswith(prefix) else path.replace("://", "/")
    return name.lstrip("/")


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def _glob_folder(pattern: str) -> str:
    parts = pattern.split("/")
    literal = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:literal])


def _stat(path: str) -> Found:
    try:
        found = os.stat(path)
    except OSError:
        return path, None  # a dangling link, say: reading it will tell the cause
    # Reading a pipe or a device might never end.
    return (path, found.st_mtime) if stat.S_ISREG(found.st_mode) else PassedOver(_printable(path))


def _real(path: str) -> str:
    """A local path with the links of its folder resolved."""
    if is_remote(path):
        return path
    folder, _, name = path.rpartition("/")
    return f"{_real_folder(folder)}/{name}"


@functools.lru_cache(maxsize=1)  # files come folder by folder
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _printable(text: str) -> str:
    """The text with bytes that are not UTF-8 written as ``\\udcXX``; equal where there are none."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
