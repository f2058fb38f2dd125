"""System limits of a process: address space (``ulimit -v``) and threads.

Beyond them TensorFlow aborts the process, and Beam and gRPC wait for threads that never started. So
each step checks in advance that it has enough, and a thread that cannot start ends the process.
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
LOW_BYTES = 256 << 20  # bytes: with less left, imports fail with all kinds of errors
_M_ARENA_MAX = -8  # of mallopt(3)
_LIMITS = (
    (resource.RLIMIT_AS, "ulimit -v", 1 << 10),
    (resource.RLIMIT_DATA, "ulimit -d", 1 << 10),
    (resource.RLIMIT_NPROC, "ulimit -u", 1),
)


def address_space_left() -> int | None:
    """Returns the bytes of address space this process may still take; None without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(MEMORY.read_text(encoding="ascii").split()[0])
    except OSError:  # only Linux enforces the limit and has this file
        return None
    return max(limit - pages * resource.getpagesize(), 0)


def check_address_space(needed: int, purpose: str, remedy: str = "") -> None:
    """Checks that this process may take more address space.

    Args:
        needed: in bytes.
        purpose: the subject of the message: ``"TensorFlow"``.
        remedy: further advice beside raising the limit.

    Raises:
        JobError: too little is left.
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
    if left is None or not (left < LOW_BYTES or isinstance(error, MemoryError | ImportError)):
        return ""
    return f"`ulimit -v` leaves {left / 1e9:.1f} GB of address space: raise it and try again"


def adapt_to_limits() -> None:
    """Adapts a process of our own to its limits; a thread that cannot start ends it in one line.

    glibc reserves 64 MB of address space per thread, until none is left for another thread; if it
    is limited, all threads share a few such arenas
    (https://man7.org/linux/man-pages/man3/mallopt.3.html).
    """
    if address_space_left() is not None:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
    threading.Thread.start = _exiting_on_failure(threading.Thread.start)  # type: ignore[method-assign]


def _exiting_on_failure(start):
    """Wraps ``Thread.start`` so that it ends the process if the system starts no more threads.

    Beam and gRPC would wait for the thread for ever, as the exception is mostly raised in another
    thread and lost. The killed job can be resumed.
    """

    def started(thread: threading.Thread) -> None:
        try:
            start(thread)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and "new thread" not in str(error):
                raise  # it was already started
            message = f"fcn-beam: {thread_limit_hint()}; run the same command again to continue\n"
            with contextlib.suppress(OSError):
                os.write(2, message.encode())
            os._exit(1)

    return started


def thread_limit_hint() -> str:
    """Explains by the process's limits why no further thread can start."""
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
