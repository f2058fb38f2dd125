"""Reads masks of any tool as class ids: palette, grey or in the labels' colours.

One reader serves true masks, predicted masks, and masks edited by hand.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from model_build.common.errors import UserError, first_line
from model_build.data import png
from model_build.data.decode import orientation_of
from model_build.data.labels import VOID, LabelSet, color_ids, image2label

LOSSLESS = ("PNG", "BMP", "GIF", "TIFF", "WEBP")
# A TIFF may contain JPEG, WebP or JPEG 2000 data, which change the saved colours.
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")


class MaskFile(NamedTuple):
    """The content of a mask's file.

    Attributes:
        ids: uint8 class ids ``[h, w]``, 255 for void.
        how: the source of the ids: ``"ids"``, the file's own samples; ``"colors"``, mapped from
            RGB; ``"palette"``, mapped from a palette that has the labels' colours in another order.
        unknown: number of pixels of an RGB mask whose colour has no label; they are void.
    """

    ids: np.ndarray
    how: Literal["ids", "colors", "palette"]
    unknown: int = 0


def read_mask(data: bytes, where: str, labels: LabelSet) -> MaskFile:
    """Decodes a mask, or the first frame of one.

    Samples of grey masks of 1, 2, 4, 8 and 16 bits are class ids as stored, and so are the indices
    of a palette, unless :func:`palette_order` finds the labels' colours in another order. RGB is
    mapped by the labels' colours, or has the same id in all three channels, as OpenCV reads grey
    files by default. Alpha is ignored.

    Args:
        data: the file's bytes.
        where: the file's name, for errors.
        labels: the label set of its ids or colours.

    Raises:
        UserError: the bytes are not an image, damaged, or lossily compressed; or the image has
            another mode, or an id outside the set.
    """
    try:
        reduced = png.reduce(data) if data.startswith(png.SIGNATURE) else None
        with _opened(data, reduced) as image:
            check_lossless(image, data, where)
            exif = image.info.get("exif", b"") if reduced is None else reduced.exif
            samples, palette = _samples(image, where)
            if reduced is not None:
                png.check_rows(image, reduced)
    except UserError:
        raise
    except Exception as error:  # for damaged files Pillow raises many kinds
        raise UserError(f"{where}: cannot be read as a mask: {first_line(error)}") from None
    if orientation_of(exif) > 1:
        raise UserError(
            f"{where}: is rotated by its EXIF tag, which masks are not; save it upright"
        )
    if samples.ndim == 3:
        return _of_colors(samples, labels)
    # Counting bytes is faster than sorting them.
    small = samples.dtype == np.uint8
    used = np.flatnonzero(np.bincount(samples.ravel())) if small else np.unique(samples)
    order = palette_order(used, palette, labels) if palette else None
    if order is not None:
        return MaskFile(order[samples], "palette")
    ids = class_ids(labels)
    wrong = [value for value in used.tolist() if value not in ids]
    if wrong:
        raise UserError(
            f"{where}: has class id {wrong[0]}, but the {len(labels)} labels have the ids "
            f'{_ranges(labels)}; fix the mask, or the "id" of a label in labels.json'
        )
    return MaskFile(_mapped(samples, ids), "ids")


def absence(labels: Sequence[str], pixels: Sequence[int] | np.ndarray, void: int) -> str:
    """Returns a note on labels that no pixel has; "" if there are none.

    Args:
        labels: their names.
        pixels: number of pixels by class id.
        void: number of pixels stored as 255, which means void.
    """
    absent = [name for name, count in zip(labels, pixels, strict=False) if not count]
    if not absent:
        return ""
    text = f"no pixel is of {len(absent)} of {len(labels)} labels ({', '.join(absent)})"
    if void:
        text += (
            f"; {void} pixels have the value {VOID}, which means void: if it is one of your "
            f'classes, give that label "id": {VOID} in labels.json'
        )
    return text


def reordered(masks: Collection[str], of: int) -> str:
    """Returns a note on the masks, ``of`` all, that :func:`palette_order` maps; "" if none."""
    if not masks:
        return ""
    return (
        f"{min(masks)}: its palette has the labels' colours in another order, so it is mapped by "
        f"colour; {len(masks)} of {of} masks are"
    )


def class_ids(labels: LabelSet) -> dict[int, int]:
    """Returns class ids by values in grey and palette masks; 255 is void unless a label has it."""
    values = labels.values or range(len(labels))
    return {VOID: VOID} | {value: index for index, value in enumerate(values)}


def _mapped(samples: np.ndarray, ids: dict[int, int]) -> np.ndarray:
    return np.array([ids.get(value, VOID) for value in range(VOID + 1)], np.uint8)[samples]


def _ranges(labels: LabelSet) -> str:
    if not labels.values:
        return f"0 to {len(labels) - 1} (and {VOID} for void)"
    void = f" (and {VOID} for void)" * (VOID not in labels.values)
    return ", ".join(map(str, labels.values)) + void


def check_lossless(image: ImageFile.ImageFile, data: bytes, where: str) -> None:
    """Checks that a mask's file format is lossless.

    Args:
        image: the opened file.
        data: its bytes.
        where: its name, for errors.

    Raises:
        UserError: it is a JPEG, a lossy WebP, or of another format that may lose pixels.
    """
    kind = {"MPO": "JPEG"}.get(image.format or "", image.format)
    if kind not in LOSSLESS:
        found = f"is actually {kind}"
    elif kind == "WEBP" and b"VP8 " in _riff_chunks(data):
        found = "is actually a lossy WebP"
    elif kind == "TIFF" and image.info.get("compression") in LOSSY_TIFF:
        found = "is a TIFF with lossy compression"
    else:
        return
    raise UserError(
        f"{where}: {found}, but a mask must be lossless, as other values at borders are other "
        "classes; save the original as PNG"
    )


def palette_order(
    used: np.ndarray, palette: list[tuple[int, int, int]], labels: LabelSet
) -> np.ndarray | None:
    """Finds the labels' colours in a palette that programs have reordered.

    Programs that optimise or convert PNGs (ImageMagick, pngquant, zopflipng) sort palettes and so
    give the colours other indices. If each used colour is a label's or void, the colours decide. A
    palette with any other colour, as some tools write, does not identify the ids; neither does a
    colour that also has a lower index, as palettes are filled up with black. Index 255 without a
    label's colour is void, unless it is a label's value.

    Args:
        used: the indices that occur in the mask.
        palette: RGB of 0..255 by index; it may be shorter than 256.

    Returns:
        uint8 ``[256]``, class ids by index; None if the indices are the class ids.
    """
    ids, own = color_ids(labels), class_ids(labels)
    if own[VOID] != VOID:
        ids = {color: index for color, index in ids.items() if index != VOID}
    known = {palette.index(color): ids[color] for color in set(palette) & set(ids)}
    order = np.full(VOID + 1, VOID, np.uint8)
    for index in used.tolist():
        if index in known:
            order[index] = known[index]
        elif own.get(index) != VOID:
            return None
    return order if any(own.get(index) != order[index] for index in used.tolist()) else None


def _samples(
    image: ImageFile.ImageFile, where: str
) -> tuple[np.ndarray, list[tuple[int, int, int]] | None]:
    """Returns samples ``[h, w]`` as stored and the palette, if any; or uint8 RGB ``[h, w, 3]``.

    Raises:
        UserError: the image has a mode that masks do not have.
    """
    raw = _raw_mode(image)
    if image.mode == "P":
        flat = image.getpalette() or []
        return np.array(image), list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
    if image.mode == "1":
        return np.array(image, np.uint8), None
    if image.mode == "L":
        # Pillow scales 2 and 4 bits to 0..255, exactly by 85 and 17.
        bits = re.match(r"L;([24])", raw)
        return np.array(image) // (255 // (2 ** int(bits[1]) - 1) if bits else 1), None
    if image.mode == "LA":
        return np.array(image)[..., 0], None
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        return np.array(image).astype(np.int64), None
    # Pillow keeps only the upper bytes of 16-bit grey with alpha, but ids are in the lower ones.
    if image.mode in ("RGB", "RGBA") and not raw.startswith("LA"):
        return np.array(image.convert("RGB")), None
    mode = "16-bit grey with alpha" if raw.startswith("LA") else image.mode
    raise UserError(
        f"{where}: a mask must be palette, grey or RGB, but this is {mode}; save it as an 8-bit PNG"
    )


def _of_colors(colors: np.ndarray, labels: LabelSet) -> MaskFile:
    ids, unknown = image2label(colors, labels)
    if unknown and (colors == colors[..., :1]).all():
        own = class_ids(labels)
        as_ids = _mapped(colors[..., 0], own)
        agrees = (ids == VOID) | (ids == as_ids)
        if set(np.unique(colors).tolist()) <= set(own) and agrees.all() and (ids != as_ids).any():
            return MaskFile(as_ids, "ids")
    return MaskFile(ids, "colors", unknown)


def _opened(data: bytes, reduced: png.Png | None) -> ImageFile.ImageFile:
    try:
        if reduced is not None:
            return png.open_reduced(io.BytesIO(reduced.stream), reduced)
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:  # Pillow's own message names a buffer's address
        raise UnidentifiedImageError("not an image in a known format") from None


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Returns how Pillow unpacks the file's samples, such as ``L;4`` for grey of four bits."""
    if not image.tile:
        return ""
    args = image.tile[0][3]
    return str(args[0] if isinstance(args, tuple) and args else args)


def _riff_chunks(data: bytes) -> list[bytes]:
    """Returns the names of a WebP's chunks, also within animation frames (RFC 9649, section 2)."""
    names, position = [], 12
    while position + 8 <= len(data):
        name = data[position : position + 4]
        names.append(name)
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + (16 if name == b"ANMF" else size + size % 2)
    return names
