"""Sources → image references.

A name is the path below the *root*: INPUT itself if it is a folder, else the deepest folder that
contains all of it.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import apache_beam as beam

from model_build.data.files import image_extension
from pipeline.inputs.parallel_listing import Found, ListFiles, list_serially
from pipeline.records import ImageRef, PassedOver, Reject, Source, Stamp
from pipeline.storage import (
    Files,
    Unlisted,
    absolute,
    folder_of,
    is_remote,
    printable,
)


@dataclass(frozen=True)
class ListOptions:
    """Which files of an INPUT are images, and how they are named.

    Attributes:
        root: names are relative to it.
        all_files: treat every file as an image, not only those with a known extension.
        exclude: files that runs write and that are not images of the INPUT: globs whose last part
            may be a pattern, ``**`` for everything below a folder.
        limit: keep only this many images, the first by name.
        overlap: several sources are listed, which may contain the same file.
        spread: list on many workers, see :class:`pipeline.inputs.parallel_listing.ListFiles`.
    """

    root: str
    all_files: bool = False
    exclude: tuple[str, ...] = ()
    limit: int | None = None
    overlap: bool = False
    spread: bool = True


def list_source(
    source: Source, options: ListOptions, files: Files
) -> Iterator[ImageRef | PassedOver | Reject]:
    """Lists a source, in order; a single bad file never raises.

    Yields:
        Image references, files passed over, and rejects for entries that cannot be listed.

    Raises:
        OSError: the source itself cannot be listed.
    """
    return map(file_classifier(options), list_serially(source, files))


def file_classifier(options: ListOptions) -> Callable[[Found], ImageRef | PassedOver | Reject]:
    """Returns a function that classifies a listed file: an image, passed over, or a reject."""
    is_written = _glob_matcher(options.exclude)

    def named(found: Found) -> ImageRef | PassedOver | Reject:
        kind, file, never = found
        if never:
            return PassedOver(printable(file.path), never_photo=True)
        if isinstance(file, Unlisted):
            return Reject(printable(file.path), "list", file.error, file.detail)
        path = file.path
        name = name_below(path, options.root)
        tried = options.all_files or kind in ("file", "list") or image_extension(path)
        written = is_written(path)
        if written or not (tried and file.regular):
            return PassedOver(printable(path), written)
        if printable(path) != path:
            return Reject(printable(path), "list", "BadName", "its name is not UTF-8; rename it")
        if reject := misnamed(path, name):
            return reject
        # Entries of a list have not been looked up on their store yet.
        looked_up = file.size is not None or file.version is not None
        return ImageRef(path, name, Stamp(file.size, file.version) if looked_up else None)

    return named


class ListImages(beam.PTransform):
    """Sources → outputs ``images``, ``passed_over`` and ``rejected`` of :func:`list_source`.

    Files passed over and rejects appear once, even if several sources contain them. There may be as
    many files passed over as images, so they are shuffled only if sources may overlap.
    """

    def __init__(self, options: ListOptions, files: Files):
        super().__init__()
        self.options, self.files = options, files

    def expand(self, sources):
        named = (
            sources
            | "ListFiles" >> ListFiles(self.files, self.options.spread)
            | "Name"
            >> beam.ParDo(_Name(self.options)).with_outputs(
                "passed_over", "rejected", main="images"
            )
        )
        images, passed_over = named.images, named.passed_over
        if self.options.limit is not None:
            images = images | "Limit" >> FirstImages(self.options.limit)
        if self.options.overlap:
            passed_over = passed_over | "PassedOverOnce" >> Once(PassedOver)
        return images, passed_over, named.rejected | "RejectedOnce" >> Once(Reject)


class _Name(beam.DoFn):
    def __init__(self, options: ListOptions):
        self.options = options

    def setup(self):
        self.named = file_classifier(self.options)

    def process(self, found):
        named = self.named(found)
        if isinstance(named, ImageRef):
            yield named
        else:
            tag = "rejected" if isinstance(named, Reject) else "passed_over"
            yield beam.pvalue.TaggedOutput(tag, named)


class Once(beam.PTransform):
    """Distinct records of one type.

    They are compared as JSON text, which is the same on every worker and holds any character.
    """

    def __init__(self, kind: type):
        super().__init__()
        self.kind = kind

    def expand(self, records):
        kind = self.kind
        return (
            records
            | "ToText" >> beam.Map(json.dumps)
            | "Distinct" >> beam.Distinct()
            | "FromText" >> beam.Map(lambda text: kind(*json.loads(text)))
        )


class FirstImages(beam.PTransform):
    """Keeps the first ``count`` images by name; an image listed twice counts once."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def expand(self, images):
        first = beam.CombineGlobally(_First(self.count))
        return images | "First" >> first | "Each" >> beam.FlatMap(lambda found: found)


class _First(beam.CombineFn):
    """Combines images to the first :func:`distinct` ones: a list, cut whenever it gets long."""

    def __init__(self, count: int):
        self.count = count

    def create_accumulator(self):
        return []

    def add_input(self, found, image):
        found.append(image)
        return self.extract_output(found) if len(found) > 2 * self.count + 1000 else found

    def merge_accumulators(self, some):
        return self.extract_output(itertools.chain.from_iterable(some))

    def extract_output(self, found):
        return distinct(found)[: self.count]


def name_below(path: str, root: str) -> str:
    """Returns the path below the root; without a root the whole path, scheme first."""
    prefix = "/" if root == "/" else f"{root}/"
    if path.startswith(prefix):
        return path[len(prefix) :]
    return path.replace("://", "/", 1).removeprefix("/")


def misnamed(path: str, name: str) -> Reject | None:
    """Returns a reject if no mask can be named after an image, as in ``a/../b.jpg``."""
    if {"", ".", ".."}.isdisjoint(name.split("/")):
        return None
    return Reject(path, "list", "BadName", "its name is not a path below a folder; rename it")


def distinct(images: Iterable[ImageRef]) -> list[ImageRef]:
    """Returns images sorted by name; one that was listed twice appears once."""
    by_path: dict[str, ImageRef] = {}
    for image in images:
        if image.path not in by_path or by_path[image.path].stamp is None:
            by_path[image.path] = image
    return sorted(by_path.values(), key=lambda image: (image.name, image.path))


def _glob_matcher(globs: Iterable[str]) -> Callable[[str], bool]:
    """Returns a test for paths that match a glob, links resolved; see :class:`ListOptions`."""
    real = [_real(glob) for glob in globs]
    below = tuple(glob.removesuffix("**") for glob in real if glob.endswith("/**"))
    beside = [glob.rpartition("/") for glob in real if not glob.endswith("/**")]

    def is_one(path: str) -> bool:
        path = _real(path)
        folder, _, name = path.rpartition("/")
        return path.startswith(below) or any(
            folder == where and fnmatchcase(name, pattern) for where, _, pattern in beside
        )

    return is_one


def _real(path: str) -> str:
    """Resolves the links in the folder of a local path."""
    if is_remote(path):
        return path
    return f"{_real_folder(folder_of(path))}/{path.rpartition('/')[2]}"


@functools.lru_cache(maxsize=1)  # files come folder by folder
def _real_folder(folder: str) -> str:
    return absolute(os.path.realpath(folder))
