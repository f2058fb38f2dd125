"""The small records that pass through the graph.

Only references, tasks and rows cross a shuffle; a :class:`Window`, which holds pixels, never does.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any, NamedTuple

import numpy as np

from model_build.common.errors import first_line

_LOGGER = logging.getLogger(__name__)

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


class Stamp(NamedTuple):
    """Size and version of a file, as its disk or store reports them without reading it.

    Attributes:
        size: in bytes, None if unknown.
        version: changes with every write: the store's generation or ETag, else the time of writing,
            on local disk in nanoseconds; None if the store has none of these.
    """

    size: int | None = None
    version: str | None = None


class ImageRef(NamedTuple):
    """An image that was listed.

    Attributes:
        path: absolute path or URI.
        name: the path below the root, with its extension; ``/`` separates folders.
        stamp: None if it has not been looked up yet.
    """

    path: str
    name: str
    stamp: Stamp | None = None


class ProductFile(NamedTuple):
    """A file in the output folder: a mask, or another product of an image.

    Attributes:
        product: name of the product.
        mask_name: path of the image's mask below ``OUT/masks``.
        stamp: as listed.
        written: when, by the clock of its disk or store, in seconds since 1970.
    """

    product: str
    mask_name: str
    stamp: Stamp
    written: float | None = None


class PassedOver(NamedTuple):
    """A file that is not taken for an image.

    Attributes:
        path: its path or URI.
        written: runs have written it to the output folder.
        never_photo: its name or its folder's shows that it is not a user's photo.
    """

    path: str
    written: bool = False
    never_photo: bool = False


class Task(NamedTuple):
    """An image and the mask it gets.

    Attributes:
        image: the image.
        mask_name: path of its mask below ``OUT/masks``.
        mask: the existing mask of that name, None if there is none.
        row: the row that an earlier run wrote for that mask, if there is one.
        products: names of its other products in OUT.
        earlier: if an existing mask has no such row, the rows of the masks that runs wrote there.
        made_by_this_run: the mask was written after this run began, by a worker that was lost.
    """

    image: ImageRef
    mask_name: str
    mask: Stamp | None = None
    row: Row | None = None
    products: frozenset[str] = frozenset()
    earlier: tuple[Row, ...] = ()
    made_by_this_run: bool = False


class Photo(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: uint8 RGB ``[h, w, 3]``, upright, perhaps scaled down.
        height: of the source in pixels, upright.
        width: likewise.
        hash: of the file's bytes, see :func:`hash_of`.
    """

    pixels: np.ndarray
    height: int
    width: int
    hash: str = ""


class Window(NamedTuple):
    """Photos that are worked on together: one element of the graph from reading to writing.

    Attributes:
        tasks: what is done.
        photos: for each task its decoded image or a reject.
        class_maps: after the network has run, for each task uint8 class ids ``[h, w]`` at the size
            of the photo's pixels, or a reject.
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
        source: what the source's disk or store said of it before it was read.
        hash: of the source's bytes, see :func:`hash_of`.
        written: what the mask's disk or store said of it once it was written.
        mask_hash: of the mask file's bytes.
        recipe: id of the recipe it was made by; None for a mask that was edited by hand.
    """

    image: str
    mask: str
    width: int
    height: int
    pixels: dict[str, int]
    source: Stamp = Stamp()
    hash: str = ""
    written: Stamp = Stamp()
    mask_hash: str = ""
    recipe: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The form of its line."""
        return {
            "image": self.image,
            "mask": self.mask,
            "width": self.width,
            "height": self.height,
            "pixels": self.pixels,
            "versions": {
                "image": self.source._asdict() | {"sha256": self.hash},
                "mask": self.written._asdict() | {"sha256": self.mask_hash},
            },
            "recipe": self.recipe,
        }

    @classmethod
    def from_json(cls, value: Any) -> Row:
        """The way back from :meth:`to_json`; unknown fields are ignored.

        Raises:
            ValueError: the value is of another form.
        """
        try:
            source, mask = value["versions"]["image"], value["versions"]["mask"]
            return cls(
                image=_is(str, value["image"]),
                mask=_is(str, value["mask"]),
                width=_is(int, value["width"]),
                height=_is(int, value["height"]),
                pixels={
                    _is(str, label): _is(int, count) for label, count in value["pixels"].items()
                },
                source=Stamp(_is(int | None, source["size"]), _is(str | None, source["version"])),
                hash=_is(str, source["sha256"]),
                written=Stamp(_is(int | None, mask["size"]), _is(str | None, mask["version"])),
                mask_hash=_is(str, mask["sha256"]),
                recipe=_is(str | None, value["recipe"]),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no row of a mask: {error!r}") from None


def _is(kind: Any, value: Any) -> Any:
    """Returns the value if it has the given type, and text only if it is valid UTF-8.

    Raises:
        TypeError: it has another type.
        UnicodeError: the text is not valid UTF-8.
    """
    if not isinstance(value, kind):
        raise TypeError(value)
    if isinstance(value, str):
        value.encode()
    return value


class Reject(NamedTuple):
    """An image that got no mask: a line of ``rejected-*.jsonl``.

    Attributes:
        image: its path or URI.
        stage: one of :data:`STAGES`.
        error: the cause in a word or two, for counting: an exception's class.
        detail: the cause in a sentence.
        row: the row of what a run has written where a file is left alone now, if any is: the next
            run is to know of it.
    """

    image: str
    stage: str
    error: str
    detail: str
    row: Row | None = None

    def to_json(self) -> dict[str, Any]:
        """The form of its line."""
        value = self._asdict()
        del value["row"]
        return value if self.row is None else value | {"row": self.row.to_json()}

    @classmethod
    def from_json(cls, value: Any) -> Reject:
        """The way back from :meth:`to_json`; unknown fields are ignored.

        Raises:
            ValueError: the value is of another form.
        """
        try:
            texts = [value[name] for name in ("image", "stage", "error", "detail")]
            row = Row.from_json(value["row"]) if "row" in value else None
        except (KeyError, TypeError) as error:
            raise ValueError(f"no reject: {error!r}") from None
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"no reject: {texts}")
        return cls(texts[0], texts[1], texts[2], texts[3], row)


_logged_causes: set[tuple[str, str]] = set()


def rejected(image: str, stage: str, error: BaseException) -> Reject:
    """Makes a :class:`Reject` of an exception and the first line of its message.

    The first one of each stage and exception class is logged at level info with its traceback.
    """
    kind = (stage, type(error).__name__)
    if kind not in _logged_causes:
        _logged_causes.add(kind)
        _LOGGER.info("%s: %s: %s", image, stage, first_line(error), exc_info=error)
    return Reject(image, stage, type(error).__name__, first_line(error)[:500])


def hash_of(data: bytes | memoryview) -> str:
    """Returns the sha256 of a file's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()
