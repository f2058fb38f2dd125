"""The small records that travel through the graph, each named for what it is.

Only references, tasks and rows cross a shuffle; a :class:`Window`, which holds pixels, never does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from model_build.errors import first_line

STAGES = ("list", "read", "decode", "infer", "write")  # in the order of work


class Source(NamedTuple):
    """One INPUT.

    Attributes:
        kind: ``folder``, ``glob``, ``list`` or ``file``.
        where: path, URI or pattern.
        folder: the deepest folder that is known to hold all of it.
    """

    kind: str
    where: str
    folder: str


class ImageRef(NamedTuple):
    """An image that was listed.

    Attributes:
        path: absolute path or URI.
        name: the path below the root, with its extension; ``/`` separates folders.
        mtime: seconds since 1970, or None where nobody has asked the disk or store yet.
        size: in bytes, or None likewise.
    """

    path: str
    name: str
    mtime: float | None = None
    size: int | None = None


class MaskRef(NamedTuple):
    """A mask that stands in the output folder.

    Attributes:
        name: its path below ``OUT/masks``.
        mtime: seconds since 1970.
    """

    name: str
    mtime: float


class PassedOver(NamedTuple):
    """A file that is not taken for an image."""

    path: str


class Task(NamedTuple):
    """An image and the mask it gets.

    Attributes:
        image: the image.
        mask_name: path of its mask below ``OUT/masks``.
        mask_mtime: when an earlier run wrote the mask, in seconds since 1970; None if none did.
        done: whether that mask still holds, as far as the listing tells.
    """

    image: ImageRef
    mask_name: str
    mask_mtime: float | None = None
    done: bool = False


class Photo(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: uint8 RGB ``[h, w, 3]``, upright, perhaps scaled down.
        height: of the source in pixels, upright.
        width: likewise.
    """

    pixels: np.ndarray
    height: int
    width: int


class Window(NamedTuple):
    """Photos that are worked on together: one element of the graph from reading to writing.

    Attributes:
        tasks: what is done.
        photos: for each task its decoded image, or why there is none.
        class_maps: once the network has run, for each task uint8 class ids ``[h, w]`` at the size
            of the photo's pixels, or why there are none.
    """

    tasks: tuple[Task, ...]
    photos: tuple[Photo | Reject, ...]
    class_maps: tuple[np.ndarray | Reject, ...] = ()


class Row(NamedTuple):
    """A mask's class histogram: a line of ``histograms-*.jsonl``.

    Attributes:
        image: path or URI of the source.
        mask: path of the mask below the output folder.
        width: of both in pixels, upright.
        height: likewise.
        pixels: how many pixels each label has, of those that occur; adds up to width × height.
    """

    image: str
    mask: str
    width: int
    height: int
    pixels: dict[str, int]


class Reject(NamedTuple):
    """An image that got no mask: a line of ``rejected-*.jsonl``.

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


def as_json(record: Row | Reject) -> dict[str, Any]:
    """The record as the JSON of its line."""
    return record._asdict()
