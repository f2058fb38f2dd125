"""Photos and their masks, decoded and checked against each other."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from model_build.common.errors import UserError, cause
from model_build.data.decode import Picture, decode, open_image
from model_build.data.files import image_extension
from model_build.data.labels import LabelSet
from model_build.data.layouts import MISSING, DataFolder
from model_build.data.masks import read_mask


class Pair(NamedTuple):
    """A photo and its mask, both of ``height`` × ``width`` pixels.

    ``ids`` is the mask's class ids as a grey PNG, as TensorFlow would turn the indices of a palette
    into colours. ``how`` and ``unknown`` are those of :class:`model_build.data.masks.MaskFile`.
    """

    image: str
    mask: str
    height: int
    width: int
    ids: bytes
    unknown: int = 0
    how: str = "ids"

    def read_ids(self) -> np.ndarray:
        """Decodes the class ids, uint8 ``[height, width]``."""
        with Image.open(io.BytesIO(self.ids)) as image:
            return np.asarray(image)


def read_photo(data: bytes, where: str) -> Picture:
    """Decodes a photo as training does, to check that it can be read.

    Args:
        data: the file's bytes.
        where: the file's name, for errors.

    Returns:
        Its header, with size and orientation.

    Raises:
        UserError: it cannot be read.
    """
    try:
        decode(data)  # only decoding finds a truncated file
        return open_image(data)
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: cannot be read as an image: {error}") from None


def check_pair(
    folder: DataFolder, name: str, labels: LabelSet
) -> tuple[Pair | None, list[UserError]]:
    """Checks one pair; both files are decoded.

    Returns:
        The pair, or None if it has errors; and all errors: a file is missing or unreadable, the
        sizes differ, or the mask has a value outside the set. Each message names the file.
    """
    image, mask = folder.photo(name), folder.mask(name)
    problems = []
    photo = found = None
    try:
        if image is None:
            hint = folder.similar(name)[0]
            if image_extension(name):
                hint = "; list names without their suffix"
            raise UserError(f"{folder.expected(name)}: not found, but listed in the split{hint}")
        photo = read_photo(folder.read(image), image)
    except OSError as error:
        problems.append(UserError(f"{image}: cannot be read: {cause(error)}"))
    except UserError as error:
        problems.append(error)
    try:
        found = read_mask(folder.read(mask), mask, labels)
    except MISSING:
        problems.append(
            UserError(f"{mask}: not found, but {name} is in the split{folder.similar(name)[1]}")
        )
    except OSError as error:
        problems.append(UserError(f"{mask}: cannot be read: {cause(error)}"))
    except UserError as error:
        problems.append(error)
    if image is None or photo is None or found is None:
        return None, problems
    ids, size = found.ids, photo.upright
    if ids.shape != size:
        mismatch = f"is {ids.shape[1]}×{ids.shape[0]}, but its photo is {size[1]}×{size[0]}"
        if ids.shape == (photo.height, photo.width):
            mismatch += " once it is turned upright by its EXIF orientation; turn the mask alike"
        return None, [UserError(f"{mask}: {mismatch}")]
    grey = io.BytesIO()
    Image.fromarray(ids).save(grey, "PNG", compress_level=1)
    return Pair(image, mask, *size, grey.getvalue(), found.unknown, found.how), []


def read_pair(folder: DataFolder, name: str, labels: LabelSet) -> Pair:
    """Checks one pair as :func:`check_pair` does.

    Raises:
        UserError: the first of its errors.
    """
    pair, problems = check_pair(folder, name, labels)
    if pair is None:
        raise problems[0]
    return pair


def read_split(folder: DataFolder, split: str, labels: LabelSet) -> list[Pair]:
    """Lists and checks the pairs of a split; every file is decoded once.

    Args:
        folder: the data folder.
        split: its name, such as ``train`` or ``val``.
        labels: the label set of the masks' ids or colours.

    Raises:
        UserError: as :meth:`DataFolder.names` and :func:`read_pair` do.
    """
    names = folder.names(split)
    folder.photos()  # list once before the threads start
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda name: read_pair(folder, name, labels), names))
