"""Data folders: where their photos, masks, splits and labels are.

Either in PASCAL VOC layout::

    DATA/JPEGImages/NAME.jpg                   or another extension of model_build.data.files
    DATA/SegmentationClass/NAME.png            palette or grey (pixel = class id), or RGB colours
    DATA/ImageSets/Segmentation/SPLIT.txt      one NAME a line
    DATA/labels.json                           optional; without it the 21 classes of VOC

or paired folders::

    DATA/images/NAME.jpg
    DATA/masks/NAME.png
    DATA/SPLIT.txt                             optional, see :meth:`DataFolder.names`
    DATA/labels.json

Extensions may be upper or lower case. Names in folders of caches and systems count only if a list
contains them. A folder is accessed only through two functions, one to list and one to read, so it
may be on any storage. An empty folder counts as missing, as on an object store.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from model_build.common.errors import UserError, cause, did_you_mean
from model_build.data.files import (
    IMAGE_EXTENSIONS,
    by_composed_name,
    by_name,
    extensions,
    image_extension,
    is_never_folder,
    is_never_photo,
    similar_file_note,
)
from model_build.data.folders import walk
from model_build.data.labels import VOC, LabelSet, parse_labels

NAMES_PER_VALIDATION_NAME = 10  # without lists, about one name in this many is for validation
USUAL_SPLITS = ("train", "val", "trainval", "test")
MISSING = (FileNotFoundError, NotADirectoryError)
# Parts of names that other tools give to files like labels.json.
LABEL_WORDS = ("label", "class", "categor", "palette")
LABEL_EXTENSIONS = (".json", ".jsonc", ".txt", ".csv", ".yaml", ".yml", ".names", ".pbtxt")


def list_local(folder: str) -> Iterator[str]:
    """The paths of all files below a local folder, in any order; none if there is no such folder.

    Links are followed by the rule of :mod:`model_build.data.folders`. A link that leads nowhere or
    to itself is no file.

    Raises:
        OSError: a folder cannot be listed, and it is none of a cache or the system.
    """
    for path, error in walk([folder]):
        hidden = path != folder and is_never_folder(posixpath.basename(path))
        if error and not (hidden or isinstance(error, MISSING)):
            raise error
        if not error and os.path.isfile(path):
            yield path


def read_local(path: str) -> bytes:
    """The bytes of a local file.

    Raises:
        OSError: it cannot be read; FileNotFoundError: it is not there.
    """
    return Path(path).read_bytes()


@dataclass(frozen=True)
class DataFolder:
    """A folder of photos and masks in one of the two layouts; VOC's if it has neither.

    The photos are listed once, on first use; a pickled copy includes the listing.

    Attributes:
        root: its path or URI; all others begin with it and are joined by ``/``.
        list_files: returns the full paths of all files below a folder, in any order; none if there
            is no such folder. Raises OSError.
        read: returns the bytes of a file. Raises FileNotFoundError if it does not exist, or another
            OSError.
    """

    root: str
    list_files: Callable[[str], Iterable[str]] = list_local
    read: Callable[[str], bytes] = read_local

    def labels_note(self) -> str | None:
        """Returns a note if ``labels.json`` is missing, with files that may be meant as one.

        Raises:
            UserError: the folder cannot be listed.
        """
        path = self._path("labels.json")
        try:
            self.read(path)
        except MISSING:
            pass
        except OSError:
            return None
        else:
            return None
        found = sorted(
            file
            for file in self._below("")
            if "/" not in file
            and file.lower().endswith(LABEL_EXTENSIONS)
            and any(word in file.lower() for word in LABEL_WORDS)
        )
        note = f"{path}: not found, so the {len(VOC)} labels of PASCAL VOC are used"
        verb = "are" if found[1:] else "is"
        return note + (f"; {', '.join(found)} {verb} not read: write labels.json" if found else "")

    def labels(self) -> LabelSet:
        """Reads the label set of ``labels.json``; VOC's if the file is missing.

        Raises:
            UserError: the file cannot be read, is not valid JSON, or is not a label set.
        """
        path = self._path("labels.json")
        try:
            return parse_labels(self.read(path), path)
        except MISSING:
            return VOC
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {cause(error)}") from None

    def splits(self) -> list[str]:
        """Returns the names of its splits, ``train`` and ``val`` first.

        Raises:
            UserError: it has none.
        """
        if self._paired:
            # Next to paired folders a text file may be anything, such as a licence.
            found = {split for split in USUAL_SPLITS if self._has_split(split)}
            found = found or {"train", "val"}
        else:
            lists = (path for path in self._below(self._lists) if "/" not in path)
            found = {path.removesuffix(".txt") for path in lists if path.endswith(".txt")}
        if not found:
            raise UserError(
                f"{self.root}: has neither the folders images and masks nor lists in "
                f"{self._lists}; name a folder with images and masks, or one in PASCAL VOC layout"
            )
        first = {name: index for index, name in enumerate(USUAL_SPLITS)}
        return sorted(found, key=lambda name: (first.get(name, len(first)), name))

    def names(self, split: str) -> list[str]:
        """Returns the names of a split, without extensions.

        They are read from the split's list. Paired folders need no list: a split is then the photos
        below ``images/SPLIT/``; or, without such a folder, ``val`` is about one name in ten, chosen
        by a hash of the name, so that it does not change when photos are added, and ``train`` the
        rest. If the hash chooses none, as may happen with few photos, ``val`` is the one name
        closest to being chosen.

        Raises:
            UserError: there is no such split, or it is empty.
        """
        source = listing = self.list_of(split)
        try:
            lines = self.read(listing).decode("utf-8-sig").splitlines()
            found = [line.strip() for line in lines if line.strip()]
        except OSError as error:
            if not self._paired or not isinstance(error, MISSING):
                known = self.splits()
                raise UserError(
                    f"{listing}: cannot be read: {cause(error)}; the splits are "
                    + ", ".join(known)
                    + did_you_mean(split.removesuffix(".txt"), known)
                ) from None
            found, source = self._names_without_list(split), self.photo_folder
        except ValueError:
            raise UserError(
                f"{listing}: is not UTF-8 text; put one image name on each line"
            ) from None
        if not found:
            raise UserError(
                f"{source}: no images for the split {split}; list them in {listing}, "
                "one name per line"
            )
        return found

    def photos(self) -> list[str]:
        """Returns the names of all photos, listed or not, in order; twice if two share one."""
        return sorted(self._names(self._photo_files))

    def masks(self) -> list[str]:
        """Returns the names of all masks, with or without a photo, in order."""
        return sorted(self._names(self._mask_files))

    def unused_files(self) -> dict[str, list[str]]:
        """Finds files in the folders of photos and masks without an image extension.

        Returns:
            For each folder the relative paths, in order.
        """
        folders = {self.photo_folder: self._photo_files, self.mask_folder: self._mask_files}
        return {
            folder: sorted(
                path for path in files if not (image_extension(path) or _is_hidden(path))
            )
            for folder, files in folders.items()
        }

    def never_photos(self) -> list[str]:
        """Returns files of the photos' folder that are skipped because of a name in their path."""
        return sorted(filter(_is_hidden, self._photo_files))

    def photo(self, name: str) -> str | None:
        """Returns the path of a name's photo, or None if there is none."""
        found = self._photos.get(_normal(name))
        return f"{self.photo_folder}/{found}" if found else None

    def expected(self, name: str) -> str:
        """Returns the path at which a name's photo is expected."""
        return f"{self.photo_folder}/{_normal(name)}{IMAGE_EXTENSIONS[0]}"

    def mask(self, name: str) -> str:
        """Returns the path of a name's mask; a PNG if it does not exist."""
        name = _normal(name)
        return f"{self.mask_folder}/{self._masks.get(name, f'{name}.png')}"

    def similar(self, name: str) -> tuple[str, str]:
        """Finds files similar to a name's missing photo and mask.

        Returns:
            Two ends of messages; empty if there are none.
        """
        photos, masks = self._similar_files
        return (
            similar_file_note(_normal(name), self.photo_folder, photos),
            similar_file_note(_normal(name), self.mask_folder, masks),
        )

    def list_of(self, split: str) -> str:
        """Returns the path of a split's list, whether or not it exists."""
        return self._path(self._lists, f"{split}.txt")

    @property
    def photo_folder(self) -> str:
        """The path of the folder with the photos."""
        return self._path("images" if self._paired else "JPEGImages")

    @property
    def mask_folder(self) -> str:
        """The path of the folder with the masks."""
        return self._path("masks" if self._paired else "SegmentationClass")

    @cached_property
    def _images(self) -> frozenset[str]:
        return frozenset(self._below("images"))

    @cached_property
    def _paired(self) -> bool:
        return bool(self._images) and bool(self._paired_masks)

    @cached_property
    def _paired_masks(self) -> frozenset[str]:
        return frozenset(self._below("masks"))

    @property
    def _lists(self) -> str:
        return "" if self._paired else "ImageSets/Segmentation"

    @cached_property
    def _photo_files(self) -> frozenset[str]:
        """Relative paths of all files below the photos' folder, photos or not."""
        return self._images if self._paired else frozenset(self._below("JPEGImages"))

    @cached_property
    def _mask_files(self) -> frozenset[str]:
        return self._paired_masks if self._paired else frozenset(self._below("SegmentationClass"))

    @cached_property
    def _photos(self) -> dict[str, str]:
        return by_name(self._photo_files, IMAGE_EXTENSIONS)

    @cached_property
    def _masks(self) -> dict[str, str]:
        return by_name(self._mask_files, (".png", *IMAGE_EXTENSIONS))

    @cached_property
    def _similar_files(self) -> tuple[dict[str, str], dict[str, str]]:
        return by_composed_name(self._photo_files), by_composed_name(self._mask_files)

    @staticmethod
    def _names(files: Iterable[str]) -> Iterator[str]:
        """Yields the names of images that are not hidden."""
        for path in files:
            if (extension := image_extension(path)) and not _is_hidden(path):
                yield path.removesuffix(extension)

    def _has_split(self, split: str) -> bool:
        """Whether a paired folder has a list or a folder of this split."""
        try:
            self.read(self.list_of(split))
        except MISSING:
            return self._has_photo_folder(split)
        except OSError:  # it exists; reading it raises this error again
            pass
        return True

    def _has_photo_folder(self, split: str) -> bool:
        return any(path.startswith(f"{split}/") for path in self._photo_files)

    def _names_without_list(self, split: str) -> list[str]:
        every = sorted(set(self.photos()))
        if self._photo_files and not every:
            raise UserError(
                f"{self.photo_folder}: none of its {len(self._photo_files)} files is a photo by "
                f"its extension ({extensions(self._photo_files)}); photos end in "
                + ", ".join(IMAGE_EXTENSIONS)
            )
        if self._has_photo_folder(split):
            return [name for name in every if name.startswith(f"{split}/")]
        divided = any(self._has_split(usual) for usual in USUAL_SPLITS)
        if divided or split not in ("train", "val"):
            raise UserError(
                f"{self.list_of(split)}: not found, and neither is the folder "
                f"{self.photo_folder}/{split}; name an existing split, or write the list, "
                "one name per line"
            )

        if len(every) == 1:
            raise UserError(
                f"{self.photo_folder}: has only one photo, but training needs two: one to learn "
                "from and one to score on; add photos and their masks"
            )

        def rank(name: str) -> tuple[int, bytes]:
            digest = hashlib.sha256(name.encode()).digest()
            return digest[0] % NAMES_PER_VALIDATION_NAME, digest

        first = min(every, key=rank, default=None)

        def held_back(name: str) -> bool:
            return rank(name)[0] == 0 or name == first

        return [name for name in every if held_back(name) == (split == "val")]

    def _below(self, folder: str) -> Iterator[str]:
        """Yields the relative paths of the files below a folder of this one."""
        path = self._path(folder)
        try:
            for file in self.list_files(path):
                yield file.removeprefix(f"{path}/")
        except OSError as error:
            raise UserError(f"{path}: cannot be listed: {cause(error)}") from None

    def _path(self, *parts: str) -> str:
        return "/".join([self.root.rstrip("/"), *filter(None, parts)])


def _normal(name: str) -> str:
    """Normalises ``./a`` and ``b//a``, which a list may contain, to ``a`` and ``b/a``."""
    return posixpath.normpath(name)


def _is_hidden(path: str) -> bool:
    return is_never_photo(path) or posixpath.basename(path).startswith(".")
