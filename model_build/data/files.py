"""Decides by name which files may be photos or masks, alike in training and in the job."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable

# Formats that the job decodes. Of several photos of one name the first extension here wins.
IMAGE_EXTENSIONS = (
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".dib", ".gif")
    + (".tif", ".tiff", ".webp")
)  # fmt: skip

# Folders of programs, file servers and systems: caches, thumbnails, waste baskets and copies.
NEVER_FOLDERS = frozenset(
    (".ipynb_checkpoints", "__pycache__", ".cache", ".git", ".svn", ".hg", ".thumbnails")
    + ("__macosx", ".appledouble", ".spotlight-v100", ".fseventsd", ".temporaryitems")
    + (".documentrevisions-v100", ".trashes", ".trash", "$recycle.bin", "recycler")
    + ("system volume information", "lost+found", "@eadir", "#recycle", "#snapshot", "@recycle")
    + ("@recently-snapshot", ".@__thumb", ".snapshot", ".snapshots", ".zfs", ".stversions")
    + (".dropbox.cache",)
)
NEVER_FOLDER_PREFIX = ".trash-"  # followed by a user id
NEVER_FILES = frozenset((".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini"))
NEVER_FILE_PREFIX = "._"  # macOS writes these next to each file on other file systems


def image_extension(name: str) -> str:
    """Returns the name's image extension, in its original case, or "" if it has none."""
    extension = os.path.splitext(name)[1]
    return extension if extension.lower() in IMAGE_EXTENSIONS else ""


def is_never_photo(path: str) -> bool:
    """Whether a file's name or a folder's shows that it is not one of the user's photos.

    Args:
        path: relative to the folder that the user named, whose own name does not matter.
    """
    *folders, name = path.lower().split("/")
    return is_never_file(name) or any(map(is_never_folder, folders))


def is_never_file(name: str) -> bool:
    """Whether file managers create files of this name: ``.DS_Store``, ``._a.jpg``, …"""
    name = name.lower()
    return name in NEVER_FILES or name.startswith(NEVER_FILE_PREFIX)


def is_never_folder(name: str) -> bool:
    """Whether folders of this name never contain photos put there by a user."""
    name = name.lower()
    return name in NEVER_FOLDERS or name.startswith(NEVER_FOLDER_PREFIX)


def by_name(files: Iterable[str], extensions: tuple[str, ...] = IMAGE_EXTENSIONS) -> dict[str, str]:
    """Returns images by their names without extension.

    Args:
        extensions: of several images of one name the first in this order is taken, lower case
            before upper case.
    """

    def rank(path: str) -> tuple[int, bool, str]:
        extension = image_extension(path)
        return extensions.index(extension.lower()), extension != extension.lower(), path

    images = sorted(filter(image_extension, files), key=rank, reverse=True)
    return {path.removesuffix(image_extension(path)): path for path in images}


def by_composed_name(files: Iterable[str]) -> dict[str, str]:
    """Returns files by name without extension in Unicode's NFC form; images win over others."""
    ordered = sorted(files, key=lambda path: (bool(image_extension(path)), path))
    return {unicodedata.normalize("NFC", os.path.splitext(path)[0]): path for path in ordered}


def similar_file_note(name: str, folder: str, files: dict[str, str]) -> str:
    """Returns the end of a message on a missing image: a similar file that exists, or "".

    Args:
        name: of the image, without extension.
        folder: where it should be.
        files: those of that folder, from :func:`by_composed_name`.
    """
    path = files.get(unicodedata.normalize("NFC", name))
    if path is None:
        return ""
    if not image_extension(path):
        return f"; {folder}/{path} is there, but images end in {', '.join(IMAGE_EXTENSIONS)}"
    composed = unicodedata.is_normalized("NFC", path)
    form, other = ("NFC", "NFD") if composed else ("NFD", "NFC")
    return f"; a file has this name in Unicode's form {form} instead of {other}: rename it"


def extensions(files: Iterable[str]) -> str:
    """Counts the most frequent extensions: ``.heic 3, .mov 1``."""
    counts = Counter(os.path.splitext(path)[1].lower() or "no extension" for path in files)
    return ", ".join(f"{extension} {count}" for extension, count in counts.most_common(5))
