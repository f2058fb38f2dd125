"""A process of some machine, told apart from all others: does it still run?"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """What tells this process from all others, as plain values."""
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "processes": _namespace(),
        "process": os.getpid(),
        "began": _began(os.getpid()),
    }


def lives(noted: dict[str, Any]) -> bool | None:
    """Whether a process still runs, by what it has noted of itself; None if nobody can tell here.

    Args:
        noted: see :func:`this_process`.
    """
    here = this_process()
    if not here["boot"] or any(noted.get(k) != here[k] for k in ("host", "boot", "processes")):
        return None
    began = _began(noted.get("process", 0))
    return bool(began) and began == noted.get("began")


def _namespace() -> str:
    """The namespace of process numbers, which differs between containers (Linux)."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _began(process: Any) -> str:
    """When a process began, in ticks since the machine's boot (proc(5)); ``""`` if it is gone."""
    # The name, in brackets, may hold spaces; the state comes first after it, the 20th is the one.
    fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
    # One that has ended stays listed until its parent asks for it, which some never do.
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError):  # the latter of a crafted note
        return ""
