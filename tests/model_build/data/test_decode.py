import io
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from model_build.data.decode import decode, open_image
from model_build.data.modes import ROWS_PER_BAND, to_rgb
from model_build.data.unreadable import DamagedImage, TooManyPixels
from tests.model_build.data import image_files
from tests.model_build.data.image_files import png_of_rows, saved

ORIENTATION = ExifTags.Base.Orientation


def gradient(width=48, height=32):
    return Image.fromarray(image_files.gradient(width, height))


def check_decoded(pixels, height, width):
    assert pixels.dtype == np.uint8
    assert pixels.shape == (height, width, 3)


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "MPO"])
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(gradient(), kind, exif=exif, **options)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    image = decode(data)
    check_decoded(image, *upright.shape[:2])
    assert np.array_equal(image, upright)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_orientation_is_applied_once(compression, orientation):
    data = saved(
        gradient(), "TIFF", tiffinfo={ORIENTATION.value: orientation}, compression=compression
    )
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    # The same photo as PNG is the expected result.
    twin = Image.open(io.BytesIO(saved(gradient(), "PNG", exif=exif)))
    upright = np.asarray(ImageOps.exif_transpose(twin))
    image = decode(data)
    check_decoded(image, *upright.shape[:2])
    assert np.array_equal(image, upright)


@pytest.mark.parametrize("orientation", [0, 9, 100, 65535])
def test_an_invalid_orientation_is_ignored(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    check_decoded(decode(saved(gradient(), "PNG", exif=exif)), 32, 48)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0",
    ],
    ids=["empty", "garbage", "far offset", "far value", "text"],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File")  # pytest's own filters
def test_damaged_exif_does_not_cost_the_image(exif):
    check_decoded(decode(saved(gradient(), "JPEG", exif=exif)), 32, 48)


# Modes


def test_rgb_is_unchanged(image_bytes):
    data = image_bytes("PNG")
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_bilevel_is_black_and_white(kind):
    bits = Image.new("1", (6, 4))
    bits.putpixel((2, 1), 1)
    pixels = decode(saved(bits, kind))
    assert pixels[1, 2].tolist() == [255] * 3
    assert pixels.sum() == 3 * 255


def test_grey_is_repeated_in_all_channels():
    assert decode(saved(Image.new("L", (3, 2), 77), "PNG")).tolist() == [[[77] * 3] * 3] * 2


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("LA", (50, 0), [255] * 3),
        ("LA", (50, 255), [50] * 3),
        ("RGBA", (10, 20, 30, 0), [255] * 3),
        ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
        ("RGBA", (0, 0, 0, 128), [127] * 3),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_transparency_is_laid_on_white(kind, mode, color, expected):
    pixels = decode(saved(Image.new(mode, (2, 2), color), kind))
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_palette_colours_are_looked_up():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert decode(saved(image, kind)).tolist() == [[[10, 20, 30], [200, 100, 0]]]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(kind):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putpixel((1, 0), 1)
    data = saved(image, kind, transparency=0)
    assert decode(data).tolist() == [[[255, 255, 255], [200, 100, 0]]]


def test_a_palette_with_alpha_is_laid_on_white():
    image = Image.new("PA", (2, 1), (0, 0))
    image.putpalette([10, 20, 30])
    image.putpixel((1, 0), (0, 255))
    assert decode(saved(image, "TIFF")).tolist() == [[[255, 255, 255], [10, 20, 30]]]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            png_of_rows(2, 1, 8, 2, b"\0\1\2\3\x09\x09\x09", tRNS=struct.pack(">3H", 1, 2, 3)),
            [[255] * 3, [9] * 3],
        ),
        (png_of_rows(2, 1, 8, 0, b"\0\1\5", tRNS=struct.pack(">H", 1)), [[255] * 3, [5] * 3]),
        (png_of_rows(2, 1, 1, 0, b"\0\x40", tRNS=struct.pack(">H", 0)), [[255] * 3, [255] * 3]),
        (
            png_of_rows(
                2,
                1,
                16,
                2,
                b"\0" + struct.pack(">6H", 65535, 0, 0, 256, 512, 1024),
                tRNS=struct.pack(">3H", 1, 1, 1),
            ),
            [[255, 0, 0], [1, 2, 4]],
        ),
    ],
    ids=["RGB", "L", "1", "RGB 16 bits"],
)
def test_a_transparent_colour_of_a_png(data, expected):
    assert decode(data).tolist() == [expected]


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_16_bits_keep_their_upper_byte(mode):
    values = np.array([[0, 255, 256, 0x7FFF, 0xFFFF]], ">u2" if mode == "I;16B" else "<u2")
    image = Image.frombytes(mode, (5, 1), values.tobytes())
    grey = [0, 0, 1, 0x7F, 0xFF]
    kinds = ["TIFF"] if mode == "I;16B" else ["TIFF", "PNG"]
    for kind in kinds:
        assert decode(saved(image, kind)).tolist() == [[[value] * 3 for value in grey]]


