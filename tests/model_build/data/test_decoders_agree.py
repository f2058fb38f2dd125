"""The decoder held against libvips: format × mode × bits × transparency × orientation × damage.

The mean difference must be below 1 of 255. Where libvips reads otherwise, or not at all, what it is
given or gives is changed here, with the reason.
"""

import itertools

import numpy as np
import pytest
from PIL import Image

from model_build.data.decode import decode
from model_build.data.unreadable import DamagedImage
from tests.model_build.data.image_files import (
    ADOBE_RGB,
    DISPLAY_P3,
    entry,
    exif,
    gradient,
    png,
    saved,
    scan_of,
    tiff,
)

try:
    import pyvips
except (ImportError, OSError) as error:
    pytest.skip(f"pyvips, the second decoder, is not here: {error}", allow_module_level=True)

PHOTO = gradient()
GREY = np.asarray(Image.fromarray(PHOTO).convert("L"))[..., None]
ALPHA = np.linspace(0, 255, GREY.size).reshape(GREY.shape).astype(np.uint8)
RGBA, LA = np.dstack([PHOTO, ALPHA]), np.dstack([GREY, ALPHA])
PREMULTIPLIED = np.dstack([(PHOTO.astype(int) * ALPHA // 255).astype(np.uint8), ALPHA])
CMYK = np.asarray(Image.fromarray(PHOTO).convert("CMYK"))
YCBCR = np.asarray(Image.fromarray(PHOTO).convert("YCbCr"))
WITHOUT_SUBSAMPLING = (530, "SHORT", 1, 1)


def wide(samples):
    """Samples of 8 bits in 16."""
    return samples.astype(np.uint16) * 257


def by_vips(data):
    """uint8 RGB of libvips, upright and on white."""
    image = pyvips.Image.new_from_buffer(data, "").autorot()
    if image.interpretation == "cmyk" or image.get_typeof("icc-profile-data"):
        if image.get_typeof("icc-profile-data"):
            image = image.icc_transform("srgb", intent="perceptual")
        else:  # it assumes its own profile for CMYK without a profile
            inks = image.numpy()
            inks = (inks >> 8 if inks.dtype == np.uint16 else inks).astype(np.uint8)
            return np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))
    if image.hasalpha():
        image = image.flatten(background=65535 if image.format == "ushort" else 255)
    if image.format in ("uint", "int", "float"):  # it has no unit for these
        numbers = image.numpy().astype(np.float64)
        unit = {"uint": 1 / (1 << 24), "int": 1 / 256, "float": 255}[image.format]
        values = np.clip(numbers * unit, 0, 255).astype(np.uint8)
    else:
        values = image.colourspace("srgb").numpy()
    return np.dstack([values] * 3) if values.ndim == 2 else values


def check(data, other=None):
    """Compares what both decoders make of a file, or of two that show the same."""
    ours, theirs = decode(data), by_vips(other or data)
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).mean() < 1


TIFFS = {
    "RGB 8": (PHOTO, 2, {}),
    "RGB 16": (wide(PHOTO), 2, {}),
    "RGBA 8": (RGBA, 2, {"extra": (2,)}),
    "RGBA 16": (wide(RGBA), 2, {"extra": (2,)}),
    "premultiplied 8": (PREMULTIPLIED, 2, {"extra": (1,)}),
    "premultiplied 16": (wide(PREMULTIPLIED), 2, {"extra": (1,)}),
    "grey 1": (GREY >> 7, 1, {"bits": 1}),
    "grey 2": (GREY >> 6, 1, {"bits": 2}),
    "grey 4": (GREY >> 4, 1, {"bits": 4}),
    "grey 8": (GREY, 1, {}),
    "grey 16": (wide(GREY), 1, {}),
    "grey and alpha 8": (LA, 1, {"extra": (2,)}),
    "white is zero 1": (1 - (GREY >> 7), 0, {"bits": 1}),
    "white is zero 4": (15 - (GREY >> 4), 0, {"bits": 4}),
    "white is zero 8": (255 - GREY, 0, {}),
    "white is zero 16": (65535 - wide(GREY), 0, {}),
    "unsigned 32": (GREY.astype(np.uint32) * 0x01010101, 1, {}),
    "signed 32": (GREY.astype(np.int32) * 257, 1, {"form": 2}),
    "float 32": ((GREY / 255).astype(np.float32), 1, {"form": 3}),
    "CMYK 8": (CMYK, 5, {}),
    "CMYK 16": (wide(CMYK), 5, {}),
}


