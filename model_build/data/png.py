"""Reduces PNGs to the chunks that decide their pixels, checks them, and applies transparency.

Pillow reads every chunk, and rejects a file for a comment that is too long or damaged. The standard
says that decoders should ignore such chunks (PNG, third edition, section 13.2).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

from model_build.data.unreadable import DamagedImage, UnsupportedImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2  # colour types (section 11.2.1)
_BITS = {_GREY: (1, 2, 4, 8, 16), _RGB: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CHANNELS = {_GREY: 1, _RGB: 3, 3: 1, 4: 2, 6: 4}
# For each pass of Adam7 the first column and row, and their steps (section 8.2).
_PASSES = (
    ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4))
    + ((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
)  # fmt: skip
_TRANSPARENT = {_GREY: 2, _RGB: 6}  # bytes of a transparent colour (section 11.3.1.1)
_MAX_METADATA_BYTES = 4 << 20  # of inflated metadata
_BYTES_PER_READ = 1 << 16  # inflated at a time


class Png(NamedTuple):
    """A PNG reduced to the chunks that affect its pixels.

    Attributes:
        stream: a complete PNG of the critical chunks and the transparency.
        bits: per sample.
        bits_of_pixel: per pixel, all samples together.
        interlaced: its rows are in the seven passes of Adam7.
        key: samples of the transparent colour, ``()`` for none.
        exif: its EXIF data, ``b""`` for none.
        profile: its ICC profile, ``b""`` for none.
    """

    stream: bytes
    bits: int
    bits_of_pixel: int
    interlaced: bool
    key: tuple[int, ...]
    exif: bytes
    profile: bytes


def reduce(data: bytes | memoryview) -> Png:
    """Reads the chunks of a PNG; damaged ancillary ones are ignored.

    A missing end is not an error here: decoding finds out whether pixels are missing.

    Raises:
        DamagedImage: a critical chunk is damaged or in a wrong place.
        UnsupportedImage: the standard does not allow its colour type with its bits.
    """
    critical: list[tuple[bytes, memoryview]] = []
    transparency = exif = profile = b""
    for kind, content, sound in _chunks(memoryview(data)):
        if not kind[0] & 0x20:  # critical (section 5.4)
            if not sound:
                raise DamagedImage(f"the checksum of its {kind.decode()} chunk is wrong")
            if (kind == b"IHDR") == bool(critical):
                raise DamagedImage("its first chunk is not IHDR, or not the only one")
            critical.append((kind, content))
        elif not sound:
            continue
        elif kind == b"tRNS":
            transparency = bytes(content)
        elif kind == b"eXIf":
            exif = bytes(content)
        elif kind == b"iCCP":
            profile = _inflated(bytes(content).partition(b"\0")[2][1:])
        elif kind in (b"tEXt", b"zTXt"):
            exif = exif or _raw_exif(kind, content)
    color, bits = _color(critical)
    if len(transparency) != _TRANSPARENT.get(color, len(transparency)):
        transparency = b""
    key = (
        struct.unpack(f">{len(transparency) // 2}H", transparency) if color in _TRANSPARENT else ()
    )
    stream: list[bytes | memoryview] = [SIGNATURE]
    for kind, content in critical:
        if kind == b"IDAT" and transparency:
            stream += _framed(b"tRNS", transparency)
            transparency = b""
        stream += _framed(kind, content)
    interlaced = critical[0][1][12] != 0
    return Png(b"".join(stream), bits, bits * _CHANNELS[color], interlaced, key, exif, profile)


def _chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Yields names and contents of chunks, and whether their checksums match."""
    start = len(SIGNATURE)
    while start + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        if not kind.isalpha():
            return
        end = start + 8 + length
        checksum = bytes(data[end : end + 4])
        sound = len(checksum) < 4 or zlib.crc32(data[start + 4 : end]) == int.from_bytes(
            checksum, "big"
        )
        yield kind, data[start + 8 : end], sound
        if kind == b"IEND":
            return
        start = end + 4


def _framed(kind: bytes, content: bytes | memoryview) -> tuple[bytes, bytes | memoryview, bytes]:
    """Returns the parts of a chunk: length and name, content, checksum (section 5.3)."""
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I4s", len(content), kind), content, struct.pack(">I", checksum)


