"""Memory that is free, given back to the system."""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """Gives back what glibc keeps of freed memory, as of the graphs that a network was made from.

    Other systems' libraries have no such call, nor Musl; there it does nothing
    (https://man7.org/linux/man-pages/man3/malloc_trim.3.html).
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
