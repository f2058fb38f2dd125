"""What decides a mask's pixels, and its short name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

# Raised whenever this code makes other pixels of the same image, model and options.
PIXELS = 6


@dataclass(frozen=True)
class Recipe:
    """All that decides what the mask of an image is, as it was resolved: nothing is "auto".

    Attributes:
        model: its fingerprint.
        long_side: the longest side in pixels that the network sees, None for any.
        engine: ``"xla"`` or ``"graph"``.
        precision: of the network's numbers.
        batch_size: images a call.
        pixels: see :data:`PIXELS`.
        tile: the longest side in pixels of the tiles of images that are larger; None for none.
    """

    model: str
    long_side: int | None
    engine: str
    precision: str
    batch_size: int
    pixels: int = PIXELS
    tile: int | None = None

    @property
    def id(self) -> str:
        """32 hex digits, which two recipes share only if they are equal."""
        value = asdict(self)
        if self.tile is None:  # as in ids of versions that had no tiles
            del value["tile"]
        text = json.dumps(value, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def to_json(self) -> dict[str, Any]:
        """The form in ``run.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Recipe:
        """The way back from :meth:`to_json`.

        Raises:
            ValueError: the value is of another form.
        """
        try:
            recipe = cls(**value)
        except TypeError as error:
            raise ValueError(f"no recipe: {error}") from None
        texts = (recipe.model, recipe.engine, recipe.precision)
        sides = (side for side in (recipe.long_side, recipe.tile) if side is not None)
        numbers = (recipe.batch_size, recipe.pixels, *sides)
        if all(isinstance(text, str) for text in texts) and all(
            isinstance(number, int) and number >= 0 for number in numbers
        ):
            return recipe
        raise ValueError(f"no recipe: {recipe}")

    def difference(self, other: Recipe) -> str:
        """What differs first, as in ``"long side 512, not 64"``; nothing where they are equal."""
        mine, others = asdict(self), asdict(other)
        for name, called in _NAMES.items():
            if mine[name] != others[name]:
                values = (_shown(name, value) for value in (mine[name], others[name]))
                return f"{called} " + ", not ".join(values)
        return ""


# What others follow from comes before them.
_NAMES = {
    "model": "model",
    "tile": "tile",
    "long_side": "long side",
    "engine": "engine",
    "precision": "precision",
    "batch_size": "batch size",
    "pixels": "mask version",
}


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "none" if name == "tile" else "native"
    return value[:12] if isinstance(value, str) else str(value)
