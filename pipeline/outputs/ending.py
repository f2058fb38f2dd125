"""The end of a run: ``summary.json`` stands, then what it supersedes goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pipeline.outputs import journal, shards
from pipeline.outputs.claims import shard_names
from pipeline.outputs.folder import HISTOGRAMS, REJECTED, SUMMARY, OutputFolder
from pipeline.outputs.lock import check_claim, is_gone
from pipeline.storage import as_job_error


class Claimed(NamedTuple):
    """What a run has claimed.

    Attributes:
        lock: number of its lock.
        dead: names of runs that have ended without removing what they left.
        since: when, by the clock of OUT's disk or store, in seconds since 1970; None: not known.
    """

    lock: int
    dead: tuple[str, ...]
    since: float | None = None


def finish(
    content: dict[str, Any], out: OutputFolder, written: Iterable[str], claimed: Claimed
) -> dict[str, Any]:
    """Writes ``summary.json``, which names the run's shards, then removes what it supersedes.

    That is what this run and all that have ended have left. What another living run may still need
    is left alone.

    Args:
        content: of ``summary.json``.
        written: names below OUT of the run's shards.

    Raises:
        JobError: another run has taken OUT over, or it cannot be written.
    """
    check_claim(out, claimed.lock)
    mine = sorted(written)
    content = content | {"run": out.run, "shards": mine}
    with as_job_error():
        out.write_json(SUMMARY, content)
        left = dict(leftovers(out))
        ended = {out.run, *claimed.dead}
        ended |= {run for run in {*left.values(), *out.unfinished()} if is_gone(out, run)}
        # Another job may have ended here meanwhile, if the lock was taken away by force.
        named = {*mine, *(shard_names(out.read_json(SUMMARY)) or ())}
        for name, run in left.items():
            if (run in ended or not run) and name not in named:
                out.delete(name)
        out.clean_up(ended)
    return content


def leftovers(out: OutputFolder) -> Iterator[tuple[str, str]]:
    """Names below OUT of all shards and journals, and the run that each is of.

    That is ``""`` for shards of a version of this program that named none.
    """
    for prefix in (HISTOGRAMS, REJECTED):
        for file in out.files.starting_with(f"{out.path}/{prefix}-"):
            name = file.path[len(out.path) + 1 :]
            run = shards.run_of(name)
            if run is not None:
                yield name, run
    for name in journal.journals(out):
        yield name, journal.run_of(name)
