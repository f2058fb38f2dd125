"""Counts the files that are not treated as images by extension, and gives hints about them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.records import PassedOver
from pipeline.storage import Files

EXTENSIONS = 20  # listed in a summary; all further ones count as "other"
COUNTED = 1000  # extensions counted separately: an archive may have a new one in every file
NONE, OTHER = "none", "other"
_EXTENSION = re.compile(r"\.[a-z0-9_~-]{1,12}")
# Formats that are not read, by their extensions. Camera RAW begins like TIFF.
UNSUPPORTED = {
    "HEIC": frozenset((".heic", ".heif", ".hif")),
    "camera RAW": frozenset(
        (".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".kdc", ".nef", ".nrw")
        + (".orf", ".pef", ".raf", ".rw2", ".srw", ".x3f")
    ),
}
SAMPLES_PER_EXTENSION = 4  # files whose first bytes are read
MAX_SAMPLED_EXTENSIONS = 50
HEAD_BYTES = 16  # enough for all of :data:`_MAGIC_NUMBERS`
_MAGIC_NUMBERS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")

Sample = dict[str, list[str]]


def extension(path: str) -> str:
    """Returns a file's extension in lower case, ``"none"`` or ``"other"``."""
    found = os.path.splitext(path)[1].lower()
    return found if _EXTENSION.fullmatch(found) else OTHER if found else NONE


def has_another_extension(file: PassedOver) -> bool:
    """Whether a file was passed over because it lacks an image extension."""
    return not (file.written or file.never_photo)


def most_common(counts: Mapping[str, int], number: int) -> dict[str, int]:
    """Returns the highest counts, highest first, and the sum of all others as ``"other"``."""
    others = counts.get(OTHER, 0)
    named = sorted(
        ((name, n) for name, n in counts.items() if name != OTHER),
        key=lambda item: (-item[1], item[0]),
    )
    others += sum(n for _, n in named[number:])
    return dict(named[:number]) | ({OTHER: others} if others else {})


def listed(counts: Mapping[str, int]) -> str:
    """Returns counts as text: ``".heic 120, .mov 4"``."""
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def hints(counts: Mapping[str, int], look_like_images: int) -> list[str]:
    """Returns advice for files of these extensions.

    Args:
        look_like_images: number of sampled files that start like an image.
    """
    found = [
        f"{name} is not read: convert such files to JPEG or PNG first"
        for name, extensions in UNSUPPORTED.items()
        if not extensions.isdisjoint(counts)
    ]
    if look_like_images:
        one = look_like_images == 1
        which = (
            "1 file looks like an image" if one else f"{look_like_images} files look like images"
        )
        found.append(f"{which}: add --all-files")
    return found


def begins_like_image(head: bytes) -> bool:
    """Whether a file's first 16 bytes are those of a supported format."""
    return (
        head.startswith(_MAGIC_NUMBERS)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == b"\0\0\0\0")  # its reserved bytes
    )


def add_to_sample(sample: Sample, paths: Iterable[str]) -> Sample:
    """Adds files to a sample; it keeps the first few files of each of the first extensions."""
    for path in paths:
        sample.setdefault(extension(path), []).append(path)
    first = sorted(sample)[:MAX_SAMPLED_EXTENSIONS]
    return {name: sorted(set(sample[name]))[:SAMPLES_PER_EXTENSION] for name in first}


def add_file(sample: Sample, file: PassedOver) -> Sample:
    """Adds one file to a sample if it may be an image."""
    known = sample.get(extension(file.path), [])
    # True for most files of an archive, which then cost nothing more.
    full = len(known) == SAMPLES_PER_EXTENSION and file.path >= known[-1]
    return sample if full or not _may_be_image(file) else add_to_sample(sample, [file.path])


def merged(samples: Iterable[Sample]) -> Sample:
    """Merges several samples into one."""
    paths = (path for sample in samples for some in sample.values() for path in some)
    return add_to_sample({}, paths)


def sample_of(passed_over: Iterable[PassedOver]) -> Sample:
    """Samples a few of the files that may be images despite their extension."""
    return add_to_sample({}, (file.path for file in passed_over if _may_be_image(file)))


def _may_be_image(file: PassedOver) -> bool:
    found = extension(file.path)
    return has_another_extension(file) and not any(found in names for names in UNSUPPORTED.values())


def count_lookalikes(sample: Sample, files: Files) -> int:
    """Counts the readable files of a sample that start like an image."""
    paths = [(path, HEAD_BYTES) for of_extension in sample.values() for path in of_extension]
    heads = files.read_each(paths, HEAD_BYTES)
    return sum(isinstance(head, bytes) and begins_like_image(head) for head in heads)


def tally_lookalikes(sample: Sample, files: Files) -> Counter[tuple[str, ...]]:
    """Returns :func:`count_lookalikes` in the form of a summary's counts."""
    return Counter({("look_like_images",): count_lookalikes(sample, files)})
