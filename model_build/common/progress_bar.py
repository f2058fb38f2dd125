"""A progress bar on a terminal; nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol


class Advance(Protocol):
    """Tells a bar how much is done, of how much (None: not known yet), and a word on it."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None: ...


def no_progress(done: int, total: int | None, note: str = "") -> None:
    """The :class:`Advance` of no bar."""


@contextlib.contextmanager
def bar(task: str, *, of_bytes: bool = False) -> Iterator[Advance]:
    """Shows a bar on standard error while its block runs, if that is a terminal.

    Args:
        task: what is going on, shown before the bar.
        of_bytes: bytes are counted, shown in kB, MB and a rate.

    Yields:
        The function to call as the task goes on, from any thread.
    """
    if not sys.stderr.isatty():
        yield no_progress
        return
    from rich import progress
    from rich.console import Console

    counts: list[progress.ProgressColumn] = (
        [progress.DownloadColumn(), progress.TransferSpeedColumn()]
        if of_bytes
        else [progress.MofNCompleteColumn()]
    )
    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        *counts,
        progress.TextColumn("{task.fields[note]}", markup=False),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as shown:
        number = shown.add_task(task, total=None, note="")

        def advance(done: int, total: int | None, note: str = "") -> None:
            shown.update(number, completed=done, total=total, note=note)

        yield advance
