"""Writes class maps as palette PNGs, enlarging them on the way, and reads the chunks of any PNG.

An enlarged class map repeats its rows. If each row is written as the difference from the row above
(filter "up"; PNG, section 9.2), a repeated row is all zeros. So distinct rows are compressed one by
one, runs of repeated rows once for each length, and the pieces are concatenated: the enlarged map
is neither held in memory nor compressed as a whole (``benchmarks/masks.py``).
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.images.sizes import nearest

SIGNATURE = b"\x89PNG\r\n\x1a\n"  # first bytes of each PNG (PNG, section 5.2)
COMPRESSION_LEVEL = 3  # makes little difference, as only runs are compressed
MIN_ENLARGEMENT = 3  # below this factor a map compresses better as a whole, and as fast
BAND_ROWS = 256  # rows that are enlarged at a time
ADLER_MODULUS = 65521  # the modulus of the checksum (RFC 1950, section 8.2)


def palette_png(image_data: bytes, size: tuple[int, int], palette: bytes, text: bytes) -> bytes:
    """Returns a PNG of colour type 3 with eight bits a pixel.

    Args:
        image_data: from :func:`compress`.
        size: (height, width).
        palette: 768 bytes of RGB.
        text: content of a ``tEXt`` chunk, keyword and NUL first; ``b""`` for none.
    """
    height, width = size
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"PLTE", palette), (b"tEXt", text), (b"IDAT", image_data)]
    sealed = [_with_checksum(kind + content) for kind, content in chunks if content]
    return b"".join([SIGNATURE, *sealed, _with_checksum(b"IEND")])


def _with_checksum(chunk: bytes) -> bytes:
    """Puts a chunk's name and content between its length and checksum (PNG, section 5.3)."""
    return struct.pack(">I", len(chunk) - 4) + chunk + _checksum(chunk)


def _checksum(chunk: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(chunk))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the name and content of each chunk of a PNG; bytes after the last one are ignored.

    Raises:
        ValueError: it is not a PNG, cut short, or has a wrong checksum.
    """
    if not data.startswith(SIGNATURE):
        raise ValueError("not a PNG")
    start, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", data[start : start + 8].ljust(8, b"\0"))
        content, end = data[start + 8 : start + 8 + length], start + length + 12
        if data[end - 4 : end] != _checksum(kind + content):
            raise ValueError("damaged or cut short")
        yield kind, content
        start = end


def compress(class_map: np.ndarray, size: tuple[int, int]) -> bytes:
    """Returns the image data of a class map enlarged to ``size`` = (height, width).

    Args:
        class_map: uint8 ``[h, w]``.

    Returns:
        A zlib stream (RFC 1950) of filtered rows.
    """
    height, width = size
    rows, columns = nearest(class_map.shape[0], height), nearest(class_map.shape[1], width)
    if height < MIN_ENLARGEMENT * class_map.shape[0]:
        lines = np.zeros((height, 1 + width), np.uint8)  # each begins with its filter: none
        if class_map.shape == size:
            lines[:, 1:] = class_map
        else:
            for start in range(0, height, BAND_ROWS):
                band = slice(start, start + BAND_ROWS)
                lines[band, 1:] = class_map[rows[band]][:, columns]
        deflate = _deflate(zlib.MAX_WBITS)
        return deflate.compress(lines) + deflate.flush()
    wide = class_map[:, columns]
    lines = np.full((len(wide), 1 + width), 2, np.uint8)  # each begins with its filter: up
    lines[0, 1:] = wide[0]
    np.subtract(wide[1:], wide[:-1], out=lines[1:, 1:])
    return _compress_lines(lines, np.bincount(rows))


def _compress_lines(lines: np.ndarray, counts: np.ndarray) -> bytes:
    """Returns a zlib stream of filtered lines, each followed by ``count - 1`` repetitions."""
    deflate = _deflate()
    repeated = functools.cache(functools.partial(_repeated, lines.shape[1]))
    pieces, checksum = [b"\x78\x5e"], 1  # the head of a zlib stream: window of 32 KB, fast
    for line, count in zip(lines, counts.tolist(), strict=True):
        pieces.append(deflate.compress(line) + deflate.flush(zlib.Z_FULL_FLUSH))
        checksum = _combine_checksums(checksum, zlib.adler32(line), len(line))
        if count > 1:
            piece, its_checksum = repeated(count - 1)
            pieces.append(piece)
            checksum = _combine_checksums(checksum, its_checksum, (count - 1) * len(line))
    return b"".join([*pieces, deflate.flush(), struct.pack(">I", checksum)])


def _deflate(wbits: int = -zlib.MAX_WBITS) -> Any:
    """Returns a compressor for runs of equal bytes, as in the lines of a class map.

    Other strategies take as long and make masks larger (``benchmarks/masks.py``).
    """
    return zlib.compressobj(COMPRESSION_LEVEL, wbits=wbits, strategy=zlib.Z_RLE)


def _repeated(length: int, count: int) -> tuple[bytes, int]:
    """Returns deflated lines that repeat the one above, and their checksum.

    After a full flush nothing refers to earlier data, so the piece can be used anywhere.
    """
    lines = (b"\2" + bytes(length - 1)) * count
    deflate = _deflate()
    return deflate.compress(lines) + deflate.flush(zlib.Z_FULL_FLUSH), zlib.adler32(lines)


def _combine_checksums(first: int, second: int, length: int) -> int:
    """Combines the Adler-32 of two pieces (RFC 1950, section 8.2); ``length`` is the second's."""
    low = (first & 0xFFFF) + (second & 0xFFFF) - 1
    high = (first >> 16) + (second >> 16) + length * ((first & 0xFFFF) - 1)
    return low % ADLER_MODULUS | high % ADLER_MODULUS << 16
