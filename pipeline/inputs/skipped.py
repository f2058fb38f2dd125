"""Files that are not taken for images: counted by extension, and what can be done about them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.records import PassedOver
from pipeline.storage import Files

EXTENSIONS = 20  # that a summary names; further ones are "other"
COUNTED = 1000  # extensions that are counted apart: an archive may have one a file
NONE, OTHER = "none", "other"
_WORD = re.compile(r"\.[a-z0-9_~-]{1,12}")
# Formats that are not read, by their extensions. Camera RAW begins like TIFF.
NOT_READ = {
    "HEIC": frozenset((".heic", ".heif", ".hif")),
    "camera RAW": frozenset(
        (".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".kdc", ".nef", ".nrw")
        + (".orf", ".pef", ".raf", ".rw2", ".srw", ".x3f")
    ),
}
SAMPLED = 4  # files of each extension whose first bytes are looked at
SAMPLED_EXTENSIONS = 50
HEAD = 16  # bytes
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")

Sample = dict[str, list[str]]


def extension(path: str) -> str:
    """The extension under which a file is counted, in lower case; ``"none"`` or ``"other"``."""
    found = os.path.splitext(path)[1].lower()
    return found if _WORD.fullmatch(found) else OTHER if found else NONE


def has_another_extension(file: PassedOver) -> bool:
    """Whether a file was passed over for want of an image's extension."""
    return not (file.written or file.never_photo)


def most_common(counts: Mapping[str, int], number: int) -> dict[str, int]:
    """The counts of the most common extensions, most common first; those of the others as one."""
    others = counts.get(OTHER, 0)
    named = sorted(
        ((name, n) for name, n in counts.items() if name != OTHER),
        key=lambda item: (-item[1], item[0]),
    )
    others += sum(n for _, n in named[number:])
    return dict(named[:number]) | ({OTHER: others} if others else {})


def listed(counts: Mapping[str, int]) -> str:
    """Counts as text: ``".heic 120, .mov 4"``."""
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def hints(counts: Mapping[str, int], look_like_images: int) -> list[str]:
    """What can be done about files of these extensions.

    Args:
        look_like_images: how many of those that were looked at begin like an image.
    """
    found = [
        f"{name} is not read: convert such files to JPEG or PNG first"
        for name, extensions in NOT_READ.items()
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
    """Whether a file's first 16 bytes are those of a format that is read."""
    return (
        head.startswith(_BEGINNINGS)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == b"\0\0\0\0")  # its reserved bytes
    )


def add_to_sample(sample: Sample, paths: Iterable[str]) -> Sample:
    """Adds files to a sample, which stays the first files of each of the first extensions."""
    for path in paths:
        sample.setdefault(extension(path), []).append(path)
    first = sorted(sample)[:SAMPLED_EXTENSIONS]
    return {name: sorted(set(sample[name]))[:SAMPLED] for name in first}


def add_file(sample: Sample, file: PassedOver) -> Sample:
    """The same of one file, if it may be an image."""
    known = sample.get(extension(file.path), [])
    full = len(known) == SAMPLED and file.path >= known[-1]  # as of most files of an archive
    return sample if full or not _may_be_image(file) else add_to_sample(sample, [file.path])


def merged(samples: Iterable[Sample]) -> Sample:
    """One sample of several."""
    paths = (path for sample in samples for some in sample.values() for path in some)
    return add_to_sample({}, paths)


def sample_of(passed_over: Iterable[PassedOver]) -> Sample:
    """A few of the files that may be images by their content."""
    return add_to_sample({}, (file.path for file in passed_over if _may_be_image(file)))


def _may_be_image(file: PassedOver) -> bool:
    found = extension(file.path)
    return has_another_extension(file) and not any(found in names for names in NOT_READ.values())


def count_lookalikes(sample: Sample, files: Files) -> int:
    """How many files of a sample begin like an image; one that cannot be read does not."""
    paths = [(path, HEAD) for of_extension in sample.values() for path in of_extension]
    heads = files.read_each(paths, HEAD)
    return sum(isinstance(head, bytes) and begins_like_image(head) for head in heads)


def tally_lookalikes(sample: Sample, files: Files) -> Counter[tuple[str, ...]]:
    """The same as counts of a summary."""
    return Counter({("look_like_images",): count_lookalikes(sample, files)})
