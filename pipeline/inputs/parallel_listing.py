"""Lists sources on many workers.

One worker lists a *listing unit*: a folder on local disk, objects of a store that share a key
prefix, or some megabytes of a list. A unit that turns out larger is split, and other workers list
the pieces.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam

from model_build.data.files import is_never_photo
from pipeline.inputs.sources import ListRange, list_ranges, read_lines
from pipeline.records import Source
from pipeline.storage import File, Files, Link, Part, Unlisted, as_job_error, is_remote, pattern_of

MAX_SPLITS = 3  # of a unit; after these one worker lists all of it


class ListingUnit(NamedTuple):
    """The part of a source that one worker lists; ``None`` is all of it."""

    source: Source
    part: Part | ListRange | None = None


class Found(NamedTuple):
    """A listed file, or a folder or object that cannot be listed.

    Attributes:
        kind: of its source.
        never_photo: see :func:`model_build.data.files.is_never_photo`; False for what the user has
            named explicitly.
    """

    kind: str
    file: File | Unlisted
    never_photo: bool = False


def first_units(source: Source, files: Files) -> Iterator[ListingUnit]:
    """Yields the units with which the listing of a source starts.

    Raises:
        OSError: a list cannot be read, or the source is a web server.
    """
    if source.kind == "list":
        for lines in list_ranges(source.where, files):
            yield ListingUnit(source, lines)
    elif source.kind == "file" or (source.kind == "glob" and not is_remote(source.where)):
        yield ListingUnit(source)
    else:
        for part in files.whole(source.folder if source.kind == "glob" else source.where):
            yield ListingUnit(source, part)


def list_unit(
    unit: ListingUnit, files: Files, to_the_end: bool = False
) -> Iterator[Found | ListingUnit | Link]:
    """Lists a unit.

    Args:
        to_the_end: list all of it; otherwise split it if it is too large for one worker.

    Yields:
        Files; further units; and links to folders, for :func:`list_links`.

    Raises:
        OSError: the disk or store cannot list it.
    """
    source, part = unit
    if isinstance(part, Part):
        matches = pattern_of(source.where).fullmatch if source.kind == "glob" else None
        for one in files.list_part(part, to_the_end):
            if isinstance(one, Part):
                yield ListingUnit(source, one)
            elif isinstance(one, Link):
                yield one
            elif matches is None or isinstance(one, Unlisted) or matches(one.path):
                yield _found(source, one)
    elif isinstance(part, ListRange):
        for path in read_lines(source.where, files, part):
            yield Found(source.kind, File(path))
    elif source.kind == "file":
        yield Found(source.kind, File(source.where))
    else:
        for one in files.glob(source.where):
            yield _found(source, one)


def _found(source: Source, file: File | Unlisted) -> Found:
    """Returns a file of a folder or glob, with its ``never_photo`` set."""
    glob = source.kind == "glob"
    # Folders spelled out in a pattern were named by the user.
    named = source.where.split("/") if glob else ()
    return _below(source.folder if glob else source.where, file, source.kind, named)


def _below(
    folder: str, file: File | Unlisted, kind: str = "folder", named: Collection[str] = ()
) -> Found:
    parts = file.path.removeprefix(f"{folder.rstrip('/')}/").split("/")
    if isinstance(file, Unlisted):
        parts.append("")  # it is a folder
    return Found(kind, file, is_never_photo("/".join(p for p in parts if p not in named)))


def list_links(folder: str, links: Iterable[str], files: Files) -> Iterator[Found]:
    """Lists the targets of all links to folders that were found below a folder.

    They may lead to the same folder or to each other, so one worker follows them all.
    """
    for one in files.list_links(folder, links):
        yield _below(folder, one)


def list_serially(source: Source, files: Files) -> Iterator[Found]:
    """Lists a source on one worker: the same files as on many, in order."""
    for unit in first_units(source, files):
        if source.kind == "folder":
            for file in files.list(source.where):
                yield _below(source.where, file)
        else:
            for found in list_unit(unit, files, to_the_end=True):
                assert isinstance(found, Found)
                yield found


class ListFiles(beam.PTransform):
    """Sources → :class:`Found`.

    A Beam graph cannot recurse, so a few levels are unrolled, with a shuffle of units between them.
    Small sources are done after the first level; files cross no shuffle.

    Args:
        spread: list on many workers; a job in one process does not need the shuffles.
    """

    def __init__(self, files: Files, spread: bool = True):
        super().__init__()
        self.files, self.spread = files, spread

    def expand(self, sources):
        if not self.spread:
            return sources | "ListAlone" >> beam.ParDo(_ListSerially(self.files))
        found, links = [], []
        units = sources | "Begin" >> beam.ParDo(_Begin(self.files))
        for level in range(MAX_SPLITS + 1):
            listed = (
                units
                | f"Spread{level}" >> beam.Reshuffle()
                | f"List{level}"
                >> beam.ParDo(_ListUnit(self.files, level == MAX_SPLITS)).with_outputs(
                    "units", "links", main="found"
                )
            )
            found.append(listed.found)
            links.append(listed.links)
            units = listed.units
        behind = (
            links
            | "Links" >> beam.Flatten()
            | "OfOneFolder" >> beam.GroupByKey()
            | "ListLinks" >> beam.ParDo(_ListLinks(self.files))
        )
        return [*found, behind] | "Found" >> beam.Flatten()


class _ListSerially(beam.DoFn):
    def __init__(self, files: Files):
        self.files = files

    def process(self, source):
        with as_job_error():
            yield from list_serially(source, self.files)


class _Begin(beam.DoFn):
    def __init__(self, files: Files):
        self.files = files

    def process(self, source):
        with as_job_error():
            yield from first_units(source, self.files)


class _ListUnit(beam.DoFn):
    def __init__(self, files: Files, to_the_end: bool):
        self.files, self.to_the_end = files, to_the_end

    def process(self, unit):
        with as_job_error():
            for one in list_unit(unit, self.files, self.to_the_end):
                if isinstance(one, Found):
                    yield one
                elif isinstance(one, ListingUnit):
                    yield beam.pvalue.TaggedOutput("units", one)
                else:
                    yield beam.pvalue.TaggedOutput("links", (unit.source.where, one.path))


class _ListLinks(beam.DoFn):
    def __init__(self, files: Files):
        self.files = files

    def process(self, of_folder):
        folder, links = of_folder
        with as_job_error():
            yield from list_links(folder, links, self.files)
