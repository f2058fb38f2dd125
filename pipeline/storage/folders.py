"""Folders of local disk: one by itself, or all that lies below it.

Links to folders are followed, but no folder is listed twice: by its own path if it lies below the
folder that is asked for, else by the first link that leads to it. So loops end, and which path a
file has does not depend on who lists what.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator

from pipeline.storage.listed import File, Link, Part, Unlisted
from pipeline.storage.names import parts_used


def look_into(folder: str) -> Iterator[File | Unlisted | Part | Link]:
    """The files that lie in a folder itself, and the folders and links to folders; in no order."""
    try:
        for path, kind in _entries(folder):
            yield look(path) if kind is File else kind(path)
    except OSError as error:
        yield _unlisted(folder, error)


def below(folder: str) -> Iterator[File | Unlisted | Link]:
    """All that lies below a folder, in no order; no link to a folder is followed."""
    folders = [folder]
    while folders:
        for found in look_into(folders.pop()):
            if isinstance(found, Part):
                folders.append(found.where)
            else:
                yield found


def _anything(path: str) -> bool:
    return True


def walk(folder: str, sought: Callable[[str], Hashable] = _anything) -> Iterator[File | Unlisted]:
    """Every file below a folder, in order, and then behind its links.

    A folder is listed by its own path if it lies below this one, else by the first link that leads
    to it. So loops end, and names do not depend on who lists what.

    Args:
        sought: what is sought below a folder; where it is nothing, the folder is not entered. One
            that is met again is entered where something else is sought than before.
    """
    if os.path.isdir(folder):
        yield from _walk([folder], sought)


def behind(folder: str, links: Iterable[str]) -> Iterator[File | Unlisted]:
    """What :func:`walk` finds behind the links that :func:`below` a folder has met."""
    return _walk(sorted(links), _anything, os.path.realpath(folder))


def _walk(
    starts: Iterable[str], sought: Callable[[str], Hashable], known: str | None = None
) -> Iterator[File | Unlisted]:
    """Folders one after another, then the links that were met there.

    Args:
        known: the real path of a folder of which all is listed elsewhere.
    """
    to_follow, seen = deque(starts), set()
    while to_follow:
        links, first = [], to_follow.popleft()
        home = os.path.realpath(first)
        folders = [(first, home)]
        while folders:
            where, real = folders.pop()
            visit = real, sought(where)
            if visit in seen or (known and f"{real}/".startswith(f"{known.rstrip('/')}/")):
                continue
            seen.add(visit)
            inside = []
            try:
                entries = sorted(_entries(where))
            except OSError as error:
                yield _unlisted(where, error)
                continue
            for path, kind in entries:
                if kind is File:
                    yield look(path)
                elif sought(path):
                    if kind is Link:
                        links.append(path)
                    else:
                        inside.append((path, f"{real.rstrip('/')}/{path.rpartition('/')[2]}"))
            folders.extend(reversed(inside))
        to_follow.extend(sorted(links))
        if sought is _anything:  # no link leads to anything new there
            known = known or home


def _entries(folder: str) -> Iterator[tuple[str, type[File] | type[Part] | type[Link]]]:
    """The paths in a folder, and what is there.

    Raises:
        OSError: the folder cannot be listed.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{folder.rstrip('/')}/{entry.name}"
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False
            yield path, (Link if entry.is_symlink() else Part) if is_folder else File


def _unlisted(folder: str, error: OSError) -> Unlisted:
    return Unlisted(folder, type(error).__name__, str(error.strerror))


def glob(pattern: str, folder: str) -> Iterator[File | Unlisted]:
    """The files that a pattern matches, as Python's ``glob`` has it, found as by :func:`walk`.

    Args:
        folder: the deepest one that holds all of them.
    """
    parts = pattern[len(folder) + 1 :].split("/")
    if parts[-1] == "**":  # of files it means any at any depth
        parts.append("*")

    def used(path: str) -> frozenset[int]:
        return parts_used(parts, path[len(folder) + 1 :])

    for file in walk(folder or "/", lambda path: used(path) - {len(parts)}):
        if isinstance(file, Unlisted) or len(parts) in used(file.path):
            yield file


def look(path: str) -> File:
    """What a listing tells of one path; a dangling link is left for reading it to tell."""
    try:
        found = os.stat(path)
    except OSError:
        return File(path)
    regular = stat.S_ISREG(found.st_mode)
    return File(path, found.st_size, str(found.st_mtime_ns), regular, found.st_mtime)
