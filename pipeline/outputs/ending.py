"""The end of a run: ``summary.json`` stands, then what it supersedes goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pipeline.outputs import journal, shards
from pipeline.outputs.folder import HISTOGRAMS, REJECTED, SUMMARY, OutputFolder
from pipeline.outputs.lock import check_claim
from pipeline.storage import ends_the_job


class Claimed(NamedTuple):
    """What a run has claimed.

    Attributes:
        lock: number of its lock.
        dead: names of runs that have ended without removing what they left.
        shards: names below OUT of those that its own will supersede.
    """

    lock: int
    dead: tuple[str, ...]
    shards: tuple[str, ...]


def finish(
    content: dict[str, Any], out: OutputFolder, written: Iterable[str], claimed: Claimed
) -> dict[str, Any]:
    """Writes ``summary.json``, which names the run's shards, then removes what it supersedes.

    What another living run may still need is left alone: only this run's own files go, those of
    runs that are dead, and the shards of jobs that have ended.

    Args:
        content: of ``summary.json``.
        written: names below OUT of the run's shards.

    Raises:
        JobError: another run has taken OUT over, or it cannot be written.
    """
    check_claim(out, claimed.lock)
    mine = sorted(written)
    content = content | {"run": out.run, "shards": mine}
    with ends_the_job():
        # Another job may have ended here meanwhile, if the lock was taken away by force.
        former = out.read_json(SUMMARY)
        if isinstance(former, dict):
            superseded = (*claimed.shards, *map(str, former.get("shards", ())))
            claimed = claimed._replace(shards=superseded)
        out.write_json(SUMMARY, content)
        for name in leftovers(out, mine, claimed):
            out.delete(name)
        out.clean_up([*claimed.dead, out.run])
    return content


def leftovers(out: OutputFolder, mine: list[str], claimed: Claimed) -> Iterator[str]:
    """Names below OUT of what a run may remove at its end: superseded shards, and journals."""
    ended = {*claimed.dead, out.run}
    for prefix in (HISTOGRAMS, REJECTED):
        for file in list(out.files.starting_with(f"{out.path}/{prefix}-")):
            name = file.path[len(out.path) + 1 :]
            run = shards.run_of(name)
            # Those without a run are of a version of this program that named none.
            superseded = name in claimed.shards or run in ended or run == ""
            if run is not None and superseded and name not in mine:
                yield name
    for name in list(journal.journals(out)):
        if journal.run_of(name) in ended:
            yield name
