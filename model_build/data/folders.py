"""Local folders, walked by the same rule for training and for the job.

Links to folders are followed, but no folder is listed twice: it is listed by its own path if it
lies below the walked folder, otherwise by the first link that leads to it. So loops end, and the
path of a file does not depend on who lists what.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Literal

Kind = Literal["file", "folder", "link"]  # links to folders; other links are files


def entries(folder: str) -> Iterator[tuple[str, Kind]]:
    """Yields the paths in a folder, in no order, and what is there.

    Raises:
        OSError: the folder cannot be listed.
    """
    with os.scandir(folder) as found:
        for entry in found:
            path = f"{folder.rstrip('/')}/{entry.name}"
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False
            yield path, ("link" if entry.is_symlink() else "folder") if is_folder else "file"


def _all(path: str) -> bool:
    return True


def walk(
    starts: Iterable[str], wanted: Callable[[str], Hashable] = _all, listed: str | None = None
) -> Iterator[tuple[str, OSError | None]]:
    """Walks folders one after another, each in order, and then the links found there.

    Args:
        wanted: what is wanted below a folder; one below which nothing is wanted is not entered,
            and one that is found again is entered if something else is wanted than before.
        listed: the real path of a folder below which everything is listed elsewhere.

    Yields:
        A file and None, or a folder and the error that keeps it from being listed.
    """
    to_follow, seen = deque(starts), set()
    while to_follow:
        links, first = [], to_follow.popleft()
        home = os.path.realpath(first)
        folders = [(first, home)]
        while folders:
            folder, real = folders.pop()
            visit = real, wanted(folder)
            if visit in seen or (listed and f"{real}/".startswith(f"{listed.rstrip('/')}/")):
                continue
            seen.add(visit)
            below = []
            try:
                found = sorted(entries(folder))
            except OSError as error:
                yield folder, error
                continue
            for path, kind in found:
                if kind == "file":
                    yield path, None
                elif wanted(path):
                    if kind == "link":
                        links.append(path)
                    else:
                        below.append((path, f"{real.rstrip('/')}/{path.rpartition('/')[2]}"))
            folders.extend(reversed(below))
        to_follow.extend(sorted(links))
        if wanted is _all:  # no link leads to anything new below the first folder
            listed = listed or home
