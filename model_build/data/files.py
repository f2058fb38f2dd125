"""Which files may be photos or masks, by their names: one rule for training and the job."""

from __future__ import annotations

import os

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
    return (
        name in NEVER_FILES
        or name.startswith(NEVER_FILES_BEGIN)
        or any(map(is_never_folder, folders))
    )


def is_never_folder(name: str) -> bool:
    """Whether no folder of this name holds photos that the user has put there."""
    name = name.lower()
    return name in NEVER_FOLDERS or name.startswith(NEVER_FOLDERS_BEGIN)
