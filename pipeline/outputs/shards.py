"""Rows and rejects as sharded JSON lines, checked against the listed images.

A shard covers a part of the archive: ``histograms-RUN-00000-of-00003.jsonl`` has the rows of its
masks, and ``rejected-RUN-00000-of-00003.jsonl`` those of its images without one.
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

IMAGES_PER_SHARD = 10_000  # about: its rows are sorted in memory
BUCKETS = 1024  # of images by their paths; a shard is a range of buckets
RECORDS_PER_BATCH = 4000  # that are packed at once, at most
NAMES_SHOWN = 3  # in a message

# See WriteShards.
KINDS = LISTED, ROWS, KEPT, REJECTS, UNLISTED = "listed", "rows", "kept", "rejects", "unlisted"

Pack = tuple[str, bytes]  # a kind, and compressed lines of that kind


def shard_count(images: int) -> int:
    """Returns the number of shards for a number of images; at least 1, at most a bucket each."""
    return min(max(1, -(-images // IMAGES_PER_SHARD)), BUCKETS)


def bucket_of(image: str) -> int:
    """Returns the bucket of an image, which only its path decides."""
    return zlib.crc32(image.encode("utf-8", "surrogateescape")) % BUCKETS


def shard_of(bucket: int, images: int) -> int:
    """Returns the number of a bucket's shard.

    Args:
        images: number of all images.
    """
    return bucket * shard_count(images) // BUCKETS


def line_of(record: Row | Reject) -> str:
    """Returns a record's line, without its line end."""
    return json.dumps(record.to_json())


def pack(records: Iterable[Row | Reject | str], kind: str) -> Iterator[tuple[int, Pack]]:
    """Packs the lines of records by bucket: this crosses shuffles, a third or so of the lines.

    Args:
        records: paths of images if they were ``listed``.
        kind: one of :data:`KINDS`.
    """
    lines = defaultdict(list)
    for record in records:
        if isinstance(record, str):
            lines[bucket_of(record)].append(json.dumps({"image": record}))
        else:
            lines[bucket_of(record.image)].append(line_of(record))
    for bucket, of_bucket in lines.items():
        yield bucket, (kind, zlib.compress("\n".join(of_bucket).encode("ascii")))


def unpack(data: bytes) -> list[str]:
    """Returns the lines that :func:`pack` has compressed."""
    return zlib.decompress(data).decode("ascii").split("\n")


def mismatch(listed: Iterable[str], outcomes: Iterable[str]) -> str:
    """Describes images that do not have exactly one outcome; ``""`` if all do.

    Args:
        listed: paths of images; a repeated one is one image.
        outcomes: the image of each row and each reject.
    """
    images, counts = set(listed), Counter(outcomes)
    complaints = (
        ("have neither a mask nor a reject", sorted(images - counts.keys())),
        ("have more than one", sorted(image for image, n in counts.items() if n > 1)),
        ("have one but were not listed", sorted(counts.keys() - images)),
    )
    return "; ".join(
        f"{len(names)} images {complaint}: {', '.join(names[:NAMES_SHOWN])}"
        f"{', …' * (len(names) > NAMES_SHOWN)}"
        for complaint, names in complaints
        if names
    )


class Shard(NamedTuple):
    """A shard that was written.

    Attributes:
        names: of its two files, below OUT.
        tally: of its rows and rejects.
    """

    names: tuple[str, str]
    tally: Tally


def write_shard(number: int, packs: Iterable[Pack], images: int, out: OutputFolder) -> Shard:
    """Writes a shard: its rows and its rejects as sorted lines.

    Args:
        images: number of all images.

    Raises:
        JobError: an image has no outcome, or several; or another run has taken OUT over.
    """
    check_claim(out)
    lines: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for kind, data in packs:
        lines[kind] += unpack(data)
    listed = [json.loads(line)["image"] for line in lines[LISTED]]
    outcomes: list[str] = []
    tally = sum_tallies(
        tally for kind in KINDS[1:] for tally in _tallies(kind, lines[kind], outcomes)
    )
    if why := mismatch(listed, outcomes):
        raise JobError(f"{why}; please report this bug")
    of = f"{out.run}-{number:05}-of-{shard_count(images):05}.jsonl"
    names = f"{HISTOGRAMS}-{of}", f"{REJECTED}-{of}"
    for name, kinds in zip(names, ((ROWS, KEPT), (REJECTS, UNLISTED)), strict=True):
        in_order = sorted(line for kind in kinds for line in lines[kind])
        with as_job_error():
            out.write(name, utf8("".join(f"{line}\n" for line in in_order)))
    return Shard(names, tally)


def _tallies(kind: str, lines: Iterable[str], outcomes: list[str]) -> Iterator[Tally]:
    """Tallies lines of one kind, and adds their images to the outcomes."""
    for line in lines:
        value = json.loads(line)
        if kind != UNLISTED:
            outcomes.append(value["image"])
        if kind in (REJECTS, UNLISTED):
            yield tally_reject(Reject.from_json(value))
            continue
        row = Row.from_json(value)
        yield tally_row(row)
        if kind == KEPT:
            yield tally_kept(row)


class WriteShards(beam.PTransform):
    """Rows, rejects and listed images → :class:`Shard`.

    The input is a dict of :data:`KINDS`, each a tuple of PCollections: paths of the images
    ``listed``; ``rows`` of masks that this run made, and of those ``kept`` of earlier runs;
    ``rejects`` of images, and of ``unlisted`` folders, which are no images. They are packed in the
    step that makes them, and flattened only then. There is at least one shard, perhaps an empty
    one.
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
            | "Numbers"
            >> beam.FlatMap(
                lambda _, images: dict.fromkeys(range(shard_count(images))).items(), images
            )
        )
        packs = (
            records
            | f"Batch{kind.title()}{number}"
            >> beam.BatchElements(RECORDS_PER_BATCH, RECORDS_PER_BATCH)
            | f"Pack{kind.title()}{number}" >> beam.FlatMap(pack, kind)
            for kind, collections in found.items()
            for number, records in enumerate(collections)
        )
        numbered = (
            tuple(packs)
            | "Packs" >> beam.Flatten()
            | "NumberShards"
            >> beam.Map(lambda packed, images: (shard_of(packed[0], images), packed[1]), images)
        )
        return (
            (numbers, numbered)
            | "Shards" >> beam.Flatten()
            | "ByShard" >> beam.GroupByKey()
            | "WriteShard"
            >> beam.Map(
                lambda shard, *others: write_shard(shard[0], filter(None, shard[1]), *others),
                images,
                self.out,
            )
        )
