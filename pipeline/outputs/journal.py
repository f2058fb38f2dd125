"""Rows written to ``OUT/journal/`` during a run, so that the next run knows of them.

The journal serves to continue, and to show how far a run has come. Shards are made of the graph's
own rows.
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

ROWS_PER_FILE = 1000
MAX_WAIT_SECONDS = 30.0  # of a row, before it is written with others
_FILE = re.compile(rf"{JOURNAL}/[\w-]+\.\w+\.jsonl")


class Journal:
    """Rows and rejects of one worker, on their way to the journal's files; not thread-safe.

    Files are written whole, under names that no other worker or run uses. Nothing is written to an
    OUT that no run has claimed.
    """

    def __init__(self, out: OutputFolder):
        self._out = out
        self._lines: list[str] = []
        self._since = 0.0

    def add(self, records: Iterable[Row | Reject]) -> None:
        """Adds rows of finished masks and rejects; writes a file if there are enough, or old ones.

        Raises:
            JobError: the file cannot be written.
        """
        for record in records if self._out.run else ():
            if not self._lines:
                self._since = time.monotonic()
            self._lines.append(json.dumps(record.to_json()))
        full = len(self._lines) >= ROWS_PER_FILE
        if full or (self._lines and time.monotonic() > self._since + MAX_WAIT_SECONDS):
            self.flush()

    def flush(self) -> None:
        """Writes what has been added.

        Raises:
            JobError: it cannot be written.
        """
        if self._lines:
            name = f"{JOURNAL}/{self._out.run}.{uuid.uuid4().hex}.jsonl"
            with as_job_error():
                self._out.write(name, utf8("".join(f"{line}\n" for line in self._lines)))
            self._lines = []


def journals(out: OutputFolder) -> Iterator[str]:
    """Yields names below OUT of the journal's files."""
    for file in out.files.starting_with(f"{out.path}/{JOURNAL}/"):
        name = file.path[len(out.path) + 1 :]
        if _FILE.fullmatch(name):  # others are another program's, and may not even be UTF-8
            yield name


class JournalCounter:
    """Counts the images that a run has journalled; each file is read once.

    An image that two workers have journalled, as one of them was lost, counts once.
    """

    def __init__(self, out: OutputFolder):
        self._out = out
        self._seen: set[str] = set()
        self._done: tuple[set[int], set[int]] = set(), set()  # hashes, as names would be many MB

    def __call__(self) -> tuple[int, int]:
        """Returns the numbers of images with a mask, and of those with a reject.

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
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a damaged line
                    record = parse_json(line)
                    self._done["mask" not in record].add(hash(record["image"]))
            self._seen.add(name)
        masks, rejects = self._done
        return len(masks), len(rejects - masks)


def run_of(name: str) -> str:
    """Returns the run that wrote a file of the journal."""
    return name.removeprefix(f"{JOURNAL}/").partition(".")[0]


def read_rows(data: bytes) -> Iterator[Row]:
    """Yields the rows of masks in a journal file or a shard, including those that rejects keep.

    Other rejects are skipped, and so are damaged lines: the mask itself is read if it has no row.
    """
    for line in data.splitlines():
        try:
            value = parse_json(line)
            kept = isinstance(value, dict) and "row" in value
            yield Row.from_json(value["row"] if kept else value)
        except ValueError:
            continue
