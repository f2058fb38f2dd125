"""Which files may be photos or masks, by their names: one rule for training and the job."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable

# What the job decodes. Of several photos of one name the first extension here is used.
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
NEVER_FOLDERS_BEGIN = ".trash-"  # and the number of a user
NEVER_FILES = frozenset((".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini"))
NEVER_FILES_BEGIN = "._"  # what macOS writes beside each file on foreign disks


def image_extension(name: str) -> str:
    """The name's extension if it is an image's, in the case it has there, else nothing."""
    extension = os.path.splitext(name)[1]
    return extension if extension.lower() in IMAGE_EXTENSIONS else ""


def is_never_photo(path: str) -> bool:
    """Whether a file is none of the user's by its name, or by that of a folder it is in.

    Args:
        path: below the folder that the user has named, which may be called anything.
    """
    *folders, name = path.lower().split("/")
    return is_never_file(name) or any(map(is_never_folder, folders))


def is_never_file(name: str) -> bool:
    """Whether a file manager has left a file of this name: ``.DS_Store``, ``._a.jpg``, …"""
    name = name.lower()
    return name in NEVER_FILES or name.startswith(NEVER_FILES_BEGIN)


def is_never_folder(name: str) -> bool:
    """Whether no folder of this name holds photos that the user has put there."""
    name = name.lower()
    return name in NEVER_FOLDERS or name.startswith(NEVER_FOLDERS_BEGIN)


def by_name(files: Iterable[str], extensions: tuple[str, ...] = IMAGE_EXTENSIONS) -> dict[str, str]:
    """Images by their names without extension.

    Args:
        extensions: of several images of one name the one that comes first here, in small letters
            rather than others.
    """

    def rank(path: str) -> tuple[int, bool, str]:
        extension = image_extension(path)
        return extensions.index(extension.lower()), extension != extension.lower(), path

    images = sorted(filter(image_extension, files), key=rank, reverse=True)
    return {path.removesuffix(image_extension(path)): path for path in images}


def by_composed_name(files: Iterable[str]) -> dict[str, str]:
    """Files, images rather than others, by their names without extension in Unicode's form NFC."""
    ordered = sorted(files, key=lambda path: (bool(image_extension(path)), path))
    return {unicodedata.normalize("NFC", os.path.splitext(path)[0]): path for path in ordered}


def misnamed(name: str, folder: str, files: dict[str, str]) -> str:
    """The end of a message on an image that is not there: what is there in its place, or nothing.

    Args:
        name: of the image, without extension.
        folder: where it should be.
        files: of that folder, from :func:`by_composed_name`.
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
    """How often extensions occur, the most frequent ones: ``.heic 3, .mov 1``."""
    counts = Counter(os.path.splitext(path)[1].lower() or "no extension" for path in files)
    return ", ".join(f"{extension} {count}" for extension, count in counts.most_common(5))
