"""The name that each image's mask gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from model_build.data.files import image_extension
from pipeline.storage import escape_folders

MASK = ".png"


def group_key(name: str) -> str:
    """Images whose masks may clash share this key: the name less its image extensions.

    ``a.jpg``, ``a.png`` and ``a.jpg.png`` share ``a``; so does the mask ``a.png`` by its
    :func:`mask_key`.
    """
    return mask_key(escape_folders(name, MASK))


def mask_key(mask_name: str) -> str:
    """The :func:`group_key` of the images that a mask of this name may be of."""
    while extension := image_extension(mask_name):
        mask_name = mask_name.removesuffix(extension)
    return mask_name


def assign_mask_names(names: Iterable[str]) -> dict[str, str]:
    """Names of the masks of all images that share a :func:`group_key`.

    An image's extension is replaced by ``.png``, anything else is kept before it; where two claim
    one mask, both keep theirs. A folder that is called like a mask gets another name
    (:func:`pipeline.storage.escape_folders`): ``a.jpg`` and ``a.png/b.jpg`` get the masks ``a.png``
    and ``a.png_/b.png``. What a folder becomes depends on its own name alone.

    Args:
        names: distinct names.

    Returns:
        The mask's name by the image's.
    """
    stems = {name: escape_folders(name, MASK) for name in names}
    masks = {
        name: f"{stem.removesuffix(image_extension(stem))}{MASK}" for name, stem in stems.items()
    }
    while True:
        claims = Counter(masks.values())
        clashing = [name for name, mask in masks.items() if claims[mask] > 1]
        if all(masks[name] == f"{stems[name]}{MASK}" for name in clashing):
            return masks
        masks |= {name: f"{stems[name]}{MASK}" for name in clashing}
