"""Errors of images that cannot be read."""

from __future__ import annotations


class DamagedImage(ValueError):
    """An image that is damaged or cut short.

    Args:
        detail: the kind of damage, if known.
    """

    def __init__(self, detail: str = ""):
        super().__init__(f"damaged or cut short: {detail}" if detail else "damaged or cut short")


class UnsupportedImage(ValueError):
    """An intact image of an unsupported kind, which the message names."""


class TooManyPixels(ValueError):
    """An image larger than the limit, which might not fit into memory."""

    def __init__(self, height: int, width: int, limit: int, remedy: str = ""):
        super().__init__(f"{width}×{height} is more than the {limit:,} pixels allowed{remedy}")
