"""Rows and rejects as shards of JSON lines, held against what was listed.

A shard is a share of the archive: ``histograms-RUN-00000-of-00003.jsonl`` has the rows of its masks
and ``rejected-RUN-00000-of-00003.jsonl`` those of its images that got none.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam

from model_build.common.errors import JobError
from pipeline.outputs.folder import HISTOGRAMS, REJECTED, OutputFolder, utf8
from pipeline.outputs.run_json import check_claim
from pipeline.outputs.summary import Tally, sum_tallies, tally_kept, tally_reject, tally_row
from pipeline.records import Reject, Row
from pipeline.storage import as_job_error

IMAGES = 10_000  # about as many a shard: its rows are put in order in memory
PACKED = 1000  # records that are packed together, at most
# What a shard has, see WriteShards.
KINDS = LISTED, ROWS, KEPT, REJECTS, UNLISTED = "listed", "rows", "kept", "rejects", "unlisted"
NAMED = 3  # images that a message names


def shard_count(images: int) -> int:
    """How many shards so many images make; one where there are none."""
    return max(1, -(-images // IMAGES))


def shard_of(image: str, images: int) -> int:
    """The number of an image's shard."""
    return zlib.crc32(image.encode("utf-8", "surrogateescape")) % shard_count(images)


def line_of(record: Row | Reject) -> str:
    """A record's line, less its end."""
    return json.dumps(record.to_json())


def pack(records: Iterable[Row | Reject | str], kind: str) -> tuple[str, bytes]:
    """Records → their kind, and their lines, compressed together.

    That is what crosses shuffles, a fifth or so of the lines: a local run holds all of them at its
    end, and more than once.

    Args:
        records: of images that were listed, their paths.
        kind: one of :data:`KINDS`.
    """
    lines = (
        json.dumps({"image": record}) if isinstance(record, str) else line_of(record)
        for record in records
    )
    return kind, _compressed(lines)


def share(packed: tuple[str, bytes], images: int) -> Iterator[tuple[int, tuple[str, bytes]]]:
    """One of :func:`pack`'s → for each of its shards, by number, the part that belongs there.

    Args:
        images: number of all images.
    """
    kind, data = packed
    lines = defaultdict(list)
    for line in unpack(data):
        lines[shard_of(json.loads(line)["image"], images)].append(line)
    for number, of_shard in lines.items():
        yield number, (kind, _compressed(of_shard))


def _compressed(lines: Iterable[str]) -> bytes:
    return zlib.compress("\n".join(lines).encode("ascii"))


def unpack(data: bytes) -> list[str]:
    """The lines that :func:`pack` has compressed."""
    return zlib.decompress(data).decode("ascii").split("\n")


def mismatch(listed: Iterable[str], outcomes: Iterable[str]) -> str:
    """Why images and what became of them do not fit, with names; nothing where each has just one.

    Args:
        listed: paths of images; one that is there twice is one.
        outcomes: the image of each row and each reject.
    """
    images, counts = set(listed), Counter(outcomes)
    complaints = (
        ("have neither a mask nor a reject", sorted(images - counts.keys())),
        ("have more than one", sorted(image for image, n in counts.items() if n > 1)),
        ("have one but were not listed", sorted(counts.keys() - images)),
    )
    return "; ".join(
        f"{len(names)} images {what}: {', '.join(names[:NAMED])}{', …' * (len(names) > NAMED)}"
        for what, names in complaints
        if names
    )


class Shard(NamedTuple):
    """A share of the archive that was written.

    Attributes:
        names: of its files, below OUT.
        tally: of its rows and rejects.
    """

    names: tuple[str, str]
    tally: Tally


def write_shard(
    number: int, packed: Iterable[tuple[str, bytes]], images: int, out: OutputFolder
) -> Shard:
    """Writes a share of the archive: its rows and its rejects, lines in order.

    Args:
        packed: its parts, see :func:`share`.
        images: number of all images.

    Raises:
        JobError: an image has no outcome, or several; or another run has taken OUT over.
    """
    check_claim(out)
    lines: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for kind, data in packed:
        lines[kind] += unpack(data)
    values = {kind: [json.loads(line) for line in lines[kind]] for kind in KINDS}
    outcomes = (*values[ROWS], *values[KEPT], *values[REJECTS])
    listed = (value["image"] for value in values[LISTED])
    if why := mismatch(listed, (value["image"] for value in outcomes)):
        raise JobError(f"{why}; please report this bug")
    of = f"{out.run}-{number:05}-of-{shard_count(images):05}.jsonl"
    names = f"{HISTOGRAMS}-{of}", f"{REJECTED}-{of}"
    for name, kinds in zip(names, ((ROWS, KEPT), (REJECTS, UNLISTED)), strict=True):
        in_order = sorted(line for kind in kinds for line in lines[kind])
        with as_job_error():
            out.write(name, utf8("".join(f"{line}\n" for line in in_order)))
    kept = [Row.from_json(value) for value in values[KEPT]]
    rows = (*kept, *map(Row.from_json, values[ROWS]))
    rejected = (value for kind in (REJECTS, UNLISTED) for value in values[kind])
    rejects = (Reject(**value | {"row": None}) for value in rejected)  # no row is tallied of them
    tallies = (*map(tally_row, rows), *map(tally_kept, kept), *map(tally_reject, rejects))
    return Shard(names, sum_tallies(tallies))


class WriteShards(beam.PTransform):
    """Rows, rejects and what was listed → :class:`Shard`.

    The input is a dict of :data:`KINDS`, each of as many PCollections as there are of it: paths of
    the images ``listed``; ``rows`` of masks, apart from those that were ``kept`` of an earlier run;
    ``rejects`` of images, and of what was ``unlisted``, which is no image. They are packed one by
    one, where they are made, and flattened only then. There is at least one shard, if empty.
    """

    def __init__(self, out: OutputFolder):
        super().__init__()
        self.out = out

    def expand(self, found):
        (listed,) = found[LISTED]
        images = beam.pvalue.AsSingleton(listed | "Count" >> beam.combiners.Count.Globally())
        numbers = (
            listed.pipeline
            | "Once" >> beam.Create([None])
            | "Numbers" >> beam.FlatMap(lambda _, images: range(shard_count(images)), images)
            | "KeyNumbers" >> beam.Map(lambda number: (number, None))
        )
        packed = (
            records
            | f"Batch{kind.title()}{number}"
            >> beam.BatchElements(min_batch_size=PACKED, max_batch_size=PACKED)
            | f"Pack{kind.title()}{number}" >> beam.Map(pack, kind)
            for kind, collections in found.items()
            for number, records in enumerate(collections)
        )
        shares = tuple(packed) | "Packed" >> beam.Flatten() | "Share" >> beam.FlatMap(share, images)
        return (
            (numbers, shares)
            | "Shares" >> beam.Flatten()
            | "ByShard" >> beam.GroupByKey()
            | "WriteShard"
            >> beam.Map(
                lambda shard, images, **written: write_shard(
                    shard[0], filter(None, shard[1]), images, **written
                ),
                images,
                out=self.out,
            )
        )
