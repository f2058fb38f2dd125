"""Trying again what a store could not do just now."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 60.0  # seconds after which no further attempt begins
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 16.0  # seconds
TRANSIENT_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
# Connections that were reset, refused or timed out, by the names that the clients of the stores
# give them: their packages are optional, so their classes are not at hand.
TRANSIENT_NAMES = frozenset(
    ("ClientConnectionError", "ClientConnectorError", "ClientOSError", "ClientPayloadError")
    + ("ServerDisconnectedError", "ServerTimeoutError", "ConnectionTimeoutError")
    + ("EndpointConnectionError", "ConnectionClosedError", "ConnectTimeoutError")
    + ("ReadTimeoutError", "IncompleteReadError", "HTTPClientError", "ProxyError")
    + ("ServiceRequestError", "ServiceResponseError", "TransportError", "ResponseStreamingError")
)


def with_retries(operation: Callable[[], T], deadline: float | None = None) -> T:
    """Runs an operation; a transient failure is tried again after a pause.

    Pauses double and are drawn at random up to that ("full jitter"), so that many workers do not
    come back at once. What the clients try again by themselves counts inside the deadline.

    Args:
        deadline: seconds after which no further attempt begins; by default :data:`DEADLINE`.

    Raises:
        Exception: the operation's last one; a permanent one at once.
    """
    end = time.monotonic() + (DEADLINE if deadline is None else deadline)
    longest = FIRST_PAUSE
    while True:
        try:
            return operation()
        except Exception as error:
            pause = random.uniform(0, longest)
            if not is_transient(error) or time.monotonic() + pause > end:
                raise
        time.sleep(pause)
        longest = min(2 * longest, LONGEST_PAUSE)


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed: 429, 5xx, a reset or a time-out; not 403 or 404."""
    for cause in causes(error):
        if isinstance(cause, FileNotFoundError | PermissionError | FileExistsError):
            return False
        status = status_of(cause)
        if status is not None:
            return status in TRANSIENT_STATUS
        if isinstance(cause, ConnectionError | TimeoutError):
            return True
        if not TRANSIENT_NAMES.isdisjoint(kind.__name__ for kind in type(cause).__mro__):
            return True
    return False


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception of a store's client carries, None if it has none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    for name in ("code", "status", "status_code"):
        try:
            status = int(getattr(error, name))
        except (AttributeError, TypeError, ValueError):
            continue
        if 100 <= status < 600:
            return status
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, what caused it, what caused that, and so on."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
