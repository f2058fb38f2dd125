"""Reads JPEG headers as libjpeg does, decodes the pixels, and detects damage.

Pillow ignores libjpeg's warnings, so that a half destroyed photo looks intact. simplejpeg decodes
with the same library to the same pixels, and raises the first warning.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from model_build.data.unreadable import DamagedImage, UnsupportedImage

START, END = b"\xff\xd8", b"\xff\xd9"  # SOI and EOI (ITU-T T.81, table B.1)
SCALES = (8, 4, 2, 1)  # a photo is decoded at 1/8, 1/4, 1/2 or 1/1 of its size
# Frames, without DHT (C4), JPG (C8) and DAC (CC), which lie in the same range.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ARITHMETIC, _HIERARCHICAL = range(0xC9, 0xD0), (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF)
_PROGRESSIVE, _SCAN, _EXIF, _ICC, _ADOBE, _COMMENT = 0xC2, 0xDA, 0xE1, 0xE2, 0xEE, 0xFE
_APPLICATIONS = range(0xE0, 0xF0)
_EXIF_NAME, _ICC_NAME, _JFIF_NAME, _ADOBE_NAME = b"Exif\0\0", b"ICC_PROFILE\0", b"JFIF\0", b"Adobe"

# A marker with content, or EOI.
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])", re.DOTALL)
_MAX_SEGMENTS = 1 << 16  # of a header: only hostile files have more
# libjpeg's harmless warnings (jerror.h): all blocks may have been decoded. Others mean damage:
# invalid codes, and coded data that end before the last block. TurboJPEG reports an error after a
# warning under another text, so a list of the damaging warnings would not suffice.
_EXTRANEOUS = "extraneous bytes before marker"
_HARMLESS = re.compile(
    f"{_EXTRANEOUS}|found marker .* instead of RST|Inconsistent progression sequence|Invalid SOS"
)
_SCANS = re.compile(rb"\xff\xda\0.(?=[\1-\4])", re.DOTALL)  # up to the channels of a scan
# Positions before the markers that end coded data: RST, EOI, SOS, DHT.
_CODED_END = re.compile(rb"(?=\xff[\xc4\xd0-\xd7\xd9\xda])")
_SPARE_BITS = (b"\x55" * 64, b"\x2a" * 64)
# A hole in the scan, as left by a lost block of a disk or memory card.
_HOLE = bytes(64)


class Segment(NamedTuple):
    """A marker segment of the header: its code, and the range of its content."""

    code: int
    start: int
    end: int


class JpegHeader(NamedTuple):
    """The header of a JPEG, up to its first scan.

    Attributes:
        height: of the stored picture, in pixels.
        width: likewise.
        channels: 1 (grey), 3 or 4 (CMYK).
        progressive: the channels' ids if they are in several scans, else ``b""``.
        exif: the content of its EXIF segments, ``b""`` for none.
        profile: its ICC profile, ``b""`` for none or an incomplete one.
    """

    height: int
    width: int
    channels: int
    progressive: bytes
    exif: bytes
    profile: bytes


def segments(data: bytes) -> Iterator[Segment]:
    """Yields the segments of the header, up to the first scan.

    Bytes between them are skipped, as libjpeg does (``next_marker`` in jdmarker.c).
    """
    position = len(START)
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, position)
        if not found or found[1] == END[1:] or found.end() + 2 > len(data):
            return
        start = found.end() + 2
        position = start - 2 + max(2, int.from_bytes(data[start - 2 : start], "big"))
        yield Segment(found[1][0], start, position)
        if found[1][0] == _SCAN:
            return


def read_header(data: bytes) -> JpegHeader:
    """Reads the header of a JPEG; garbled metadata are ignored.

    Raises:
        DamagedImage: it ends before the frame starts, or the frame has no size.
        UnsupportedImage: an unsupported variant: 12 bits, arithmetic coding, …
    """
    frame = None
    exif, parts = [], []
    for code, start, end in segments(data):
        if code in _FRAMES and frame is None and end - start >= 6 and end <= len(data):
            frame = code, data[start:end]
        elif code == _EXIF and data[start : start + 6] == _EXIF_NAME:
            exif.append(data[start + 6 : end])
        elif code == _ICC and data[start : start + 12] == _ICC_NAME:
            parts.append(data[start + 12 : end])
        elif code == 0xF7:  # the frame of JPEG-LS (ISO/IEC 14495-1)
            raise UnsupportedImage("a JPEG-LS file, which is not supported")
    if frame is None:
        raise DamagedImage
    code, content = frame
    bits, channels = content[0], content[5]
    height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
    _refuse_unsupported(code, bits, channels)
    if not height or not width:
        raise DamagedImage("its header has no size")
    progressive = content[6 : 6 + 3 * channels : 3] if code == _PROGRESSIVE else b""
    return JpegHeader(height, width, channels, progressive, b"".join(exif), _joined(parts))


def _refuse_unsupported(code: int, bits: int, channels: int) -> None:
    kind = ""
    if code in _HIERARCHICAL:
        kind = "in hierarchical frames"
    elif code in _ARITHMETIC:
        kind = "in arithmetic coding"
    elif bits != 8:
        kind = f"of {bits} bits a channel"
    elif channels not in (1, 3, 4):
        kind = f"of {channels} channels"
    if kind:
        raise UnsupportedImage(f"a JPEG {kind}, which is not supported")


def _joined(parts: list[bytes]) -> bytes:
    """Joins the parts of a profile: number, count, content (ICC.1:2022, annex B.4)."""
    numbered = sorted(part for part in parts if len(part) > 2)
    whole = len(parts) == len(numbered) and all(
        (part[0], part[1]) == (number, len(parts)) for number, part in enumerate(numbered, 1)
    )
    return b"".join(part[2:] for part in numbered) if whole else b""


def fraction(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the (height, width) of a JPEG's smallest fraction that is at least ``size``."""
    scale = min(height // size[0], width // size[1])
    scale = next(one for one in SCALES if one <= max(1, scale))
    return -(-height // scale), -(-width // scale)


def decode(data: bytes, header: JpegHeader, size: tuple[int, int]) -> np.ndarray:
    """Decodes a JPEG at the smallest fraction that is at least ``size``, and checks for damage.

    Returns:
        uint8 RGB ``[h, w, 3]``, or for four channels CMYK ``[h, w, 4]`` (0 is no ink).

    Raises:
        DamagedImage: blocks are missing or have invalid codes.
    """
    height, width = fraction(header.height, header.width, size)
    options = {
        "colorspace": "RGB" if header.channels < 4 else "CMYK",
        "min_height": height,
        "min_width": width,
    }
    try:
        pixels = simplejpeg.decode_jpeg(data, **options)
    except ValueError as error:  # a warning or an error
        cleaned = _cleaned(data)
        try:
            pixels = simplejpeg.decode_jpeg(cleaned, **options, strict=False)
        except ValueError as fatal:
            if "subsampling" in str(fatal):
                return _by_pillow(cleaned, (height, width))
            raise DamagedImage(_words(fatal)) from None
        if found := _damage(cleaned):
            raise DamagedImage(found) from error
    if _lacks_scans(data, header.progressive):
        raise DamagedImage("scans are missing")
    # Adobe's programs, which write nearly all CMYK files, store 255 for no ink.
    return pixels if header.channels < 4 else 255 - pixels


def _lacks_scans(data: bytes, channels: bytes) -> bool:
    """Whether bits of a progressive JPEG's coefficients are in no scan (T.81, section G.1.1)."""
    if not channels:
        return False
    start = next((start - 4 for code, start, _ in segments(data) if code == _SCAN), len(data))
    missing = {channel: [1] * 64 for channel in channels}
    end = data.find(END, start)
    for match in _SCANS.finditer(data, start, end if end >= 0 else len(data)):
        count = data[match.end()]
        *choices, first, last, bits = data[match.end() + 1 : match.end() + 2 * count + 4]
        for channel in choices[::2]:
            lowest = bits & 0x0F
            missing.get(channel, [0] * 64)[first : last + 1] = [lowest] * (last + 1 - first)
    return any(map(any, missing.values()))


def _by_pillow(cleaned: bytes, size: tuple[int, int]) -> np.ndarray:
    """Decodes a JPEG with a subsampling that simplejpeg does not support, and checks for damage.

    Pillow ignores missing blocks. But libjpeg decodes them from any bits that follow: bits appended
    to the coded data change the picture only if some are missing.
    """
    pixels = _pillow_pixels(cleaned, size)
    scan = max(end for _, _, end in segments(cleaned))
    longer = (cleaned[:scan] + _CODED_END.sub(bits, cleaned[scan:]) for bits in _SPARE_BITS)
    whole = all(np.array_equal(pixels, _pillow_pixels(one, size)) for one in longer)
    if not whole:
        raise DamagedImage("premature end of data segment")
    return pixels


def _pillow_pixels(data: bytes, size: tuple[int, int]) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft(None, size[::-1])
        return np.asarray(image if image.mode == "CMYK" else image.convert("RGB"))


def _damage(cleaned: bytes) -> str:
    """Returns libjpeg's warning if it means damage, else ``""``.

    Extraneous bytes are harmless, as cameras leave some after the last block, unless the scan also
    has a hole: its zeros were decoded as blocks, and the rest of the photo is shifted.
    """
    try:
        simplejpeg.decode_jpeg(cleaned)
    except ValueError as error:
        found = _words(error)
        if _EXTRANEOUS in found and _has_hole(cleaned):
            return f"a hole of zeros in its data, and {found}"
        if not _HARMLESS.search(found):
            return found
    return ""


def _words(error: ValueError) -> str:
    return str(error).removeprefix("Corrupt JPEG data: ")


def _has_hole(cleaned: bytes) -> bool:
    """Whether a scan contains a long run of zeros followed by data."""
    start = max((end for _, _, end in segments(cleaned)), default=0)
    return _HOLE in cleaned[start : cleaned.find(END, start)].rstrip(b"\0")


def _cleaned(data: bytes) -> bytes:
    """Returns a JPEG with an end marker and without segments that libjpeg might warn about.

    Only the first of several warnings is reported, and harmless ones would hide others.
    """
    kept, end = [START], len(START)
    for code, start, end in segments(data):
        if not _is_spare(code, data[start:end]):
            kept.append(bytes((0xFF, code)) + data[start - 2 : end])
    return b"".join([*kept, data[end:], END])


def _is_spare(code: int, content: bytes) -> bool:
    """Whether a segment does not affect the decoded pixels (jdmarker.c, jdapimin.c)."""
    if code == 0xE0:
        return not (content.startswith(_JFIF_NAME) and len(content) >= 14 and content[5] == 1)
    if code == _ADOBE:
        # The colour transform is a number from 0 to 2.
        return not (content.startswith(_ADOBE_NAME) and len(content) >= 12 and content[11] <= 2)
    return code in _APPLICATIONS or code == _COMMENT
