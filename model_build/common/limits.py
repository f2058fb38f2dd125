"""Limits that the system sets to a process: of address space (``ulimit -v``) and of threads.

Past them TensorFlow ends the process by a signal, and Beam and gRPC wait for threads that have not
started. So what a step needs is asked for before, and a thread that cannot start ends the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import threading
from pathlib import Path

from model_build.common.errors import JobError

MEMORY = Path("/proc/self/statm")  # in pages; the first number is the address space
LITTLE = 256 << 20  # bytes of address space, with which imports fail by errors of any kind
_M_ARENA_MAX = -8  # of mallopt(3)
_LIMITS = (
    (resource.RLIMIT_AS, "ulimit -v", 1 << 10),
    (resource.RLIMIT_DATA, "ulimit -d", 1 << 10),
    (resource.RLIMIT_NPROC, "ulimit -u", 1),
)


def address_space_left() -> int | None:
    """Bytes of address space that this process may still take; None where there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(MEMORY.read_text(encoding="ascii").split()[0])
    except OSError:  # only Linux enforces the limit and has this file
        return None
    return max(limit - pages * resource.getpagesize(), 0)


def check_address_space(needed: int, purpose: str, remedy: str = "") -> None:
    """Checks that this process may take so much more address space.

    Args:
        needed: in bytes.
        purpose: what needs it, the subject of the message: ``"TensorFlow"``.
        remedy: what else helps than to raise the limit.

    Raises:
        JobError: it may not.
    """
    left = address_space_left()
    if left is not None and left < needed:
        raise JobError(
            f"{purpose} needs {needed / 1e9:.1f} GB of address space, but `ulimit -v` leaves "
            f"{left / 1e9:.1f} GB; raise it (`ulimit -v unlimited`){remedy}"
        )


def memory_limit_hint(error: Exception) -> str:
    """Explains an unexpected error by a lack of memory; returns "" where that is unlikely."""
    left = address_space_left()
    if left is None or not (left < LITTLE or isinstance(error, MemoryError | ImportError)):
        return ""
    return f"`ulimit -v` leaves {left / 1e9:.1f} GB of address space: raise it and try again"


def stay_within() -> None:
    """Makes this process, which is ours alone, get on with its limits or end by one line.

    glibc gives each thread 64 MB of address space as long as there is any, until none is left for
    another thread; where it is limited, all of them share a few such arenas
    (https://man7.org/linux/man-pages/man3/mallopt.3.html).
    """
    if address_space_left() is not None:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
    threading.Thread.start = _starting(threading.Thread.start)  # type: ignore[method-assign]


def _starting(start):
    """``Thread.start``, which ends the process where the system starts no more threads.

    Those who wait for the thread, in Beam and gRPC, would wait for ever: what it raises is mostly
    raised in another thread, which nobody hears of. What a killed job leaves serves the next one.
    """

    def started(thread: threading.Thread) -> None:
        try:
            start(thread)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and "new thread" not in str(error):
                raise  # it was started before
            message = f"fcn-beam: {no_thread()}; run the same command again to continue\n"
            with contextlib.suppress(OSError):
                os.write(2, message.encode())
            os._exit(1)

    return started


def no_thread() -> str:
    """Why no other thread can start, as far as the process's limits say."""
    found = [
        f"{name} is {limit // unit}"
        for kind, name, unit in _LIMITS
        if (limit := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY
    ]
    limits = f" ({', '.join(found)})" if found else ""
    return (
        f"the system starts no more than {threading.active_count()} threads for this process"
        f"{limits}; raise its limits of memory and processes, or use fewer --workers"
    )
