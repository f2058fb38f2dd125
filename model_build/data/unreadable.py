"""Images that cannot be read, and how it is said."""

from __future__ import annotations


class DamagedImage(ValueError):
    """An image that is damaged or cut short.

    Args:
        detail: the damage, where it is known.
    """

    def __init__(self, detail: str = ""):
        super().__init__(f"damaged or cut short: {detail}" if detail else "damaged or cut short")


class UnsupportedImage(ValueError):
    """A whole image of a kind that is not decoded; the message names the kind."""


class TooManyPixels(ValueError):
    """An image larger than the limit: it would not fit into memory."""

    def __init__(self, height: int, width: int, limit: int, remedy: str = ""):
        super().__init__(f"{width}×{height} is more than the {limit:,} pixels allowed{remedy}")
