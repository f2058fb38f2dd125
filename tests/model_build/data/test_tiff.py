"""TIFFs of kinds that Pillow garbles or refuses, and the words for what is not read."""

import itertools
import logging
import struct

import numpy as np
import pytest
from PIL import Image

from model_build.data.decode import decode
from model_build.data.unreadable import UnsupportedImage
from tests.model_build.data.image_files import entry, gradient, tiff

PHOTO = gradient(40, 24)
WIDE = PHOTO.astype(np.uint16) * 257
GREY = PHOTO[..., 2:]
WIDE_GREY = GREY.astype(np.uint16) * 257
CMYK = np.asarray(Image.fromarray(PHOTO).convert("CMYK"))
LAYOUTS = list(itertools.product("<>", (None, 16), (False, True)))


def grey(values):
    return np.repeat(values, 3, -1)


@pytest.mark.parametrize(("order", "tile", "deflate"), LAYOUTS)
def test_planes_of_16_bits(order, tile, deflate):
    layout = {"order": order, "tile": tile, "deflate": deflate, "planes": True}
    np.testing.assert_array_equal(decode(tiff(WIDE, 2, **layout)), PHOTO)
    solid = np.dstack([WIDE, np.full(WIDE.shape[:2], 65535, np.uint16)])
    np.testing.assert_array_equal(decode(tiff(solid, 2, extra=(2,), **layout)), PHOTO)
    inks = CMYK.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode(tiff(inks, 5, **layout)), decode(tiff(CMYK, 5)))


@pytest.mark.parametrize(("order", "tile", "deflate"), LAYOUTS)
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("behind", [b"", bytes(999)])
def test_ycbcr(order, tile, deflate, planes, behind):
    samples = np.asarray(Image.fromarray(PHOTO).convert("YCbCr"))
    more = [entry(order, 530, "SHORT", 1, 1)]
    layout = {"order": order, "tile": tile, "deflate": deflate, "planes": planes}
    pixels = decode(tiff(samples, 6, more=more, behind=behind, **layout))
    assert np.abs(pixels.astype(int) - PHOTO).max() <= 3


@pytest.mark.parametrize(("order", "tile", "deflate"), LAYOUTS)
def test_white_is_zero(order, tile, deflate):
    layout = {"order": order, "tile": tile, "deflate": deflate}
    np.testing.assert_array_equal(decode(tiff(255 - GREY, 0, **layout)), grey(GREY))
    np.testing.assert_array_equal(decode(tiff(65535 - WIDE_GREY, 0, **layout)), grey(GREY))
    floats = 1 - (GREY / 255).astype(np.float32)
    pixels = decode(tiff(floats, 0, form=3, **layout))
    assert np.abs(pixels.astype(int) - grey(GREY)).max() <= 1


@pytest.mark.parametrize(("order", "tile", "deflate"), LAYOUTS)
def test_unsigned_32_bits_keep_their_upper_byte(order, tile, deflate):
    layout = {"order": order, "tile": tile, "deflate": deflate}
    values = GREY.astype(np.uint32) * 0x01010101
    np.testing.assert_array_equal(decode(tiff(values, 1, **layout)), grey(GREY))
    np.testing.assert_array_equal(decode(tiff(0xFFFFFFFF - values, 0, **layout)), grey(GREY))


def test_12_bits_keep_their_upper_8():
    """Two values in three bytes: written as three of 8 bits, and then called two of 12."""
    data = tiff(np.array([[[0xAB], [0xC1], [0x23]]], np.uint8), 1)
    for tag, old, new in ((256, 3, 2), (258, 8, 12)):
        kind = "LONG" if tag == 256 else "SHORT"
        before, after = (entry("<", tag, kind, value)[3].ljust(4, b"\0") for value in (old, new))
        head = entry("<", tag, kind, old)
        head = struct.pack("<HHI", *head[:3])
        assert head + before in data
        data = data.replace(head + before, head + after)
    assert decode(data)[0, :, 0].tolist() == [0xAB, 0x12]


@pytest.mark.parametrize(("order", "tile", "deflate"), LAYOUTS)
def test_other_32_bit_numbers_have_the_files_byte_order(order, tile, deflate):
    layout = {"order": order, "tile": tile, "deflate": deflate}
    floats = (GREY / 255).astype(np.float32)
    assert np.abs(decode(tiff(floats, 1, form=3, **layout)).astype(int) - grey(GREY)).max() <= 1
    signed = GREY.astype(np.int32) * 257
    np.testing.assert_array_equal(decode(tiff(signed, 1, form=2, **layout)), grey(GREY))


@pytest.mark.parametrize("kind", ["SHORT", "BYTE", "LONG"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_the_orientation_may_be_a_number_of_any_type(kind, orientation):
    pixels = decode(tiff(PHOTO, 2, more=[entry("<", 274, kind, orientation)]))
    np.testing.assert_array_equal(pixels, np.rot90(PHOTO, {3: 2, 6: -1}[orientation]))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (tiff(WIDE[..., :2], 1, extra=(2,)), "2 × 16 bits, photometric interpretation 1"),
        (tiff(PHOTO[..., :2], 1, extra=(2,), planes=True), "2 × 8 bits in planes, photometric"),
        (tiff(PHOTO.astype(np.float32), 2, form=3), "3 × 32 bits floating point, photometric"),
        (tiff(np.repeat(GREY, 30, -1), 1, extra=(0,) * 29), "30 × 8 bits, photometric"),
    ],
    ids=["grey and alpha 16", "grey and alpha in planes", "RGB floats", "30 samples"],
)
def test_kinds_that_are_not_supported_are_named(data, kind, caplog):
    with pytest.raises(UnsupportedImage) as raised:
        decode(data)
    assert str(raised.value).startswith(f"a TIFF of {kind}")
    assert str(raised.value).endswith("which is not supported")
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
