"""Assigns each image the name of its mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from model_build.data.files import image_extension
from pipeline.storage import escape_folders

MASK = ".png"


def group_key(name: str) -> str:
    """Returns the key of images whose mask names may clash: the name without image extensions.

    ``a.jpg``, ``a.png`` and ``a.jpg.png`` share ``a``, which is also the :func:`mask_key` of the
    mask ``a.png``.
    """
    return mask_key(escape_folders(name, MASK))


def mask_key(mask_name: str) -> str:
    """Returns the :func:`group_key` of the images that a mask of this name may belong to."""
    while extension := image_extension(mask_name):
        mask_name = mask_name.removesuffix(extension)
    return mask_name


def assign_mask_names(names: Iterable[str]) -> dict[str, str]:
    """Returns the mask names of all images that share a :func:`group_key`.

    An image extension is replaced by ``.png``; to any other name ``.png`` is appended. Where two
    images would get the same mask, both keep their extension. A folder named like a mask is renamed
    (:func:`pipeline.storage.escape_folders`): ``a.jpg`` and ``a.png/b.jpg`` get the masks ``a.png``
    and ``a.png_/b.png``. The new name depends only on the folder's own name.

    Args:
        names: distinct names.

    Returns:
        Image names → mask names.
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
