"""Label sets: class names, colours and the ignore index.

The PASCAL VOC set is built in; others come from a ``labels.json``::

    {"ignore_index": 255, "labels": [{"name": "sky", "color": [128, 128, 128]}, ...]}

Class ids are positions in the list. Id 255 is void: not a class, ignored in losses and scores.
If the masks of a data folder have other values, a label's value is its ``"id"``; class ids are
then positions in the order of the values::

    {"labels": [{"name": "road", "color": [0, 0, 0]}, {"name": "car", ..., "id": 255}]}

NumPy is imported only in functions of pixels: commands use the rest to print their help.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from model_build.common.errors import UserError

if TYPE_CHECKING:
    import numpy as np

VOID = 255
VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip

Color = tuple[int, int, int]


def voc_palette(size: int = 256) -> list[Color]:
    """The PASCAL VOC colour map.

    Bits 0, 1 and 2 of the id go to the top bits of red, green and blue, the next three bits to the
    bits below, and so on (VOCdevkit, ``VOClabelcolormap.m``).

    Args:
        size: number of colours, at most 256.

    Returns:
        ``size`` RGB triples of 0..255.
    """
    palette = []
    for index in range(size):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
        palette.append((rgb[0], rgb[1], rgb[2]))
    return palette


def _is_color(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and all(type(channel) is int and 0 <= channel <= 255 for channel in value)
    )


@dataclass(frozen=True)
class LabelSet:
    """Names and colours of the classes; the class id is the position.

    Attributes:
        values: the values of the classes in grey and palette masks of one data folder, by class id;
            empty if they equal the class ids. Networks and their masks do not depend on them.

    Raises:
        UserError: no label or more than 255, a name that is empty, not text or used twice, a
            colour that is not an RGB triple of 0..255 or used twice, an ignore index other than
            255.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore_index: int = VOID
    values: tuple[int, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= VOID:
            raise UserError(
                f"a label set has 1 to {VOID} labels, but this one has {len(self.names)}"
            )
        if len(self.names) != len(self.colors):
            raise UserError(f"{len(self.names)} label names but {len(self.colors)} colours")
        if type(self.ignore_index) is not int or self.ignore_index != VOID:
            raise UserError(f"ignore_index must be {VOID}, but is {self.ignore_index!r}")
        name_of: dict[Color, str] = {}
        seen = set()
        for name, color in zip(self.names, self.colors, strict=True):
            if not isinstance(name, str) or not name.strip() or not name.isprintable():
                raise UserError(f"a label name must be printable text, but one is {name!r}")
            if name in seen:
                raise UserError(f"label name {name!r} is used twice")
            seen.add(name)
            if not _is_color(color):
                written = list(color) if isinstance(color, tuple) else color
                raise UserError(
                    f"label {name!r}: a colour is three integers 0..255, such as [200, 80, 0], "
                    f"but is {written!r}"
                )
            if color in name_of:
                raise UserError(
                    f"labels {name_of[color]!r} and {name!r} share the colour {list(color)}"
                )
            name_of[color] = name

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def palette(self) -> bytes:
        """768 bytes: RGB of ids 0..255 in a palette PNG; ids without a label get VOC's colour."""
        colors = list(self.colors) + voc_palette()[len(self.colors) :]
        return bytes(channel for color in colors for channel in color)

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON of ``labels.json``."""
        return {
            "ignore_index": self.ignore_index,
            "labels": [
                {"name": name, "color": list(color)}
                for name, color in zip(self.names, self.colors, strict=True)
            ],
        }

    @classmethod
    def from_json(cls, value: Any, source: str = "labels.json") -> LabelSet:
        """Parses the JSON of ``labels.json``.

        Args:
            value: the decoded JSON.
            source: the file's name, for errors.

        Raises:
            UserError: the value is invalid or breaks a rule of :class:`LabelSet`.
        """
        try:
            rows = value["labels"]
            names = tuple(row["name"] for row in rows)
            colors = tuple(
                tuple(row["color"]) if isinstance(row["color"], list) else row["color"]
                for row in rows
            )
            return cls(names, colors, value.get("ignore_index", VOID))
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        except (AttributeError, IndexError, KeyError, TypeError):
            raise UserError(
                f"{source}: not a label set; expected "
                '{"labels": [{"name": "sky", "color": [128, 128, 128]}, …]}'
            ) from None


VOC = LabelSet(VOC_NAMES, tuple(voc_palette(len(VOC_NAMES))))


def parse_labels(data: bytes, source: str = "labels.json") -> LabelSet:
    """Parses a ``labels.json``.

    Args:
        data: the file's bytes, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.
        source: the file's name, for errors.

    Raises:
        UserError: it is not valid JSON or not a label set; or an ``"id"`` is not an integer 0..255
            or is used twice.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UserError(f"{source}: not valid JSON: {error}") from None
    labels = LabelSet.from_json(value, source)
    values: dict[int, int] = {}  # value → position
    for position, (name, row) in enumerate(zip(labels.names, value["labels"], strict=True)):
        number = row.get("id", position)
        if type(number) is not int or not 0 <= number <= 255:
            raise UserError(
                f"{source}: label {name!r}: an id is an integer 0..255, its value in masks, but is "
                f"{number!r}; leave out labels that are not in the masks"
            )
        if number in values:
            raise UserError(
                f"{source}: labels {labels.names[values[number]]!r} and {name!r} share the id "
                f'{number}; without "id" it is the position in the list, from 0'
            )
        values[number] = position
    ordered = sorted(values)
    return replace(
        labels,
        names=tuple(labels.names[values[number]] for number in ordered),
        colors=tuple(labels.colors[values[number]] for number in ordered),
        values=() if ordered == list(range(len(ordered))) else tuple(ordered),
    )


def label2image(ids: np.ndarray, labels: LabelSet = VOC) -> np.ndarray:
    """Converts class ids to colours.

    Args:
        ids: uint8, any shape; 255 is void.

    Returns:
        uint8, ``ids.shape + (3,)``: the palette's colours.
    """
    import numpy as np

    return np.frombuffer(labels.palette, np.uint8).reshape(256, 3)[ids]


def color_ids(labels: LabelSet) -> dict[Color, int]:
    """Returns class ids by colour; the void colour is 255, unless it is a label's."""
    by_color = {voc_palette()[VOID]: VOID}
    return by_color | {color: index for index, color in enumerate(labels.colors)}


def image2label(image: np.ndarray, labels: LabelSet = VOC) -> tuple[np.ndarray, int]:
    """Converts colours to class ids, the inverse of :func:`label2image`.

    Args:
        image: uint8 RGB, shape ``[..., 3]``.

    Returns:
        uint8 ids of shape ``[...]``, 255 where the colour has no label; and the number of pixels
        whose colour is neither a label's nor the void colour (palette entry 255).
    """
    import numpy as np

    codes = _color_codes(image)
    by_color = color_ids(labels)
    known = _color_codes(np.array(list(by_color), np.uint8))
    ids = np.array(list(by_color.values()), np.uint8)
    order = np.argsort(known)
    position = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
    match = known[order][position] == codes
    return np.where(match, ids[order][position], VOID).astype(np.uint8), int(np.sum(~match))


def _color_codes(colors: np.ndarray) -> np.ndarray:
    red, green, blue = (colors[..., channel].astype("uint32") for channel in range(3))
    return red << 16 | green << 8 | blue
