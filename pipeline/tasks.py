"""What is to be done: the images listed, joined with what an earlier run has left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pipeline.listing import MASKS, OVERLAYS, ImageRef, assign_mask_names, group_key
from pipeline.outputs import written
from pipeline.progress import COUNTS


class Task(NamedTuple):
    """An image and its mask.

    Attributes:
        image: the image.
        mask_name: path of its mask below ``OUT/masks``.
        mask_mtime: when an earlier run wrote the mask, in seconds since 1970; None if none did.
        done: whether that mask still holds, as far as the listing tells.
    """

    image: ImageRef
    mask_name: str
    mask_mtime: float | None
    done: bool


def key_image(image: ImageRef) -> tuple[str, ImageRef]:
    """The image under its :func:`pipeline.listing.group_key`; counted for the progress shown."""
    COUNTS.add(listed=1)
    return group_key(image.name), image


def keyed_masks(out: str) -> Iterator[tuple[str, ImageRef]]:
    """The masks an earlier run has left, under the key of the images they may be of."""
    for mask in written(out, MASKS, ".png"):
        yield group_key(mask.name), mask


def keyed_overlays(out: str) -> Iterator[tuple[str, str]]:
    """Names of the masks that have an overlay, under the same key."""
    for overlay in written(out, OVERLAYS, ".jpg"):
        mask_name = f"{overlay.name.removesuffix('.jpg')}.png"
        yield group_key(mask_name), mask_name


def overlay_name(mask_name: str) -> str:
    """Path of the overlay below ``OUT/overlays``."""
    return f"{mask_name.removesuffix('.png')}.jpg"


def plan_tasks(
    found: Mapping[str, Iterable], since: float = 0.0, overlays: bool = False
) -> Iterator[Task]:
    """The tasks of one group.

    Args:
        found: its ``images`` and ``masks`` (:class:`ImageRef`), and names under ``overlays``.
        since: masks older than this hold no longer.
        overlays: an image without its overlay is not done.
    """
    # The same file may be listed twice, by two sources: it is one image.
    images = {image.name: image for image in found["images"]}
    masks = {mask.name: mask.mtime for mask in found["masks"]}
    have_overlay = set(found["overlays"])
    for name, mask_name in assign_mask_names(images).items():
        image, mask_mtime = images[name], masks.get(mask_name)
        done = (
            mask_mtime is not None
            and mask_mtime >= since
            and (image.mtime is None or image.mtime <= mask_mtime)
            and (not overlays or mask_name in have_overlay)
        )
        yield Task(image, mask_name, mask_mtime, done)
