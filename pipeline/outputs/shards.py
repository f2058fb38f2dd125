"""Rows and rejects in shards of JSON lines, ``PREFIX-00000-of-00001.jsonl`` and so on."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable

import apache_beam as beam

from pipeline.outputs.folder import HISTOGRAMS, REJECTED, OutputFolder, utf8
from pipeline.records import Reject, Row, as_json

ROWS = 100_000  # about as many a shard
SHARD = re.compile(rf"({HISTOGRAMS}|{REJECTED})-\d+-of-\d+\.jsonl")


def shard_count(rows: int) -> int:
    """How many shards so many rows make; one where there are none."""
    return max(1, -(-rows // ROWS))


def keyed_line(record: Row | Reject, rows: int) -> tuple[int, str]:
    """A record's line under the number of its shard, which its image decides."""
    line = json.dumps(as_json(record))
    return zlib.crc32(record.image.encode("utf-8", "surrogateescape")) % shard_count(rows), line


def write_shard(shard: tuple[int, Iterable[str]], prefix: str, rows: int, out: OutputFolder) -> str:
    """Writes a shard, its lines in order; returns its name below OUT."""
    number, lines = shard
    name = f"{prefix}-{number:05}-of-{shard_count(rows):05}.jsonl"
    out.write(name, utf8("".join(f"{line}\n" for line in sorted(lines))))
    return name


class WriteShards(beam.PTransform):
    """Records → the names of the shards they were written to. There is at least one, if empty."""

    def __init__(self, prefix: str, out: OutputFolder):
        super().__init__()
        self.prefix, self.out = prefix, out

    def expand(self, records):
        rows = beam.pvalue.AsSingleton(records | "Count" >> beam.combiners.Count.Globally())
        lines = records | "ToLines" >> beam.Map(keyed_line, rows)
        empty = (
            records.pipeline
            | "Once" >> beam.Create([None])
            | "EachShard" >> beam.FlatMap(lambda _, rows: range(shard_count(rows)), rows)
            | "WithoutLines" >> beam.Map(lambda number: (number, None))
        )
        return (
            {"lines": lines, "empty": empty}
            | "ByShard" >> beam.CoGroupByKey()
            | "Lines" >> beam.MapTuple(lambda number, found: (number, found["lines"]))
            | "WriteShard" >> beam.Map(write_shard, self.prefix, rows, self.out)
        )


def stale_shards(out: OutputFolder, current: Iterable[str]) -> list[str]:
    """Names below OUT of shards that earlier runs have left."""
    stands = set(current)
    found = [
        file.path[len(out.path) + 1 :]
        for prefix in (HISTOGRAMS, REJECTED)
        for file in out.files.starting_with(f"{out.path}/{prefix}-")
    ]
    return [name for name in found if SHARD.fullmatch(name) and name not in stands]
