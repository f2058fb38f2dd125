"""Rows and rejects as shards of JSON lines, held against what was listed.

A shard is a share of the archive: ``histograms-RUN-00000-of-00003.jsonl`` has the rows of its masks
and ``rejected-RUN-00000-of-00003.jsonl`` those of its images that got none.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import apache_beam as beam

from model_build.errors import JobError
from pipeline.outputs.folder import HISTOGRAMS, REJECTED, OutputFolder, utf8
from pipeline.outputs.lock import check_claim
from pipeline.records import Reject, Row
from pipeline.storage import ends_the_job

IMAGES = 10_000  # about as many a shard: its rows are put in order in memory
SHARD = re.compile(rf"(?:{HISTOGRAMS}|{REJECTED})-(?:(.+)-)?\d+-of-\d+\.jsonl")
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


def run_of(shard: str) -> str | None:
    """The run that wrote a shard of this name; ``""`` of earlier versions, None if it is none."""
    found = SHARD.fullmatch(shard)
    return None if found is None else found[1] or ""


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


def write_shard(
    number: int, found: Mapping[str, Iterable], images: int, out: OutputFolder, lock: int
) -> Iterator[str]:
    """Writes a share of the archive: its rows and its rejects, lines in order.

    Args:
        found: its ``rows`` and ``rejects``, (image, line) each; paths of the images ``listed``; and
            lines of what was ``unlisted``.
        images: number of all images.
        lock: number of the run's lock.

    Yields:
        The names below OUT of both shards.

    Raises:
        JobError: an image has no outcome, or several; or another run has taken OUT over.
    """
    check_claim(out, lock)
    rows, rejects = list(found["rows"]), list(found["rejects"])
    if why := mismatch(found["listed"], (image for image, _ in (*rows, *rejects))):
        raise JobError(f"{why}; please report this bug")
    of = f"{out.run}-{number:05}-of-{shard_count(images):05}.jsonl"
    rejected = [*(line for _, line in rejects), *found["unlisted"]]
    for prefix, lines in ((HISTOGRAMS, [line for _, line in rows]), (REJECTED, rejected)):
        with ends_the_job():
            out.write(f"{prefix}-{of}", utf8("".join(f"{line}\n" for line in sorted(lines))))
        yield f"{prefix}-{of}"


class WriteShards(beam.PTransform):
    """Rows, rejects and what was listed → the names of the shards they were written to.

    The input is a dict of PCollections: ``rows``, ``rejects`` of images, paths of the images
    ``listed``, and rejects of what was ``unlisted``, which is no image. There is at least one shard
    of each kind, if empty.

    Args:
        lock: number of the run's lock.
    """

    def __init__(self, out: OutputFolder, lock: int):
        super().__init__()
        self.out, self.lock = out, lock

    def expand(self, found):
        images = beam.pvalue.AsSingleton(
            found["listed"] | "Count" >> beam.combiners.Count.Globally()
        )
        numbers = (
            found["listed"].pipeline
            | "Once" >> beam.Create([None])
            | "Numbers" >> beam.FlatMap(lambda _, images: range(shard_count(images)), images)
        )
        keyed = {
            "rows": found["rows"] | "KeyRows" >> beam.Map(_keyed, images),
            "rejects": found["rejects"] | "KeyRejects" >> beam.Map(_keyed, images),
            "listed": found["listed"] | "KeyListed" >> beam.Map(_keyed_image, images),
            "unlisted": found["unlisted"] | "KeyUnlisted" >> beam.Map(_keyed_line, images),
            "numbers": numbers | "KeyNumbers" >> beam.Map(lambda number: (number, None)),
        }
        return (
            keyed
            | "ByShard" >> beam.CoGroupByKey()
            | "WriteShard"
            >> beam.FlatMap(
                lambda shard, images, **written: write_shard(shard[0], shard[1], images, **written),
                images,
                out=self.out,
                lock=self.lock,
            )
        )


def _keyed_image(image: str, images: int) -> tuple[int, str]:
    return shard_of(image, images), image


def _keyed(record: Row | Reject, images: int) -> tuple[int, tuple[str, str]]:
    return shard_of(record.image, images), (record.image, line_of(record))


def _keyed_line(record: Reject, images: int) -> tuple[int, str]:
    return shard_of(record.image, images), line_of(record)
