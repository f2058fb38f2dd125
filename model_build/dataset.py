"""Folders of photos and masks → checked pairs.

Either in PASCAL VOC layout::

    DATA/JPEGImages/NAME.jpg (or .jpeg, .png, or these in capitals)
    DATA/SegmentationClass/NAME.png            palette or grey (pixel = class id), or RGB colours
    DATA/ImageSets/Segmentation/SPLIT.txt      one NAME a line
    DATA/labels.json                           optional; without it the 21 classes of VOC

or paired folders::

    DATA/images/NAME.jpg
    DATA/masks/NAME.png
    DATA/SPLIT.txt                             optional, see :func:`names`
    DATA/labels.json
"""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from model_build.errors import UserError, did_you_mean
from model_build.labels import VOC, VOID, LabelSet, image2label, read_labels

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
# What TensorFlow reads, whatever the suffix says; of a BMP with a palette it shows the indices.
DECODABLE = ("JPEG", "MPO", "PNG", "GIF")
# Pillow says with a SyntaxError that a PNG is broken, and with an error of its own that it is huge.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
HELD_BACK = 10  # without lists, one name in so many is for validation
USUAL_SPLITS = ("train", "val", "trainval", "test")


class Pair(NamedTuple):
    """A photo and its mask, both of ``height`` × ``width`` pixels.

    ``ids`` is the mask's class ids as a grey PNG: what TensorFlow can decode, which turns the
    indices of a palette into colours. ``unknown`` counts the pixels of an RGB mask whose colour is
    no label's; they become void.
    """

    image: str
    mask: str
    height: int
    width: int
    ids: bytes
    unknown: int = 0

    def read_ids(self) -> np.ndarray:
        """uint8 class ids ``[height, width]``."""
        with Image.open(io.BytesIO(self.ids)) as image:
            return np.asarray(image)


@dataclass(frozen=True)
class Layout:
    """Where a data folder keeps its photos, masks and lists."""

    root: Path
    images: str
    masks: str
    lists: str

    def list_of(self, split: str) -> Path:
        return self.root / self.lists / f"{split}.txt"

    def mask(self, name: str) -> Path:
        return self.root / self.masks / f"{name}.png"

    def image(self, name: str) -> Path | None:
        """The photo of a name, or None where there is none."""
        candidates = (self.root / self.images / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES)
        return next((path for path in candidates if path.exists()), None)

    def expected(self, name: str) -> Path:
        """Where the photo of a name would be, if there were one."""
        return self.root / self.images / f"{name}{IMAGE_SUFFIXES[0]}"

    def photos(self) -> list[str]:
        """The names of all photos, listed or not, in order."""
        root = self.root / self.images
        return sorted(
            path.relative_to(root).with_suffix("").as_posix()
            for path in root.rglob("*")
            if path.suffix in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
        )


def layout(data: str | Path) -> Layout:
    """Tells which of the two layouts a folder has; VOC's where it has neither."""
    root = Path(data)
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return Layout(root, "images", "masks", "")
    return Layout(root, "JPEGImages", "SegmentationClass", "ImageSets/Segmentation")


def read_label_set(data: str | Path) -> LabelSet:
    """The label set of a folder: its ``labels.json``, or VOC's where there is none."""
    path = Path(data) / "labels.json"
    return read_labels(path) if path.exists() else VOC


def names(data: str | Path, split: str) -> list[str]:
    """The names of a split, without suffixes.

    They stand in the split's list. Paired folders need none: a split is then what lies under
    ``images/SPLIT/``; or, where no such folder exists either, ``val`` is one name in ten, chosen
    by a hash of the name, so that it stays the same as photos are added, and ``train`` the rest.

    Raises:
        UserError: there is no such split, or it is empty.
    """
    where = layout(data)
    listing = where.list_of(split)
    if not listing.exists() and where.images == "images":
        found = _paired_names(where, split)
        source = where.root / where.images
    else:
        try:
            lines = listing.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            known = splits(data)
            raise UserError(
                f"{listing}: cannot be read: {error.strerror}; the splits are {', '.join(known)}"
                + did_you_mean(split.removesuffix(".txt"), known)
            ) from None
        except ValueError:
            raise UserError(
                f"{listing}: is not UTF-8 text; put one image's name on a line"
            ) from None
        found = [line.strip() for line in lines if line.strip()]
        source = listing
    if not found:
        raise UserError(
            f"{source}: holds no image for the split {split}; list them in {listing}, a NAME a line"
        )
    return found


def splits(data: str | Path) -> list[str]:
    """The splits a folder has, ``train`` and ``val`` first.

    Raises:
        UserError: it has none.
    """
    where = layout(data)
    found = {path.stem for path in (where.root / where.lists).glob("*.txt")}
    if where.images == "images":
        # Beside paired folders a text file may be anything, such as a licence.
        found &= set(USUAL_SPLITS)
        found |= {name for name in USUAL_SPLITS if (where.root / "images" / name).is_dir()}
        found = found or {"train", "val"}
    if not found:
        raise UserError(
            f"{where.root}: holds neither lists in {where.lists} nor the folders images and masks; "
            "name a folder in PASCAL VOC layout or one of photos and masks in pairs"
        )
    first = {name: index for index, name in enumerate(USUAL_SPLITS)}
    return sorted(found, key=lambda name: (first.get(name, len(first)), name))


