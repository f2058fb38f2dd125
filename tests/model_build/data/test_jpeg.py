"""JPEGs: short metadata, damage and what is none."""

import io

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from model_build.data import jpeg
from model_build.data.decode import decode, open_image
from model_build.data.unreadable import DamagedImage, UnsupportedImage
from tests.model_build.data.image_files import exif, gradient, saved, scan_of, with_segment

ADOBE = b"Adobe\0\x64\0\0\0\0"
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)).resize(
    (160, 120), Image.Resampling.BICUBIC
)
LAYOUTS = {
    "baseline": {},
    "444": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
}


def photo(**options):
    return saved(PHOTO, "JPEG", quality=90, **options)


def cut_at(data, part, size=0):
    """The file up to a part of its coded data, and from there on without ``size`` bytes."""
    start = scan_of(data)
    place = start + int(part * (len(data) - start))
    while data[place - 1] == 0xFF:
        place += 1
    return data[:place], data[place + size :]


@pytest.mark.parametrize(
    ("code", "content"),
    [
        (0xE0, b"JFIF\0\1"),
        (0xE0, b"JFIF\0"),
        (0xE0, b""),
        (0xE0, b"JFXX\0"),
        (0xE1, b"Exif\0\0"),
        (0xE1, b"Exif\0\0II*"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"ICC_PROFILE\0\1"),
        (0xE2, b"ICC_PROFILE\0\1\2nothing"),
        (0xE2, b"MPF\0"),
        (0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
        (0xED, b"Photoshop 3.0\x00" + b"8BIM\x03\xed\0\0\0\0\0\4ab"),
        (0xEE, b"Adobe"),
        (0xEE, b"Adobe\0\x64"),
        (0xEE, ADOBE + b"\x09"),
        (0xFE, b""),
    ],
)
def test_short_or_garbled_metadata_costs_nothing(code, content):
    plain = photo()
    pixels = decode(with_segment(plain, code, content))
    np.testing.assert_array_equal(pixels, decode(plain))


def test_bytes_between_segments_are_skipped():
    plain = photo()
    data = plain[:2] + b"\0\1\2\xff\xff" + plain[2:]
    np.testing.assert_array_equal(decode(data), decode(plain))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_end_is_not_damage(layout):
    plain = photo(**LAYOUTS[layout])
    for data in (plain[:-2], plain[:-1], plain + b"\0\0trailer"):
        np.testing.assert_array_equal(decode(data), decode(plain))


@pytest.mark.parametrize("behind", [b"\x12\x34\x56" * 5, bytes(500), b"\xff" * 9])
def test_extraneous_bytes_behind_the_last_block_are_no_damage(behind):
    plain = photo()
    np.testing.assert_array_equal(decode(plain[:-2] + behind + plain[-2:]), decode(plain))


def test_a_restart_marker_of_another_number_is_no_damage():
    plain = photo(restart_marker_rows=1)
    place = plain.index(b"\xff\xd1", scan_of(plain))
    data = plain[:place] + b"\xff\xd2" + plain[place + 2 :]
    assert decode(data).shape == (120, 160, 3)


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncated_data_with_an_end_marker_are_damage(layout, part):
    head, _ = cut_at(photo(**LAYOUTS[layout]), part)
    for data in (head, head + jpeg.END):
        with pytest.raises(DamagedImage):
            decode(data)


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("layout", ["baseline", "444", "restarts"])
def test_a_kilobyte_of_zeros_inside_is_damage(layout, part):
    head, tail = cut_at(photo(**LAYOUTS[layout]), part)
    with pytest.raises(DamagedImage):
        decode(head + bytes(1024) + tail)


def test_damage_is_found_at_a_fraction_of_the_size():
    head, _ = cut_at(photo(), 0.5)
    picture = open_image(head + jpeg.END)
    with pytest.raises(DamagedImage, match="premature end of data segment"):
        picture.pixels((15, 20))


def test_damage_is_found_behind_harmless_warnings():
    head, _ = cut_at(with_segment(photo(), 0xEE, ADOBE + b"\x09"), 0.5)
    data = head[:2] + b"\0\1\2" + head[2:] + jpeg.END
    with pytest.raises(DamagedImage, match="premature end of data segment"):
        decode(data)


def test_damage_is_found_where_the_subsampling_is_unusual():
    data = saved(PHOTO.convert("CMYK"), "JPEG", quality=90, subsampling=2)
    assert decode(data).shape == (120, 160, 3)
    head, _ = cut_at(data, 0.5)
    with pytest.raises(DamagedImage, match="premature end of data segment"):
        decode(head + jpeg.END)


def test_a_progressive_jpeg_without_its_last_scans_is_damaged():
    data = photo(progressive=True)
    with pytest.raises(DamagedImage, match="scans are missing"):
        decode(data[: data.rindex(b"\xff\xda")] + jpeg.END)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("size", [(199, 301), (100, 151), (99, 150), (50, 75), (25, 40), (3, 5)])
def test_pixels_are_those_of_pillow_at_each_fraction(mode, size):
    data = saved(Image.fromarray(gradient(301, 199)).convert(mode), "JPEG")
    header = jpeg.read_header(data)
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, size[::-1])
        expected = np.asarray(image if mode == "CMYK" else image.convert("RGB"))
    assert (header.height, header.width, header.channels) == (
        199,
        301,
        len(Image.new(mode, (1, 1)).getbands()),
    )
    np.testing.assert_array_equal(jpeg.decode(data, header, size), expected)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"\xff\xc1\0\x0b\x0c", "a JPEG of 12 bits a channel, which is not supported"),
        (b"\xff\xc9\0\x0b\x08", "a JPEG in arithmetic coding, which is not supported"),
        (b"\xff\xc5\0\x0b\x08", "a JPEG in hierarchical frames, which is not supported"),
        (b"\xff\xf7\0\x0b\x08", "a JPEG-LS file, which is not supported"),
    ],
)
def test_kinds_that_are_not_supported_are_named(frame, message):
    with pytest.raises(UnsupportedImage) as raised:
        decode(jpeg.START + frame + b"\0\x10\0\x10\1\1\x11\0" + jpeg.END)
    assert str(raised.value) == message


@pytest.mark.parametrize("kind", ["SHORT", "BYTE", "LONG", "SLONG"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", [3, 6])
def test_the_orientation_may_be_a_number_of_any_type(kind, order, orientation):
    pixels = decode(photo(exif=exif(orientation, kind, order)))
    turns = {3: 2, 6: -1}[orientation]
    np.testing.assert_array_equal(pixels, np.rot90(decode(photo()), turns))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>'


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_only_exif_turns_a_photo(kind):
    plain = {"lossless": True} if kind == "WEBP" else {}
    options = dict(plain)
    if kind == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    elif kind == "TIFF":
        options["tiffinfo"] = {700: XMP}
    else:
        options["xmp"] = XMP
    data = saved(PHOTO, kind, **options)
    assert XMP[-40:] in data
    np.testing.assert_array_equal(
        decode(data), decode(saved(PHOTO, kind, **({"lossless": True} if kind == "WEBP" else {})))
    )
