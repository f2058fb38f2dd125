"""Images that got no mask: failures are data, counted by cause and listed."""

from __future__ import annotations

from typing import NamedTuple

from model_build.errors import first_line

STAGES = ("list", "read", "decode", "infer", "write")


class Reject(NamedTuple):
    """One image that got no mask.

    Attributes:
        image: its path or URI.
        stage: one of :data:`STAGES`.
        error: the cause in a word or two, for counting: an exception's class.
        detail: the cause in a sentence.
    """

    image: str
    stage: str
    error: str
    detail: str


def rejected(image: str, stage: str, error: BaseException) -> Reject:
    """A :class:`Reject` for an exception; only the first line of its message is kept."""
    return Reject(image, stage, type(error).__name__, first_line(error)[:500])


def allowed_rejects(limit: str | None, images: int) -> float:
    """How many rejects ``--max-rejected`` allows.

    Args:
        limit: ``"20"``, ``"1.5%"`` of the images, or None for any number.
        images: number of images.

    Raises:
        ValueError: another form, a negative number, or more than 100 %.
    """
    if limit is None:
        return float("inf")
    if limit.endswith("%"):
        share = float(limit[:-1])
        if not 0 <= share <= 100:
            raise ValueError(limit)
        return images * share / 100
    count = int(limit)
    if count < 0:
        raise ValueError(limit)
    return count
