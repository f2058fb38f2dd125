"""Photos and their masks, decoded and checked against each other."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from model_build.data.labels import LabelSet
from model_build.data.layouts import IMAGE_SUFFIXES, MISSING, DataFolder
from model_build.data.masks import read_mask
from model_build.errors import UserError, cause

# What TensorFlow reads, whatever the suffix says; of a BMP with a palette it shows the indices.
DECODABLE = ("JPEG", "MPO", "PNG", "GIF")
# Pillow says with a SyntaxError that a PNG is broken, and with an error of its own that it is huge.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class Pair(NamedTuple):
    """A photo and its mask, both of ``height`` × ``width`` pixels.

    ``ids`` is the mask's class ids as a grey PNG: what TensorFlow can decode, which turns the
    indices of a palette into colours. ``how`` and ``unknown`` are those of
    :class:`model_build.data.masks.MaskFile`.
    """

    image: str
    mask: str
    height: int
    width: int
    ids: bytes
    how: str = "ids"
    unknown: int = 0

    def read_ids(self) -> np.ndarray:
        """uint8 class ids ``[height, width]``."""
        with Image.open(io.BytesIO(self.ids)) as image:
            return np.asarray(image)


def read_size(data: bytes, where: str) -> tuple[int, int]:
    """Decodes a photo and tells its (height, width) in pixels.

    Args:
        data: the file's bytes.
        where: the file's name, for errors.

    Raises:
        UserError: it cannot be read, or is of a format that TensorFlow does not read.
    """
    try:
        with _opened(data) as picture:
            picture.load()  # only decoding finds a truncated file
            (width, height), kind = picture.size, picture.format
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except UNREADABLE as error:
        raise UserError(f"{where}: cannot be read as an image: {error}") from None
    if kind not in DECODABLE:
        raise UserError(f"{where}: is actually {kind}, which training cannot read; save it as JPEG")
    if orientation > 1:
        # Its mask may be drawn either way; the pipeline turns it upright, TensorFlow does not.
        raise UserError(
            f"{where}: is rotated by its EXIF tag, which training ignores; save it upright, to "
            "match its mask"
        )
    return height, width


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:  # Pillow's own message names a buffer's address
        raise UnidentifiedImageError("not an image in a known format") from None


def check_pair(
    folder: DataFolder, name: str, labels: LabelSet
) -> tuple[Pair | None, list[UserError]]:
    """Checks one pair; both files are decoded.

    Returns:
        The pair, None if anything is wrong with it; and all that is: a file is missing or
        unreadable, its partner has another size, or the mask holds a value outside the set. Each
        message names the file.
    """
    image, mask = folder.photo(name), folder.mask(name)
    problems = []
    size = found = None
    try:
        if image is None:
            hint = "; list names without their suffix" if name.endswith(IMAGE_SUFFIXES) else ""
            raise UserError(f"{folder.expected(name)}: not found, but listed in the split{hint}")
        size = read_size(folder.read(image), image)
    except OSError as error:
        problems.append(UserError(f"{image}: cannot be read: {cause(error)}"))
    except UserError as error:
        problems.append(error)
    try:
        found = read_mask(folder.read(mask), mask, labels)
    except MISSING:
        problems.append(UserError(f"{mask}: not found, but {name} is in the split"))
    except OSError as error:
        problems.append(UserError(f"{mask}: cannot be read: {cause(error)}"))
    except UserError as error:
        problems.append(error)
    if image is None or size is None or found is None:
        return None, problems
    ids = found.ids
    if ids.shape != size:
        mismatch = f"is {ids.shape[1]}×{ids.shape[0]}, but its photo is {size[1]}×{size[0]}"
        return None, [UserError(f"{mask}: {mismatch}")]
    grey = io.BytesIO()
    Image.fromarray(ids).save(grey, "PNG", compress_level=1)
    return Pair(image, mask, *size, grey.getvalue(), found.how, found.unknown), []


def read_pair(folder: DataFolder, name: str, labels: LabelSet) -> Pair:
    """Checks one pair as :func:`check_pair` does.

    Raises:
        UserError: the first of what is wrong with it.
    """
    pair, problems = check_pair(folder, name, labels)
    if pair is None:
        raise problems[0]
    return pair


def read_split(folder: DataFolder, split: str, labels: LabelSet) -> list[Pair]:
    """Lists and checks the pairs of a split; every file is decoded once.

    Args:
        folder: where they are.
        split: its name, such as ``train`` or ``val``.
        labels: whose ids or colours the masks hold.

    Raises:
        UserError: as :meth:`DataFolder.names` and :func:`read_pair` do.
    """
    names = folder.names(split)
    folder.photos()  # listed before the threads all begin to
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda name: read_pair(folder, name, labels), names))
