"""Peak memory of a command and all processes that it starts, also those that outlive their parents.

Linux only. Memory that processes share counts once (``Pss`` in Linux, Documentation/filesystems/
proc.rst), as actors and workers share a lot.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

PROC = Path("/proc")
INTERVAL = 2.0  # seconds between two looks: each takes time from what is measured
PATIENCE = 10.0  # seconds for what a command leaves behind to end by itself
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Makes this process the parent of whatever its children leave behind, as Ray does."""
    if PROC.is_dir():
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(ancestor: int) -> list[int]:
    """The processes below a process."""
    children = defaultdict(list)
    for path in PROC.glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold anything.
            parent = path.read_text(errors="replace").rpartition(")")[2].split()[1]
        except OSError:  # it has ended
            continue
        children[int(parent)].append(int(path.parent.name))
    found = [ancestor]
    for pid in found:
        found += children[pid]
    return found[1:]


def resident(pid: int) -> int:
    """Bytes that a process holds of memory, its part of what is shared; 0 once it has ended."""
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(match[1]) if match else 0


def run(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str, int]:
    """Runs a command in a folder to its end; :func:`adopt_orphans` first.

    Returns:
        Its status, the end of what it printed, and the bytes it held at most.
    """
    with watched([os.getpid()]) as peak:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    return done.returncode, done.stdout[-2000:], peak[0]


@contextlib.contextmanager
def watched(processes: Sequence[int], interval: float = INTERVAL) -> Iterator[list[int]]:
    """The most that all below some processes hold together while its block runs, in bytes."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(interval):
            below = [one for process in processes for one in descendants(process)]
            peak[0] = max(peak[0], sum(map(resident, below)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def clear() -> None:
    """Waits for processes that commands have left behind, then ends them before the next one.

    It is for a process that has no other children, and has called :func:`adopt_orphans`.
    """
    deadline = time.monotonic() + PATIENCE
    while left := descendants(os.getpid()):
        if time.monotonic() > deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.1)
