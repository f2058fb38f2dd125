"""Reads the progress of the last run from its output folder, on any machine."""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from model_build.common.console import visible
from model_build.common.errors import JobError, UserError
from pipeline.outputs import lock
from pipeline.outputs.folder import RUN, SUMMARY, OutputFolder, parse_output
from pipeline.outputs.journal import JournalCounter
from pipeline.outputs.summary import Summary
from pipeline.runners import remote
from pipeline.storage import Files, describe_error, parse_options, remedy


class Status(NamedTuple):
    """The progress of a run.

    Attributes:
        out: the output folder.
        summary: of a finished run, else None.
        holder: the process or job of an unfinished run, and its start; ``""`` if it has stopped.
        masks: number of masks made so far, by the journal.
        rejects: number of rejects so far, by the journal.
        seconds: since the start, by the clocks of that machine and this one.
    """

    out: str
    summary: Summary | None
    holder: str
    masks: int
    rejects: int
    seconds: float

    def text(self) -> str:
        """Returns the lines to print."""
        out = visible(self.out)
        if self.summary is not None:
            return f"{out}: done\n{self.summary.table()}"
        rows = [f"{'masks':<12}{self.masks}", f"{'rejected':<12}{self.rejects}"]
        if not self.holder:
            return "\n".join([f"{out}: stopped; run the same command again to continue", *rows])
        rate = (self.masks + self.rejects) / self.seconds
        rows.append(f"{'time':<12}{self.seconds:.0f} s, {rate:.2f} images/s")
        return "\n".join([f"{out}: running ({visible(self.holder)})", *rows])


def status(output: str, storage_options: Mapping[str, str]) -> Status:
    """Reads an output folder; see :func:`pipeline.outputs.lock.holder` for how long that takes.

    A run writes its journal about every half minute or thousand images.

    Raises:
        UserError: no run has written to the folder.
        JobError: it cannot be read at the moment.
    """
    files = Files(parse_options(storage_options))
    out = OutputFolder(parse_output(output, files), files)
    try:
        recorded = out.read_json(RUN)
        run = recorded.get("run") if isinstance(recorded, dict) else None
        if not isinstance(run, str):
            raise UserError(f"{out.path}: no job has written there; check the path")
        out = replace(out, run=run)
        held = lock.holder(out, remote.is_running)
        masks, rejects = JournalCounter(out)()
        # Last, as a run ends by writing it and removing the journal.
        content = out.read_json(SUMMARY)
    except OSError as error:
        raise JobError(
            f"{describe_error(error)}: cannot read the output folder; {remedy(error)}"
        ) from error
    summary = None
    if isinstance(content, dict) and content.get("run") == run:
        summary = Summary.from_json(out.path, content, {})
    holder = "" if held is None else lock.describe_holder(held)
    return Status(out.path, summary, holder, masks, rejects, max(time.time() - began(run), 1.0))


def began(run: str) -> float:
    """When a run began, in seconds since 1970, by its name."""
    match = re.match(r"\d{8}T\d{6}Z", run)
    return calendar.timegm(time.strptime(match[0], "%Y%m%dT%H%M%SZ")) if match else time.time()
