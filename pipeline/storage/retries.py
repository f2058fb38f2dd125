"""Retries of transient errors."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pipeline.storage.stores.object_store import ObjectStore

T = TypeVar("T")

DEADLINE = 60.0  # seconds after which no further attempt begins
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 16.0  # seconds
AIOHTTP_ERRORS = ("ClientConnectionError", "ClientPayloadError")  # of most stores' clients
TRANSIENT_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))


def with_retries(operation: Callable[[], T], store: ObjectStore) -> T:
    """Runs an operation on a store, and repeats it after a transient error.

    The limits of the pauses double, and each pause is random up to its limit ("full jitter"), so
    that many workers do not return at once. Retries by the client itself count in the deadline.

    Raises:
        Exception: the last error of the operation; a permanent one at once.
    """
    end = time.monotonic() + DEADLINE
    longest = FIRST_PAUSE
    while True:
        try:
            return operation()
        except Exception as error:
            pause = random.uniform(0, longest)
            if not is_transient(error, store) or time.monotonic() + pause > end:
                raise
        time.sleep(pause)
        longest = min(2 * longest, LONGEST_PAUSE)


def is_transient(error: BaseException, store: ObjectStore) -> bool:
    """Returns whether another attempt can succeed: after 429, 5xx, a reset or a time-out."""
    for cause in causes(error):
        if isinstance(cause, FileNotFoundError | PermissionError | FileExistsError):
            return False
        status = store.status_of(cause)
        if status is not None:
            return status in TRANSIENT_STATUS
        if isinstance(cause, ConnectionError | TimeoutError):
            return True
        if not store.error_names(cause).isdisjoint(AIOHTTP_ERRORS + store.transient_errors):
            return True
    return False


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception, its cause, the cause of that, and so on."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