def _color(critical: list[tuple[bytes, memoryview]]) -> tuple[int, int]:
    """Returns colour type and bits per sample (section 11.2.1)."""
    if not critical or len(critical[0][1]) < 13:
        raise DamagedImage
    width, height, bits, color = struct.unpack(">IIBB", critical[0][1][:10])
    if not width or not height:
        raise DamagedImage("its header has no size")
    if bits not in _BITS.get(color, ()):
        raise UnsupportedImage(
            f"a PNG of colour type {color} with {bits} bits, which is not supported"
        )
    return color, bits


def _inflated(content: bytes) -> bytes:
    """Inflates compressed metadata; ``b""`` if they are damaged or too long."""
    try:
        inflate = zlib.decompressobj()
        found = inflate.decompress(content, _MAX_METADATA_BYTES)
        return found if inflate.eof else b""
    except zlib.error:
        return b""


def _raw_exif(kind: bytes, content: memoryview) -> bytes:
    """Reads EXIF from a text chunk, as ImageMagick and ExifTool write it: hexadecimal, in lines."""
    keyword, _, text = bytes(content[:_MAX_METADATA_BYTES]).partition(b"\0")
    if keyword.lower() != b"raw profile type exif":
        return b""
    lines = (_inflated(text[1:]) if kind == b"zTXt" else text).split(b"\n")
    try:
        return bytes.fromhex(b"".join(lines[3:]).decode())
    except ValueError:
        return b""


def open_reduced(stream: io.BytesIO, png: Png) -> ImageFile.ImageFile:
    """Opens a reduced PNG in Pillow, with the right transparent colour.

    Pillow scales grey samples of 2 and 4 bits to 8, but not the transparent colour.
    """
    image = Image.open(stream, formats=("PNG",))
    if png.key and image.mode == "L":
        highest = 2**png.bits - 1
        image.info["transparency"] = (png.key[0] & highest) * 255 // highest
    return image


def check_rows(image: Image.Image, png: Png) -> None:
    """Checks that a loaded image has all its rows: Pillow fills missing ones with zeros.

    Counting rows takes as long as decoding, so it is done only if the last row may be missing.

    Raises:
        DamagedImage: the compressed pixels end before the last row.
    """
    last = image.crop((0, image.height - 1, image.width, image.height))
    if not png.interlaced and np.asarray(last).any():
        return
    missing = _pixel_bytes(image.width, image.height, png.bits_of_pixel, png.interlaced)
    inflate = zlib.decompressobj()
    for kind, content, _ in _chunks(memoryview(png.stream)):
        for start in range(0, len(content) if kind == b"IDAT" else 0, _BYTES_PER_READ):
            part: bytes | memoryview = content[start : start + _BYTES_PER_READ]
            while part and missing > 0:  # data after the last row may inflate without end
                missing -= len(inflate.decompress(part, _BYTES_PER_READ))
                part = inflate.unconsumed_tail
    if missing > 0 and missing > len(inflate.flush()):
        raise DamagedImage("its pixels end before the last row")


def _pixel_bytes(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Returns the bytes of all rows, each with its filter byte (sections 7.2 and 8)."""
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = (
        (max(0, -(-(width - left) // across)), max(0, -(-(height - top) // down)))
        for left, top, across, down in passes
    )
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns)


def with_key(image: Image.Image, png: Png) -> Image.Image:
    """Turns the transparent colour of a loaded image of 16 bits per sample into alpha.

    All 16 bits decide (section 13.16), but Pillow keeps only the upper 8 in colour images. Another
    of its unpackers returns the lower 8.
    """
    if not png.key or png.bits < 16:
        return image
    image.info.pop("transparency", None)
    if image.mode == "RGB":
        lower = Image.open(io.BytesIO(png.stream), formats=("PNG",))
        lower.info.pop("transparency", None)
        (tile,) = lower.tile
        lower.tile = [tile._replace(args="RGB;16L")]
        lower.load()
        equal = np.ones(image.size[::-1], bool)
        for channel, sample in enumerate(png.key):
            equal &= np.asarray(image.getchannel(channel)) == sample >> 8
            equal &= np.asarray(lower.getchannel(channel)) == sample & 0xFF
        solid = image
    else:
        values = np.asarray(image)
        equal = values == png.key[0]
        solid = Image.fromarray((values >> 8).astype(np.uint8))
    solid.putalpha(Image.fromarray(np.where(equal, np.uint8(0), np.uint8(255))))
    return solid
