"""The name that each image's mask gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from model_build.data.files import image_extension


def group_key(name: str) -> str:
    """Names whose masks may clash share this key: the name less its image extensions.

    ``a.jpg``, ``a.png`` and ``a.jpg.png`` share ``a``; so does the mask ``a.png``.
    """
    while extension := image_extension(name):
        name = name.removesuffix(extension)
    return name


def assign_mask_names(names: Iterable[str]) -> dict[str, str]:
    """Names of the masks of all images that share a :func:`group_key`.

    An image's extension is replaced by ``.png``, anything else is kept before it; where two claim
    one mask, both keep theirs.

    Args:
        names: distinct names.

    Returns:
        The mask's name by the image's.
    """
    masks = {name: f"{name.removesuffix(image_extension(name))}.png" for name in names}
    while True:
        claims = Counter(masks.values())
        clashing = [name for name, mask in masks.items() if claims[mask] > 1]
        if all(masks[name] == f"{name}.png" for name in clashing):
            return masks
        masks |= {name: f"{name}.png" for name in clashing}
