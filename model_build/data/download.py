"""Downloads an archive over HTTP, resuming after breaks, and unpacks it safely."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from model_build.common.errors import UserError, first_line
from model_build.common.progress_bar import Advance, progress_bar

TIMEOUT_SECONDS = 30.0  # without receiving a byte
RETRY_PAUSES_SECONDS = (1.0, 3.0, 10.0, 30.0)  # before each further attempt
BYTES_PER_READ = 1 << 20
MARKER = "ImageSets/Segmentation/train.txt"  # exists in every complete folder


@dataclass(frozen=True)
class Source:
    """An archive: its URL, its checksum and its contents.

    Attributes:
        url: of the tar.
        size: of the tar in bytes.
        sha256: of the tar, in hexadecimal.
        folder: the wanted folder in the tar, in VOC layout.
        unpacked: approximate size on disk in bytes.
    """

    url: str
    size: int
    sha256: str
    folder: str
    unpacked: int

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[-1]


# The sha256 is from KerasCV and torchvision's prototype datasets. The same file is also known by
# its md5, 6cd6e144f989b92b3379bac3b3de84fd (torchvision), or by its sha1,
# 4e443f8a2eca6b1dac8a6c57641b67dd40621a49 (Dive into Deep Learning).
VOC2012 = Source(
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    size=1_999_639_040,
    sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    folder="VOCdevkit/VOC2012",
    unpacked=2_100_000_000,
)


def download_and_unpack(source: Source, dest: str | Path, say: Callable[[str], None]) -> Path:
    """Downloads and unpacks an archive, resuming an earlier call.

    Args:
        dest: the folder for the archive and its contents; created if missing.
        say: receives lines for the user.

    Returns:
        The unpacked folder, ``dest / source.folder``. It appears only when it is complete.

    Raises:
        UserError: no disk space, no connection, or not the expected archive.
        KeyboardInterrupt: the data downloaded so far are kept.
    """
    root = Path(dest)
    folder, archive = root / source.folder, root / source.file
    if folder.exists():
        if not (folder / MARKER).exists():
            raise UserError(f"{folder}: exists, but without {MARKER}; move it away and try again")
        say(f"{folder}: already there; nothing to download")
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        _check_room(source, archive)
        fetch(source, archive, say)
        _unpack_folder(source, archive, folder)
    except OSError as error:
        raise UserError(f"{root}: cannot be written: {error.strerror or error}") from None
    say(f"{folder}: unpacked; you may delete {archive}")
    return folder


def _part(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_room(source: Source, archive: Path) -> None:
    held = source.size if archive.exists() else _size(_part(archive))
    needed = max(source.size - held, 0) + source.unpacked
    free = shutil.disk_usage(archive.parent).free
    if free < needed:
        raise UserError(
            f"{archive.parent}: {needed / 1e9:.1f} GB needed (archive and contents), but "
            f"{free / 1e9:.1f} GB free; make room or name another folder"
        )


class _Broken(Exception):
    """A failed attempt; unless it is ``final``, another may succeed."""

    def __init__(self, message: str, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


def fetch(source: Source, archive: Path, say: Callable[[str], None]) -> None:
    """Downloads an archive and checks it; partial data are in ``ARCHIVE.part``.

    Raises:
        UserError: no connection after a few attempts, or not the expected archive.
    """
    if archive.exists():
        digest = hashlib.sha256()
        with progress_bar(f"check {source.file}", of_bytes=True) as advance:
            _hash(archive, digest, lambda done: advance(done, source.size))
        if digest.hexdigest() != source.sha256:
            raise UserError(f"{archive}: is not the file at {source.url}; move it away first")
        return
    part = _part(archive)
    if _size(part) > source.size:
        part.unlink()
    with progress_bar(f"download {source.file}", of_bytes=True) as advance:
        checksum = _retry(source, part, advance, say)
    if checksum != source.sha256:
        part.unlink()
        raise UserError(
            f"{part}: removed, as its checksum is wrong (sha256 {checksum}, expected "
            f"{source.sha256}); run the same command again to download it"
        )
    part.rename(archive)


def _retry(source: Source, part: Path, advance: Advance, say: Callable[[str], None]) -> str:
    """Retries until the whole file is in ``part``; returns its sha256."""
    pauses = iter(RETRY_PAUSES_SECONDS)
    while True:
        try:
            return _attempt(source, part, advance)
        except _Broken as broken:
            here = f"{_size(part):,} of {source.size:,} bytes are here"
            pause = None if broken.final else next(pauses, None)
            if pause is None:
                raise UserError(
                    f"{source.url}: {broken}; {here}; run the same command again to go on, or "
                    f"put the whole file there yourself as {part.with_suffix('')}"
                ) from None
            say(f"{source.url}: {broken}; {here}; trying again in {pause:g} s")
            time.sleep(pause)


def _attempt(source: Source, part: Path, advance: Advance) -> str:
    """Continues ``part`` to the end of the file; returns the sha256 of the whole."""
    digest = hashlib.sha256()
    done = _size(part)
    if done:
        _hash(part, digest, lambda read: None)
    if done == source.size:
        return digest.hexdigest()
    with _request(source, done) as response:
        if response.status != 206:  # or the server does not support ranges and starts again
            digest, done = hashlib.sha256(), 0
        total = _total(response, done)
        if total not in (None, source.size):
            raise _Broken(f"the file there is another one, of {total:,} bytes", final=True)
        with open(part, "ab") as file:
            file.truncate(done)
            # Requests one byte more than is missing: a longer file is a different file.
            while block := _read(response, min(BYTES_PER_READ, source.size - done + 1)):
                file.write(block)
                digest.update(block)
                done += len(block)
                advance(done, source.size)
    if done < source.size:
        raise _Broken("the connection broke")
    return digest.hexdigest()


def _request(source: Source, start: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": "fcn-beam"}  # some servers reject urllib's own
    if start:
        headers["Range"] = f"bytes={start}-"
    with _as_broken():
        try:
            return urllib.request.urlopen(
                urllib.request.Request(source.url, headers=headers), timeout=TIMEOUT_SECONDS
            )
        except urllib.error.HTTPError as error:
            error.close()
            passing = error.code in (408, 429) or error.code >= 500
            answer = f"the server answers {error.code} {error.reason}"
            raise _Broken(answer, final=not passing) from None


def _read(response: http.client.HTTPResponse, count: int) -> bytes:
    with _as_broken():
        return response.read1(count)  # returns what has arrived, so that nothing is lost


@contextlib.contextmanager
def _as_broken() -> Iterator[None]:
    """Separates errors of the network from those of the disk: both raise OSError."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)  # urllib wraps the cause
        raise _Broken(first_line(reason if isinstance(reason, Exception) else error)) from None