def _paired_names(where: Layout, split: str) -> list[str]:
    every = sorted(set(where.photos()))
    folder = where.root / where.images / split
    if folder.is_dir():
        return [name for name in every if name.startswith(f"{split}/")]
    divided = any(
        where.list_of(usual).exists() or (where.root / where.images / usual).is_dir()
        for usual in USUAL_SPLITS
    )
    if divided or split not in ("train", "val"):
        raise UserError(
            f"{where.list_of(split)}: missing, and {folder} is no folder either; name a split "
            "that exists or write the list, one NAME a line"
        )

    def held_back(name: str) -> bool:
        return hashlib.sha256(name.encode()).digest()[0] % HELD_BACK == 0

    return [name for name in every if held_back(name) == (split == "val")]


def read_mask(path: str, labels: LabelSet) -> tuple[np.ndarray, int]:
    """Reads a mask.

    Returns:
        uint8 class ids ``[h, w]``, 255 for void; and the number of pixels of an RGB mask whose
        colour is no label's (they are void too).

    Raises:
        UserError: the file cannot be read, is of another mode, or holds an id outside the set.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ("P", "L", "1"):
                ids = np.array(image, np.uint8)
            elif image.mode in ("RGB", "RGBA"):
                return image2label(np.array(image.convert("RGB")), labels)
            else:
                raise UserError(
                    f"{path}: a mask is palette, grey or RGB, but this is {image.mode}; save it as "
                    "an 8-bit PNG"
                )
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as a mask: {error}") from None
    wrong = np.unique(ids[(ids >= len(labels)) & (ids != VOID)])
    if wrong.size:
        raise UserError(
            f"{path}: label value {wrong[0]} is outside the set of {len(labels)} labels "
            f"(0 to {len(labels) - 1}, or {VOID} for void); mend the mask or its labels.json"
        )
    return ids, 0


def read_size(path: str) -> tuple[int, int]:
    """Decodes a photo and tells its (height, width) in pixels.

    Raises:
        UserError: it cannot be read, or is of a format that TensorFlow does not read.
    """
    try:
        with Image.open(path) as picture:
            picture.load()  # only decoding finds a truncated file
            (width, height), kind = picture.size, picture.format
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as an image: {error}") from None
    if kind not in DECODABLE:
        raise UserError(f"{path}: is {kind} inside, which training cannot read; save it as JPEG")
    if orientation > 1:
        # Its mask may be drawn either way; the pipeline turns it upright, TensorFlow does not.
        raise UserError(f"{path}: is turned by EXIF; save it upright, as its mask is drawn")
    return height, width


def check_pair(where: Layout, name: str, labels: LabelSet) -> tuple[Pair | None, list[UserError]]:
    """Checks one pair; both files are decoded.

    Returns:
        The pair, None if anything is wrong with it; and all that is: a file is missing or
        unreadable, its partner has another size, or the mask holds a value outside the set. Each
        message names the file.
    """
    image, mask = where.image(name), where.mask(name)
    problems = []
    size = ids = None
    try:
        if image is None:
            hint = "; names are listed without suffix" if name.endswith(IMAGE_SUFFIXES) else ""
            raise UserError(f"{where.expected(name)}: missing, but the split lists it{hint}")
        size = read_size(str(image))
    except UserError as error:
        problems.append(error)
    try:
        if not mask.exists():
            raise UserError(f"{mask}: missing, but the split lists {name}")
        ids, unknown = read_mask(str(mask), labels)
    except UserError as error:
        problems.append(error)
    if size is None or ids is None:
        return None, problems
    if ids.shape != size:
        mismatch = f"is {ids.shape[1]}×{ids.shape[0]}, but its photo is {size[1]}×{size[0]}"
        return None, [UserError(f"{mask}: {mismatch}")]
    grey = io.BytesIO()
    Image.fromarray(ids).save(grey, "PNG", compress_level=1)
    return Pair(str(image), str(mask), *size, grey.getvalue(), unknown), []


def read_pair(where: Layout, name: str, labels: LabelSet) -> Pair:
    """Checks one pair as :func:`check_pair` does.

    Raises:
        UserError: the first of what is wrong with it.
    """
    pair, problems = check_pair(where, name, labels)
    if pair is None:
        raise problems[0]
    return pair


def read_split(data: str | Path, split: str, labels: LabelSet) -> list[Pair]:
    """Lists and checks the pairs of a split; every file is decoded once.

    Args:
        data: the folder.
        split: its name, ``train`` or ``val``.

    Raises:
        UserError: as :func:`names` and :func:`read_pair` do.
    """
    where = layout(data)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda name: read_pair(where, name, labels), names(data, split)))