def test_32_bits_are_clipped_to_16():
    values = np.array([[-5, 512, 70_000]], np.int32)
    pixels = decode(saved(Image.fromarray(values), "TIFF"))
    assert pixels[0, :, 0].tolist() == [0, 2, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 127, 255]),
        ([-3.0, 100.7, 300.0], [0, 100, 255]),
        ([np.nan, 2.0, 3.0], [0, 2, 3]),
        ([np.inf, 0.5, -np.inf], [255, 127, 0]),
    ],
    ids=["to 1", "to 255", "nan", "infinite"],
)
def test_floats_of_either_range(values, expected):
    data = saved(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert decode(data)[0, :, 0].tolist() == expected


def test_cmyk_jpeg():
    data = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(decode(data).astype(int) - [255, 0, 0]).max() < 8


def test_ycbcr_jpeg():
    data = saved(Image.new("RGB", (8, 8), (200, 60, 20)).convert("YCbCr"), "JPEG", quality=95)
    assert np.abs(decode(data).astype(int) - [200, 60, 20]).max() < 8


# Formats


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_only_the_first_of_several_frames_counts(kind):
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "lime", "blue")]
    frames[1].putpixel((0, 0), (9, 9, 9))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    image = decode(data)
    check_decoded(image, 6, 8)
    assert np.abs(image.astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (1, 64), (64, 1)])
def test_narrow_images(kind, size, image_bytes):
    data = image_bytes(kind, *size)
    check_decoded(decode(data), size[1], size[0])


def test_an_empty_file_is_reported_as_empty():
    with pytest.raises(UnidentifiedImageError, match="the file is empty"):
        decode(b"")


@pytest.mark.parametrize(
    "data",
    [
        b"just text\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        b"%PDF-1.4\n",
    ],
    ids=["text", "EPS", "PDF"],
)
def test_a_file_that_is_not_an_image_is_refused_without_a_buffers_address(data):
    with pytest.raises(UnidentifiedImageError) as raised:
        decode(data)
    assert "BytesIO" not in str(raised.value)


@pytest.mark.parametrize("kind", ["EPS", "PPM", "TGA", "ICO", "PDF", "PCX"])
def test_formats_that_are_not_listed_are_refused(kind, image_bytes):
    with pytest.raises(UnidentifiedImageError):
        decode(image_bytes(kind, 16, 16))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_file_cut_short_is_damaged(kind, compression, image_bytes):
    options = {"compression": compression} if kind == "TIFF" else {}
    data = image_bytes(kind, 64, 64, **options)
    with pytest.raises(DamagedImage) as raised:
        decode(data[: len(data) // 2])
    assert str(raised.value).startswith("damaged or cut short")
    assert "decoder" not in str(raised.value)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8",
        b"\x89PNG\r\n\x1a\n",
        png_of_rows(0, 5, 8, 2, b""),
        b"GIF89a",
        b"RIFF\x10\0\0\0WEBPVP8 ",
        b"II*\0\x08\0\0\0",
    ],
    ids=["JPEG", "PNG", "PNG without width", "GIF", "WebP", "TIFF"],
)
def test_the_start_of_an_image_is_damaged(data):
    with pytest.raises(DamagedImage):
        open_image(data)


def test_too_many_pixels_are_refused_before_decoding():
    with pytest.raises(TooManyPixels, match=r"60000×60000 is more than the 178,000,000 pixels"):
        decode(png_of_rows(60_000, 60_000, 8, 2, b""))


def test_odd_metadata_gives_no_warning():
    data = saved(gradient(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0")
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(io.BytesIO(data)) as image:
        image.getexif()
    # The filter is the process's, and pytest has its own: so a process of its own.
    code = (
        "import sys; from model_build.data.decode import decode\n"
        "print(decode(sys.stdin.buffer.read()).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True)
    assert (done.stdout, done.stderr) == (b"(32, 48, 3)\n", b"")


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "I;16"])
def test_bands_of_a_high_image_make_the_whole(mode):
    """Whatever the mode, an image higher than a band is as Pillow converts it in one piece."""
    values = np.random.default_rng(0).integers(0, 255, (2 * ROWS_PER_BAND + 7, 3, 4), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values[..., 0].astype(np.uint16) << 8)
    else:
        image = Image.fromarray(values).convert(mode)
    data = saved(image, "PNG")
    with Image.open(io.BytesIO(data)) as whole:
        np.testing.assert_array_equal(decode(data), np.asarray(to_rgb(whole)))


def test_a_file_is_closed_once_its_bytes_are_not_needed():
    stream = io.BytesIO(saved(gradient(), "PNG"))
    pixels = decode(stream)
    assert stream.closed
    np.testing.assert_array_equal(pixels, decode(saved(gradient(), "PNG")))
