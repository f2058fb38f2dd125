"""Products: the kinds of files that a run writes for an image, how they are named and made.

To add one, add it to :data:`PRODUCTS`, and an option of its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.images.masks import encode_mask, encode_overlay
from pipeline.inputs.names import MASK
from pipeline.storage import escape_folders, unescape_folders


@dataclass(frozen=True)
class Product:
    """One kind of file that a run writes for an image.

    A class map is as large as the photo that the network saw, or as its source if it comes from an
    existing mask. ``encode`` scales it to the size it needs by
    :func:`pipeline.images.sizes.enlarge`; the result is the same either way.

    Attributes:
        name: of its folder in OUT, and of the option that asks for it.
        extension: of its files, with the dot.
        needs: the arguments of ``encode``: ``pixels``, the photo as uint8 RGB ``[h, w, 3]``, scaled
            to what the network sees; ``class_map``, uint8 class ids ``[h, w]``; ``size``, (height,
            width) of the source; ``labels``; for masks alone, ``origin``.
        encode: returns the content of a file. Raises ValueError or OSError for an image that the
            format cannot hold: it is rejected.
    """

    name: str
    extension: str
    needs: tuple[str, ...]
    encode: Callable[..., bytes]

    def make(self, materials: Mapping[str, Any]) -> bytes:
        """Encodes a file, with those of the materials that the product needs."""
        return self.encode(**{name: materials[name] for name in self.needs})

    def file(self, mask_name: str) -> str:
        """Returns the path below OUT; a folder named like a file of the product gets another name.

        Args:
            mask_name: path of the image's mask below ``OUT/masks``.
        """
        if self.extension == MASK:
            return f"{self.name}/{mask_name}"
        stem = escape_folders(mask_name.removesuffix(MASK), self.extension)
        return f"{self.name}/{stem}{self.extension}"

    def mask_name(self, file: str) -> str | None:
        """Inverts :meth:`file`; returns None if the path is not of this product."""
        folder, _, name = file.partition("/")
        if folder != self.name or not name.endswith(self.extension):
            return None
        if self.extension == MASK:
            return name
        return unescape_folders(name.removesuffix(self.extension), self.extension) + MASK


MASKS = Product("masks", MASK, ("class_map", "labels", "origin", "size"), encode_mask)
OVERLAYS = Product("overlays", ".jpg", ("pixels", "class_map", "labels"), encode_overlay)
PRODUCTS = (MASKS, OVERLAYS)


def chosen(options: Mapping[str, Any]) -> tuple[Product, ...]:
    """Returns the products that a run writes beside its masks: those whose option is on."""
    return tuple(product for product in PRODUCTS if options.get(product.name))
