"""JPEG: its header read as libjpeg reads it, its pixels decoded, its damage found.

Pillow passes over what libjpeg warns of, so that a photo that is half destroyed looks whole.
simplejpeg decodes by the same library to the same pixels, and raises the first warning.
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
SCALES = (8, 4, 2, 1)  # a photo is decoded at one of these fractions of its size
# Frames, but not DHT (C4), JPG (C8) and DAC (CC), which lie between them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ARITHMETIC, _HIERARCHICAL = range(0xC9, 0xD0), (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF)
_PROGRESSIVE, _SCAN, _EXIF, _ICC, _ADOBE, _COMMENT = 0xC2, 0xDA, 0xE1, 0xE2, 0xEE, 0xFE
_APPLICATIONS = range(0xE0, 0xF0)
_EXIF_NAME, _ICC_NAME, _JFIF_NAME, _ADOBE_NAME = b"Exif\0\0", b"ICC_PROFILE\0", b"JFIF\0", b"Adobe"

# A marker that has content, or EOI.
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])", re.DOTALL)
_MOST = 1 << 16  # segments of a header: hostile files have more
# The warnings of libjpeg (jerror.h) that are no damage: all blocks may have been decoded. Others
# are: codes that cannot be, and coded data that end before the last block. TurboJPEG takes an error
# behind a warning for another one, so it is not enough to know which warnings are damage.
_EXTRANEOUS = "extraneous bytes before marker"
_HARMLESS = re.compile(
    f"{_EXTRANEOUS}|found marker .* instead of RST|Inconsistent progression sequence|Invalid SOS"
)
_SCANS = re.compile(rb"\xff\xda\0.(?=[\1-\4])", re.DOTALL)  # what is before their channels
# Before the markers that end coded data: RST, EOI, SOS, DHT.
_CODED_END = re.compile(rb"(?=\xff[\xc4\xd0-\xd7\xd9\xda])")
_SPARE_BITS = (b"\x55" * 64, b"\x2a" * 64)
# A hole in the scan, as a lost block of a disk or a card leaves it.
_HOLE = bytes(64)


class Segment(NamedTuple):
    """A marker segment of the header: its code, and where its content lies."""

    code: int
    start: int
    end: int


class JpegHeader(NamedTuple):
    """What a JPEG says of itself before its first scan.

    Attributes:
        height: of the stored picture, in pixels.
        width: likewise.
        channels: 1 (grey), 3 or 4 (CMYK).
        progressive: the channels' numbers where they come in several scans, else ``b""``.
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
    """The segments of the header, up to the first scan.

    Bytes between them are skipped, as libjpeg does (``next_marker`` in jdmarker.c).
    """
    position = len(START)
    for _ in range(_MOST):
        found = _MARKER.search(data, position)
        if not found or found[1] == END[1:] or found.end() + 2 > len(data):
            return
        start = found.end() + 2
        position = start - 2 + max(2, int.from_bytes(data[start - 2 : start], "big"))
        yield Segment(found[1][0], start, position)
        if found[1][0] == _SCAN:
            return


def read_header(data: bytes) -> JpegHeader:
    """The header of a JPEG; metadata that is garbled counts as none.

    Raises:
        DamagedImage: it ends before the frame begins, or the frame has no size.
        UnsupportedImage: it is of a kind that is not decoded: 12 bits, arithmetic coding, …
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
        elif code == 0xF7:  # the frame of ISO/IEC 14495-1
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
    """A profile of its parts: number, count, content (ICC.1:2022, annex B.4)."""
    numbered = sorted(part for part in parts if len(part) > 2)
    whole = len(parts) == len(numbered) and all(
        (part[0], part[1]) == (number, len(parts)) for number, part in enumerate(numbered, 1)
    )
    return b"".join(part[2:] for part in numbered) if whole else b""


def fraction(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the smallest fraction of a JPEG that holds ``size`` = (height, width)."""
    scale = min(height // size[0], width // size[1])
    scale = next(one for one in SCALES if one <= max(1, scale))
    return -(-height // scale), -(-width // scale)


def decode(data: bytes, header: JpegHeader, size: tuple[int, int]) -> np.ndarray:
    """Decodes a JPEG at the fraction of its size that holds ``size``, and looks for damage.

    Returns:
        uint8 RGB ``[h, w, 3]``, of four channels CMYK ``[h, w, 4]`` (0 is no ink).

    Raises:
        DamagedImage: blocks could not be decoded, or have codes that do not exist.
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
    # Adobe's programs, which write nearly all of these, store 255 for no ink.
    return pixels if header.channels < 4 else 255 - pixels


def _lacks_scans(data: bytes, channels: bytes) -> bool:
    """Whether bits of a progressive JPEG's coefficients come in no scan (T.81, section G.1.1)."""
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
    """Decodes a JPEG of a subsampling that simplejpeg does not take.

    Pillow passes over missing blocks. But libjpeg takes bits that follow for theirs: bits that are
    put behind the coded data change the picture only where some are missing.
    """
    pixels = _pillows(cleaned, size)
    scan = max(end for _, _, end in segments(cleaned))
    longer = (cleaned[:scan] + _CODED_END.sub(bits, cleaned[scan:]) for bits in _SPARE_BITS)
    whole = all(np.array_equal(pixels, _pillows(one, size)) for one in longer)
    if not whole:
        raise DamagedImage("premature end of data segment")
    return pixels


def _pillows(data: bytes, size: tuple[int, int]) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft(None, size[::-1])
        return np.asarray(image if image.mode == "CMYK" else image.convert("RGB"))


def _damage(cleaned: bytes) -> str:
    """The warning of libjpeg that means damage, ``""`` where none does.

    Extraneous bytes do not, as cameras leave some behind the last block; but they do where the scan
    has a hole as well. Its zeros were taken for blocks, and the rest of the photo is out of place.
    """
    try:
        simplejpeg.decode_jpeg(cleaned)
    except ValueError as error:
        found = _words(error)
        if _EXTRANEOUS in found and _hole(cleaned):
            return f"a hole of zeros in its data, and {found}"
        if not _HARMLESS.search(found):
            return found
    return ""


def _words(error: ValueError) -> str:
    return str(error).removeprefix("Corrupt JPEG data: ")


def _hole(cleaned: bytes) -> bool:
    """Whether there are many zeros inside of a scan: with data behind them."""
    start = max((end for _, _, end in segments(cleaned)), default=0)
    return _HOLE in cleaned[start : cleaned.find(END, start)].rstrip(b"\0")


def _cleaned(data: bytes) -> bytes:
    """A JPEG with an end, and without what libjpeg might warn of before the first scan.

    Of several warnings only the first is known, and these would hide others.
    """
    kept, end = [START], len(START)
    for code, start, end in segments(data):
        if not _is_spare(code, data[start:end]):
            kept.append(bytes((0xFF, code)) + data[start - 2 : end])
    return b"".join([*kept, data[end:], END])


def _is_spare(code: int, content: bytes) -> bool:
    """Whether a segment has no part in how pixels are decoded (jdmarker.c, jdapimin.c)."""
    if code == 0xE0:
        return not (content.startswith(_JFIF_NAME) and len(content) >= 14 and content[5] == 1)
    if code == _ADOBE:
        # Channels are transformed by a number from 0 to 2.
        return not (content.startswith(_ADOBE_NAME) and len(content) >= 12 and content[11] <= 2)
    return code in _APPLICATIONS or code == _COMMENT
