"""A progress bar on a terminal; nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Advance = Callable[[int, int], None]


@contextlib.contextmanager
def bar(task: str, *, of_bytes: bool = False) -> Iterator[Advance]:
    """Shows a bar on standard error while its block runs.

    Yields:
        A function that is told how much is done, of how much.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich import progress
    from rich.console import Console

    counts: list[progress.ProgressColumn] = (
        [progress.DownloadColumn(), progress.TransferSpeedColumn()]
        if of_bytes
        else [progress.MofNCompleteColumn()]
    )
    columns = progress.TextColumn("{task.description}"), progress.BarColumn(), *counts
    with progress.Progress(
        *columns, progress.TimeRemainingColumn(), console=Console(stderr=True)
    ) as shown:
        number = shown.add_task(task, total=None)
        yield lambda done, total: shown.update(number, completed=done, total=total)
