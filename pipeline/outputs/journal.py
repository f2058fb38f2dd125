"""Rows on their way: put into ``OUT/journal/`` as a run goes, so that the next one knows of them.

The journal serves going on, and telling how far a run is. The shards come from the graph's own
rows.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
import uuid
from collections.abc import Iterable, Iterator

from pipeline.outputs.folder import JOURNAL, OutputFolder, parse_json, utf8
from pipeline.records import Reject, Row
from pipeline.storage import as_job_error

ROWS = 1000  # a file, about
SECONDS = 30.0  # that a row waits, about
_FILE = re.compile(rf"{JOURNAL}/[\w-]+\.\w+\.jsonl")


class Journal:
    """What one worker has done since it last put a file; not thread-safe.

    Files are put whole, under names that no other worker and no other run uses. An OUT that no run
    has claimed gets none.
    """

    def __init__(self, out: OutputFolder):
        self._out = out
        self._lines: list[str] = []
        self._since = 0.0

    def add(self, records: Iterable[Row | Reject]) -> None:
        """Takes rows of masks that stand and rejects; puts a file where it is time."""
        for record in records if self._out.run else ():
            if not self._lines:
                self._since = time.monotonic()
            self._lines.append(json.dumps(record.to_json()))
        if len(self._lines) >= ROWS or (self._lines and time.monotonic() > self._since + SECONDS):
            self.flush()

    def flush(self) -> None:
        """Puts what has been taken; raises JobError where it cannot be put."""
        if self._lines:
            name = f"{JOURNAL}/{self._out.run}.{uuid.uuid4().hex}.jsonl"
            with as_job_error():
                self._out.write(name, utf8("".join(f"{line}\n" for line in self._lines)))
            self._lines = []


def journals(out: OutputFolder) -> Iterator[str]:
    """Names below OUT of the journal's files."""
    for file in out.files.starting_with(f"{out.path}/{JOURNAL}/"):
        name = file.path[len(out.path) + 1 :]
        if _FILE.fullmatch(name):  # others are somebody else's, and need not even be UTF-8
            yield name


class Journalled:
    """How many images a run has journalled; each file is read once.

    An image that two workers have journalled, as one of them was lost, is one.
    """

    def __init__(self, out: OutputFolder):
        self._out = out
        self._seen: set[str] = set()
        self._done: tuple[set[int], set[int]] = set(), set()  # hashes, as names would be many MB

    def __call__(self) -> tuple[int, int]:
        """Numbers of images with a mask, and of those with a reject.

        Raises:
            OSError: the journal cannot be read.
        """
        for name in journals(self._out):
            if name in self._seen or run_of(name) != self._out.run:
                continue
            try:
                lines = self._out.files.read(f"{self._out.path}/{name}").splitlines()
            except FileNotFoundError:  # the run has just ended
                continue
            for line in lines:
                with contextlib.suppress(ValueError, KeyError, TypeError):  # none of ours
                    record = parse_json(line)
                    self._done["mask" not in record].add(hash(record["image"]))
            self._seen.add(name)
        masks, rejects = self._done
        return len(masks), len(rejects - masks)


def run_of(name: str) -> str:
    """The run that a journal's file is of."""
    return name.removeprefix(f"{JOURNAL}/").partition(".")[0]


def read_rows(data: bytes) -> Iterator[Row]:
    """The rows of masks in a journal's file or a shard, those that rejects keep among them.

    Other rejects are passed over, and so are lines of another form: a mask without a row is looked
    at.
    """
    for line in data.splitlines():
        try:
            value = parse_json(line)
            kept = isinstance(value, dict) and "row" in value
            yield Row.from_json(value["row"] if kept else value)
        except ValueError:
            continue
