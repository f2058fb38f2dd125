"""Embedded profiles."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from model_build.data.decode import decode, open_image
from model_build.data.profiles import in_srgb
from tests.model_build.data.image_files import ADOBE_RGB, gradient, profile, saved

PHOTO = gradient(60, 40)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_colours_of_a_wide_gamut_become_srgb(kind):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    plain = decode(saved(Image.fromarray(PHOTO), kind, **options))
    pixels = decode(saved(Image.fromarray(PHOTO), kind, icc_profile=ADOBE_RGB, **options))
    np.testing.assert_array_equal(pixels, in_srgb(plain, "RGB", ADOBE_RGB))
    # A wider gamut: the same numbers are stronger colours.
    assert np.ptp(pixels.astype(int), axis=-1).mean() > np.ptp(plain.astype(int), axis=-1).mean()


def test_grey_values_are_unchanged():
    grey = np.full((4, 4, 3), 128, np.uint8)
    assert np.ptp(in_srgb(grey, "RGB", ADOBE_RGB), axis=-1).max() <= 1


@pytest.mark.parametrize(
    "other",
    [
        SRGB,
        b"",
        b"no profile",
        ADOBE_RGB[:200],
        ADOBE_RGB[:16] + b"GRAY" + ADOBE_RGB[20:],
        ADOBE_RGB[:128] + b"\xff" * 300,
    ],
    ids=["sRGB", "none", "text", "short", "grey", "garbled"],
)
def test_a_profile_with_nothing_to_convert_changes_nothing(other):
    data = saved(Image.fromarray(PHOTO), "PNG", icc_profile=other)
    np.testing.assert_array_equal(decode(data), PHOTO)


def test_a_profile_of_one_mode_is_not_for_another():
    assert in_srgb(np.zeros((2, 2, 4), np.uint8), "CMYK", ADOBE_RGB) is None


def test_threads_share_a_profile():
    other = profile([(0.7, 0.29), (0.2, 0.75), (0.14, 0.05)], 1.8)
    photos = [np.roll(PHOTO, shift, axis=1) for shift in range(16)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda pixels: in_srgb(pixels, "RGB", other), photos))
    for shift, pixels in enumerate(together):
        np.testing.assert_array_equal(pixels, np.roll(in_srgb(PHOTO, "RGB", other), shift, axis=1))


def test_a_scaled_photo_is_converted():
    data = saved(Image.fromarray(PHOTO), "PNG", icc_profile=ADOBE_RGB)
    plain = open_image(saved(Image.fromarray(PHOTO), "PNG")).pixels((20, 30))
    np.testing.assert_array_equal(
        open_image(data).pixels((20, 30)), in_srgb(plain, "RGB", ADOBE_RGB)
    )