@pytest.mark.parametrize(
    ("order", "planes", "tile", "deflate"),
    itertools.product("<>", (False, True), (None, 16), (False, True)),
)
@pytest.mark.parametrize("kind", TIFFS)
def test_tiff(kind, order, planes, tile, deflate):
    samples, photometric, options = TIFFS[kind]
    if planes and samples.shape[2] < 3:
        pytest.skip("one plane is no plane; grey and alpha in planes are not supported")
    layout = {"order": order, "tile": tile, "deflate": deflate, **options}
    data = tiff(samples, photometric, planes=planes, **layout)
    # It does not read tiles of planes: the twin shows the same in pixels.
    check(data, tiff(samples, photometric, **layout) if planes and tile else None)


@pytest.mark.parametrize(
    ("order", "planes", "tile", "deflate", "behind"),
    itertools.product("<>", (False, True), (None, 16), (False, True), (b"", bytes(100))),
)
def test_tiff_of_ycbcr(order, planes, tile, deflate, behind):
    """It shows YCbCr that is not JPEG as if it were RGB: the twin is RGB."""
    more = [entry(order, *WITHOUT_SUBSAMPLING)]
    layout = {"order": order, "tile": tile, "deflate": deflate}
    data = tiff(YCBCR, 6, planes=planes, more=more, behind=behind, **layout)
    check(data, tiff(PHOTO, 2, **layout))


@pytest.mark.parametrize("photometric", [0, 1])
def test_tiff_of_32_bits_and_white_as_zero(photometric):
    """It does not invert these: the twin has zero as black."""
    samples = GREY.astype(np.uint32) * 0x01010101
    data = tiff(samples if photometric else 0xFFFFFFFF - samples, photometric)
    check(data, tiff(samples, 1))


PNGS = {
    **{f"grey {bits}": (GREY >> (8 - bits), 0, bits) for bits in (1, 2, 4, 8)},
    "grey 16": (wide(GREY), 0, 16),
    "RGB 8": (PHOTO, 2, 8),
    "RGB 16": (wide(PHOTO), 2, 16),
    "grey and alpha 8": (LA, 4, 8),
    "grey and alpha 16": (wide(LA), 4, 16),
    "RGBA 8": (RGBA, 6, 8),
    "RGBA 16": (wide(RGBA), 6, 16),
    **{f"palette {bits}": (GREY >> (8 - bits), 3, bits) for bits in (1, 2, 4, 8)},
}


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("kind", PNGS)
def test_png(kind, transparent):
    samples, color, bits = PNGS[kind]
    chunks = []
    if color == 3:
        colors = [(3 * i % 256, 255 - i, i) for i in range(2**bits)]
        chunks.append((b"PLTE", bytes(sum(colors, ()))))
    if transparent and color in (0, 2):
        values, counts = np.unique(
            samples.reshape(-1, samples.shape[2]), axis=0, return_counts=True
        )
        chunks.append((b"tRNS", values[counts.argmax()].astype(">u2").tobytes()))
    elif transparent and color == 3:
        chunks.append((b"tRNS", bytes(range(0, 256, 256 >> bits))))
    elif transparent:
        pytest.skip("it has an alpha channel")
    check(png(samples, color, bits, *chunks))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation(kind, orientation):
    if kind == "TIFF":
        data = tiff(PHOTO, 2, more=[entry("<", 274, "SHORT", orientation)])
    else:
        options = {"lossless": True} if kind == "WEBP" else {}
        data = saved(Image.fromarray(PHOTO), kind, exif=exif(orientation), **options)
    check(data)


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"optimize": True}],
    ids=["baseline", "progressive", "restarts", "optimized"],
)
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg(mode, subsampling, options):
    photo = Image.fromarray(PHOTO).convert(mode)
    data = saved(photo, "JPEG", quality=90, subsampling=subsampling, **options)
    check(data)
    check(data[:-2], data)  # without its end
    for part in (0.3, 0.6, 0.9):
        half = data[: scan_of(data) + int(part * (len(data) - scan_of(data)))] + b"\xff\xd9"
        with pytest.raises(DamagedImage):
            decode(half)


@pytest.mark.parametrize("profile", [ADOBE_RGB, DISPLAY_P3], ids=["Adobe RGB", "Display P3"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_profiles(kind, profile):
    options = {"lossless": True} if kind == "WEBP" else {}
    check(saved(Image.fromarray(PHOTO), kind, icc_profile=profile, **options))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_profiles_of_print(kind):
    profile = bytes(pyvips.Operation.call("profile_load", "cmyk"))
    check(saved(Image.fromarray(CMYK, "CMYK"), kind, icc_profile=profile))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_bmp_and_gif(mode):
    """It reads no BMP by itself: the twin is PNG."""
    image = Image.fromarray(PHOTO).convert(mode)
    check(saved(image, "BMP"), saved(image, "PNG"))
    if mode != "RGB":
        check(saved(image, "GIF"))
