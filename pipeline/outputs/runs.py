"""A run: its name, whether its process is alive, and whether it may still write.

Ctrl-C ends a job's call, but its threads in this process go on for a while. Once their run is
stopped they leave nothing half-written, and write nothing more.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

active: set[str] = set()  # runs that this process is at work on

_RUN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
_changed = threading.Condition()
_writes_in_progress: Counter[str] = Counter()
_stopped: set[str] = set()


class Stopped(Exception):
    """A write of a run that has been stopped."""


def new_run() -> str:
    """Returns a unique name for a run: its start time, for people, and six random digits."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"


def is_run(name: str) -> bool:
    """Whether :func:`new_run` may have made this name: only files of such names are removed."""
    return _RUN.fullmatch(name) is not None


# Writes


@contextlib.contextmanager
def writing(run: str) -> Iterator[None]:
    """Surrounds one write of a run.

    Raises:
        Stopped: the run has been stopped.
    """
    with _changed:
        if run in _stopped:
            raise Stopped(f"the run {run} has been stopped")
        _writes_in_progress[run] += 1
    try:
        yield
    finally:
        with _changed:
            _writes_in_progress[run] -= 1
            _changed.notify_all()


def stop_writes(run: str, seconds: float = 60.0) -> None:
    """Prevents further writes of a run, and waits for those in progress.

    Args:
        seconds: the longest wait.
    """
    with _changed:
        _stopped.add(run)
        _changed.wait_for(lambda: not _writes_in_progress[run], seconds)


# Processes


def this_process() -> dict[str, Any]:
    """Returns plain values that identify this process among those of all machines."""
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "processes": _namespace(),
        "process": os.getpid(),
        "began": _began(os.getpid()),
    }


def is_alive(recorded: dict[str, Any]) -> bool | None:
    """Whether a run's process still works on it; None if that cannot be decided on this machine.

    Args:
        recorded: the run's name as ``run``, and :func:`this_process` of its process.
    """
    here = this_process()
    if not here["boot"] or any(recorded.get(k) != here[k] for k in ("host", "boot", "processes")):
        return None
    began = _began(recorded.get("process", 0))
    if not began or began != recorded.get("began"):
        return False
    # A run of this very process may have failed without being able to record it.
    return recorded.get("process") != here["process"] or recorded.get("run") in tuple(active)


def _namespace() -> str:
    """The namespace of process numbers, which differs between containers (Linux)."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _began(process: Any) -> str:
    """When a process began, in ticks since the machine's boot (proc(5)); ``""`` if it has ended."""
    # The name, in brackets, may contain spaces; the state follows it, and the start is the 20th.
    fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
    # A process that has ended is listed until its parent has asked for its status.
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError):  # ValueError: a crafted record
        return ""