def _total(response: http.client.HTTPResponse, start: int) -> int | None:
    """Returns the size of the whole file from a response's headers, None if it is missing."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers["Content-Range"] or "")
        if not match or int(match[1]) != start:
            raise _Broken("the server sent a different part than requested")
        return int(match[2])
    length = response.headers["Content-Length"]
    return int(length) if length else None


def _hash(path: Path, digest: hashlib._Hash, advance: Callable[[int], None]) -> None:
    done = 0
    with open(path, "rb") as file:
        while block := file.read(BYTES_PER_READ):
            digest.update(block)
            done += len(block)
            advance(done)


def _unpack_folder(source: Source, archive: Path, folder: Path) -> None:
    """Unpacks next to the archive first, so that ``folder`` is either complete or absent."""
    staging = archive.with_name(f"{archive.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)  # left by a killed run
    try:
        unpack(archive, staging)
        unpacked = staging / source.folder
        if not (unpacked / MARKER).exists():
            raise UserError(
                f"{archive}: does not contain {source.folder}/{MARKER}; it is a different archive"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(unpacked, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def unpack(archive: Path, root: Path) -> None:
    """Unpacks a tar into ``root`` and never writes outside of it.

    Older Pythons lack ``tarfile``'s own filter. Only plain files and folders are created: a hard
    link becomes a copy, so no link can redirect a later file.

    Raises:
        UserError: the tar is damaged, or holds an absolute path, one with ``..``, a symbolic link,
            a device, or a hard link to a file not in it. Files unpacked before that are kept.
    """
    with progress_bar(f"unpack {archive.name}", of_bytes=True) as advance:
        total = archive.stat().st_size
        try:
            with tarfile.open(archive, "r:") as tar:
                for member in tar:
                    target = _inside(archive, member, root)
                    if member.isdir():
                        target.mkdir(parents=True, exist_ok=True)
                    else:
                        _copy(archive, tar, member, target)
                    advance(member.offset_data + member.size, total)
        except tarfile.TarError as error:
            raise UserError(f"{archive}: cannot be unpacked: {first_line(error)}") from None


def _inside(archive: Path, member: tarfile.TarInfo, root: Path) -> Path:
    path = PurePath(member.name)
    if path.anchor or ".." in path.parts or "\0" in member.name:
        raise UserError(f"{archive}: refused: {member.name!r} would be written outside the folder")
    if not (member.isreg() or member.isdir() or member.islnk()):
        raise UserError(f"{archive}: refused: {member.name!r} is a link or a device")
    return root / path


def _copy(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    try:
        content = tar.extractfile(member)
    except KeyError:
        content = None
    if content is None:
        raise UserError(f"{archive}: refused: {member.name!r} is a link to outside the folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, open(target, "wb") as file:
        shutil.copyfileobj(content, file)
