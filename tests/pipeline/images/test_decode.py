import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw

from model_build.data import decode as images
from model_build.data import jpeg
from pipeline.images import decode as module
from pipeline.images.decode import DecodeOptions, TooManyPixels, decoded_bytes
from tests.model_build.data import image_files
from tests.model_build.data.image_files import png_of_rows, saved

ORIENTATION = ExifTags.Base.Orientation


def decode(data, long_side=None, max_pixels=10**7):
    return module.decode(data, DecodeOptions(long_side, max_pixels))


def gradient(width=48, height=32):
    return Image.fromarray(image_files.gradient(width, height))


def check_decoded(image, height, width):
    assert image.pixels.dtype == np.uint8
    assert image.pixels.shape == (height, width, 3)
    assert (image.height, image.width) == (height, width)


# Sizes


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(images.Picture, "pixels", lambda *_: pytest.fail("was decoded"))
    bomb = png_of_rows(60_000, 60_000, 8, 2, b"")
    with pytest.raises(TooManyPixels, match=r"60000×60000 .* 178,000,000 pixels .*--max-pixels"):
        decode(bomb, max_pixels=178_000_000)


def test_max_pixels_is_the_largest_allowed_number(image_bytes):
    data = image_bytes("PNG", 6, 4)
    check_decoded(decode(data, max_pixels=24), 4, 6)
    with pytest.raises(TooManyPixels):
        decode(data, max_pixels=23)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_large_image_is_scaled_down_and_remembers_its_size(kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = decode(saved(gradient(601, 403), kind, exif=exif), long_side=100)
    upright = (403, 601) if orientation == 1 else (601, 403)
    assert (image.height, image.width) == upright
    assert image.pixels.shape == ((67, 100, 3) if orientation == 1 else (100, 67, 3))


def test_a_jpeg_is_decoded_at_a_fraction_of_its_size(monkeypatch):
    decoded, plain = [], jpeg.decode

    def watched(*arguments):
        decoded.append(plain(*arguments))
        return decoded[-1]

    monkeypatch.setattr(jpeg, "decode", watched)
    picture = gradient(640, 480)
    image = decode(saved(picture, "JPEG", quality=95), long_side=100)
    assert [pixels.shape for pixels in decoded] == [(120, 160, 3)]
    assert image.pixels.shape == (75, 100, 3)
    expected = np.asarray(picture.resize((100, 75), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(image.pixels - expected).max() < 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (1, 64), (64, 1)])
def test_narrow_images_are_scaled(kind, size, image_bytes):
    image = decode(image_bytes(kind, *size), long_side=8)
    assert image.pixels.shape == (*(min(8, side) for side in size[::-1]), 3)


def test_a_small_image_is_not_enlarged(image_bytes):
    check_decoded(decode(image_bytes("JPEG", 20, 10), long_side=100), 10, 20)


def test_scaling_keeps_the_picture():
    picture = Image.new("RGB", (60, 60), "white")
    ImageDraw.Draw(picture).rectangle((0, 0, 29, 59), fill="black")
    pixels = decode(saved(picture, "PNG"), long_side=20).pixels
    assert pixels[:, :9].max() == 0
    assert pixels[:, 11:].min() == 255


# Estimates from the header


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(("long_side", "pixels"), [(None, 60 * 40), (1000, 60 * 40), (30, 30 * 20)])
def test_decoded_size_is_estimated_from_the_header(image_bytes, kind, long_side, pixels):
    options = DecodeOptions(long_side, 10**7)
    data = image_bytes(kind, 60, 40)
    photo = module.decode(data, options)
    assert decoded_bytes(data, options) == photo.pixels.nbytes + pixels == 4 * pixels


def test_a_header_is_read_without_decoding(monkeypatch, image_bytes):
    monkeypatch.setattr(images.Picture, "pixels", lambda *_: pytest.fail("was decoded"))
    assert decoded_bytes(image_bytes("PNG", 6, 4), DecodeOptions(None, 24)) == 96


@pytest.mark.parametrize(
    "data",
    [b"", b"just text", png_of_rows(0, 5, 8, 2, b""), png_of_rows(60_000, 60_000, 8, 2, b"")],
)
def test_an_image_that_is_not_decoded_takes_no_memory(data):
    assert decoded_bytes(data, DecodeOptions(None, 10**7)) == 0
