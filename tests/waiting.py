"""Waits of tests: for a condition, never for a length of time.

A deadline only ends a wait whose condition never comes true. It is in this one place, so long that
no slow machine reaches it, and below pytest's own limit for a test, so that the failure says what
was missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

DEADLINE = 600.0  # seconds

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, pause: float = 0.02) -> T:
    """Calls a function again and again until it returns something true, and returns that.

    Args:
        condition: may raise to end the wait early, as when the job that it watches has ended.
        what: the condition in words, for the failure: ``"a mask has been written"``.
        pause: seconds between two calls.

    Raises:
        AssertionError: the deadline has passed.
    """
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {DEADLINE:g} s in vain until {what}"
        time.sleep(pause)
    return found
