"""Sources → files, listed by many workers.

What one worker lists is a *share*: a folder of local disk, objects of a store whose keys begin
alike, some megabytes of a list. What it finds to be more than that, it leaves to others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam

from model_build.data.files import is_never_photo
from pipeline.inputs.sources import Lines, lines_of, read_lines
from pipeline.records import Source
from pipeline.storage import File, Files, Link, Part, Unlisted, as_job_error, is_remote, pattern_of

LEVELS = 3  # how often a share may be split; what it then is, one worker lists to its end


class ListingUnit(NamedTuple):
    """What one worker lists of a source; ``None`` is all of it."""

    source: Source
    part: Part | Lines | None = None


class Found(NamedTuple):
    """A file, or what cannot be listed.

    Attributes:
        kind: of the source that has it.
        never_photo: see :func:`model_build.data.files.is_never_photo`; what the user names is
            taken, whatever it is called.
    """

    kind: str
    file: File | Unlisted
    never_photo: bool = False


def first_units(source: Source, files: Files) -> Iterator[ListingUnit]:
    """What the listing of a source begins with.

    Raises:
        OSError: a list cannot be looked at, or a web server is to be listed.
    """
    if source.kind == "list":
        for lines in lines_of(source.where, files):
            yield ListingUnit(source, lines)
    elif source.kind == "file" or (source.kind == "glob" and not is_remote(source.where)):
        yield ListingUnit(source)
    else:
        for part in files.whole(source.folder if source.kind == "glob" else source.where):
            yield ListingUnit(source, part)


def list_unit(
    share: ListingUnit, files: Files, to_the_end: bool = False
) -> Iterator[Found | ListingUnit | Link]:
    """Lists a share.

    Args:
        to_the_end: list all of it; else what it finds to be more than a share comes as shares.

    Yields:
        Also links to folders, which are for :func:`list_links`.

    Raises:
        OSError: the disk or store cannot list it.
    """
    source, part = share
    if isinstance(part, Part):
        matches = pattern_of(source.where).fullmatch if source.kind == "glob" else None
        for one in files.list_part(part, to_the_end):
            if isinstance(one, Part):
                yield ListingUnit(source, one)
            elif isinstance(one, Link):
                yield one
            elif matches is None or isinstance(one, Unlisted) or matches(one.path):
                yield _found(source, one)
    elif isinstance(part, Lines):
        for path in read_lines(source.where, files, part):
            yield Found(source.kind, File(path))
    elif source.kind == "file":
        yield Found(source.kind, File(source.where))
    else:
        for one in files.glob(source.where):
            yield _found(source, one)


def _found(source: Source, file: File | Unlisted) -> Found:
    """What the listing of a folder or glob has found."""
    glob = source.kind == "glob"
    # Names that a pattern spells out are named by the user.
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
    """Lists what lies behind all the links to folders that the shares of a folder have met.

    They may lead to one folder, or to each other, so one worker follows them all.
    """
    for one in files.list_links(folder, links):
        yield _below(folder, one)


def list_alone(source: Source, files: Files) -> Iterator[Found]:
    """All that a source has, listed by one worker: what many find, in order."""
    for share in first_units(source, files):
        if source.kind == "folder":
            for file in files.list(source.where):
                yield _below(source.where, file)
        else:
            for found in list_unit(share, files, to_the_end=True):
                assert isinstance(found, Found)
                yield found


class ListFiles(beam.PTransform):
    """Sources → :class:`Found`.

    A few levels, unrolled, with a shuffle of shares between them: a graph knows no recursion. Small
    sources are through after the first; files cross no shuffle.

    Args:
        spread: let many workers list; a job in one process need not pay for the shuffles.
    """

    def __init__(self, files: Files, spread: bool = True):
        super().__init__()
        self.files, self.spread = files, spread

    def expand(self, sources):
        if not self.spread:
            return sources | "ListAlone" >> beam.ParDo(_ListAlone(self.files))
        found, links = [], []
        shares = sources | "Begin" >> beam.ParDo(_Begin(self.files))
        for level in range(LEVELS + 1):
            listed = (
                shares
                | f"Spread{level}" >> beam.Reshuffle()
                | f"List{level}"
                >> beam.ParDo(_ListUnit(self.files, level == LEVELS)).with_outputs(
                    "shares", "links", main="found"
                )
            )
            found.append(listed.found)
            links.append(listed.links)
            shares = listed.shares
        behind = (
            links
            | "Links" >> beam.Flatten()
            | "OfOneFolder" >> beam.GroupByKey()
            | "ListLinks" >> beam.ParDo(_ListLinks(self.files))
        )
        return [*found, behind] | "Found" >> beam.Flatten()


class _ListAlone(beam.DoFn):
    def __init__(self, files: Files):
        self.files = files

    def process(self, source):
        with as_job_error():
            yield from list_alone(source, self.files)


class _Begin(beam.DoFn):
    def __init__(self, files: Files):
        self.files = files

    def process(self, source):
        with as_job_error():
            yield from first_units(source, self.files)


class _ListUnit(beam.DoFn):
    def __init__(self, files: Files, to_the_end: bool):
        self.files, self.to_the_end = files, to_the_end

    def process(self, share):
        with as_job_error():
            for one in list_unit(share, self.files, self.to_the_end):
                if isinstance(one, Found):
                    yield one
                elif isinstance(one, ListingUnit):
                    yield beam.pvalue.TaggedOutput("shares", one)
                else:
                    yield beam.pvalue.TaggedOutput("links", (share.source.where, one.path))


class _ListLinks(beam.DoFn):
    def __init__(self, files: Files):
        self.files = files

    def process(self, of_folder):
        folder, links = of_folder
        with as_job_error():
            yield from list_links(folder, links, self.files)
