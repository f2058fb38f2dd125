"""A progress bar on terminals only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol


class Advance(Protocol):
    """Updates a bar: how much is done, the total (None if unknown), and a short note."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None: ...


def no_progress(done: int, total: int | None, note: str = "") -> None:
    """An :class:`Advance` that does nothing."""


@contextlib.contextmanager
def progress_bar(task: str, *, of_bytes: bool = False) -> Iterator[Advance]:
    """Shows a bar while its block runs, if standard error is a terminal.

    Args:
        task: the text before the bar.
        of_bytes: count bytes, shown in kB, MB and with a rate.

    Yields:
        The function that updates the bar, callable from any thread.
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
