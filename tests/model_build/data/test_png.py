"""PNGs: metadata that is long or damaged, transparent colours, structure that is damaged."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from model_build.data.decode import decode
from model_build.data.unreadable import DamagedImage, UnsupportedImage
from tests.model_build.data.image_files import chunk, exif, gradient, png

PHOTO = gradient(12, 8)
BROKEN_PIXELS_PER_UNIT = struct.pack(">I", 4) + b"pHYs" + bytes(4) + bytes(4)  # a wrong checksum
LONG = zlib.compress(bytes(3 << 20))


@pytest.mark.parametrize(
    "ancillary",
    [
        chunk(b"pHYs", b"\0\1"),
        chunk(b"pHYs", b""),
        chunk(b"gAMA", b"\0"),
        chunk(b"cHRM", b"abc"),
        chunk(b"sRGB", b""),
        chunk(b"iCCP", b"no profile"),
        chunk(b"eXIf", b"II"),
        chunk(b"tIME", b"1"),
        chunk(b"tRNS", b"\0"),
        chunk(b"acTL", b"\0"),
        chunk(b"fcTL", b"\0\1"),
        chunk(b"zTXt", b"Comment"),
        chunk(b"zTXt", b"Comment\0\0not compressed"),
        chunk(b"iTXt", b"Comment\0\1"),
        chunk(b"tEXt", b"Raw profile type exif\0not hexadecimal"),
        chunk(b"tEXt", b"Comment\0text")[:-1] + b"?",
        BROKEN_PIXELS_PER_UNIT,
        chunk(b"iCCP", b"wide\0\0" + LONG),
        chunk(b"zTXt", b"Comment\0\0" + LONG),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG),
        chunk(b"tEXt", b"Comment\0" + bytes(3 << 20)),
        chunk(b"prVt", b"private"),
    ],
    ids=lambda one: f"{one[4:8].decode()} of {len(one) - 12}",
)
def test_ancillary_chunks_cost_nothing(ancillary):
    plain = png(PHOTO, 2, 8)
    place = plain.index(b"IDAT") - 4
    for data in (
        plain[:place] + ancillary + plain[place:],
        plain[:-12] + ancillary + plain[-12:],
    ):
        np.testing.assert_array_equal(decode(data), PHOTO)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white(bits):
    """All bits of its samples decide."""
    low, high = (1, 0) if bits == 1 else (2**bits // 2, 2**bits // 2 + 1)
    samples = np.array([[low, high, low]])[..., None]
    pixels = decode(png(samples, 0, bits, (b"tRNS", struct.pack(">H", low))))
    grey = high >> 8 if bits == 16 else high * 255 // (2**bits - 1)
    assert pixels[0].tolist() == [[255] * 3, [grey] * 3, [255] * 3]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_is_white(bits):
    """All bits of its samples decide."""
    unit = 256 if bits == 16 else 1
    key = [40 * unit + unit // 3, 80 * unit, 120 * unit]
    other = [key[0] + 1, *key[1:]]
    pixels = decode(png(np.array([[key, other]]), 2, bits, (b"tRNS", struct.pack(">3H", *key))))
    assert pixels[0].tolist() == [[255] * 3, [other[0] // unit, 80, 120]]


def test_orientation_is_read_from_a_text_that_image_magick_writes():
    content = exif(6)
    text = f"\nexif\n{len(content):8}\n{content.hex()}\n".encode()
    for kind, value in ((b"tEXt", text), (b"zTXt", b"\0" + zlib.compress(text))):
        data = png(PHOTO, 2, 8, (kind, b"Raw profile type exif\0" + value))
        np.testing.assert_array_equal(decode(data), np.rot90(PHOTO, -1))


def test_a_missing_end_is_not_damage():
    data = png(PHOTO, 2, 8)
    for size in (4, 8, 12, 14):  # the last one takes a part of the checksum of the pixels
        np.testing.assert_array_equal(decode(data[:-size]), PHOTO)


@pytest.mark.parametrize("size", [40, 60, 100])
def test_missing_pixels_are_damage(size):
    noise = np.random.default_rng(0).integers(0, 255, (8, 12, 3))
    with pytest.raises(DamagedImage):
        decode(png(noise, 2, 8)[:-size])


def short(color, bits, width, height, rows, fill, interlace=0):
    """A PNG whose compressed rows end early, but as a whole stream."""
    channels = {0: 1, 2: 3, 3: 1}[color]
    row = bytes([0]) + bytes([fill]) * -(-width * bits * channels // 8)
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlace)
    palette = chunk(b"PLTE", bytes(range(48))) if color == 3 else b""
    pixels = chunk(b"IDAT", zlib.compress(row * rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(("color", "bits"), [(0, 1), (0, 8), (2, 8), (2, 16), (3, 4)])
def test_rows_that_are_missing_are_damage(color, bits):
    for fill in (0, 1):  # a last row of zeros may be one that is there
        assert decode(short(color, bits, 9, 7, 7, fill)).shape == (7, 9, 3)
        with pytest.raises(DamagedImage, match="end before the last row"):
            decode(short(color, bits, 9, 7, 6, fill))


def test_data_after_the_last_row_are_not_inflated():
    data = short(0, 8, 9, 7, 10_000_000, 0)
    tracemalloc.start()
    assert decode(data).shape == (7, 9, 3)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("size", [(1, 1), (9, 7), (8, 8), (2, 5)])
def test_passes_that_are_missing_are_damage(size):
    width, height = size
    passes = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2]]
    rows = []
    for left, top, across, down in [*passes, [0, 1, 1, 2]]:
        columns = len(range(left, width, across))
        rows += [bytes(1 + columns)] * len(range(top, height, down)) if columns else []
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)

    def interlaced(rows):
        pixels = chunk(b"IDAT", zlib.compress(b"".join(rows)))
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")

    assert decode(interlaced(rows)).shape == (height, width, 3)
    with pytest.raises(DamagedImage):
        decode(interlaced(rows[:-1]))


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_wrong_checksum_of_a_critical_chunk_is_damage(name):
    data = png(PHOTO[..., :1] & 1, 3, 8, (b"PLTE", bytes(6)))
    place = data.index(name)
    length = int.from_bytes(data[place - 4 : place], "big")
    end = place + 4 + length
    with pytest.raises(DamagedImage, match=f"the checksum of its {name.decode()} chunk is wrong"):
        decode(data[:end] + b"\0\0\0\0" + data[end + 4 :])


def test_two_headers_are_damage():
    data = png(PHOTO, 2, 8)
    with pytest.raises(DamagedImage, match="IHDR"):
        decode(data[:33] + data[8:])


def test_a_kind_that_is_not_supported_is_named():
    with pytest.raises(UnsupportedImage) as raised:
        decode(png(PHOTO[..., :1] & 1, 3, 16))
    assert str(raised.value) == "a PNG of colour type 3 with 16 bits, which is not supported"
