"""A run that has been stopped writes no more.

Ctrl-C ends a job's call, but the threads that work for it in this process go on for a while. Once
their run is stopped nothing of theirs is half-written, and nothing is written later.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

_changed = threading.Condition()
_under_way: Counter[str] = Counter()
_stopped: set[str] = set()


class Stopped(Exception):
    """A write of a run that has been stopped."""


@contextlib.contextmanager
def passing(run: str) -> Iterator[None]:
    """A write of a run, while its block runs.

    Raises:
        Stopped: the run has been stopped.
    """
    with _changed:
        if run in _stopped:
            raise Stopped(f"the run {run} has been stopped")
        _under_way[run] += 1
    try:
        yield
    finally:
        with _changed:
            _under_way[run] -= 1
            _changed.notify_all()


def stop(run: str, seconds: float = 60.0) -> None:
    """Lets no further write of a run begin, and waits for those under way.

    Args:
        seconds: how long to wait at most.
    """
    with _changed:
        _stopped.add(run)
        _changed.wait_for(lambda: not _under_way[run], seconds)
