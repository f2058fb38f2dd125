"""Bytes → pixels: every mode and orientation ends as uint8 RGB."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.images import libtiff
from pipeline.images.sizes import fit
from pipeline.records import Photo

MAX_PIXELS = 178_000_000  # by default; twice what Pillow warns of
# Formats that are only data: no EPS (runs a PostScript interpreter), no PDF. The MPO that phones
# write, a JPEG with a second picture behind the first, counts as JPEG.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP")
BAND = 512  # rows that are converted at a time

# The limit is checked below, per call, against the caller's number.
Image.MAX_IMAGE_PIXELS = None
# Blocks that are large enough to go back to the system when they are freed: of 16 MB, as they come,
# glibc keeps them (https://pillow.readthedocs.io/en/stable/reference/block_allocator.html).
Image.core.set_block_size(64 << 20)
Image.init()  # loads the formats Pillow would otherwise load when it meets one
libtiff.silence()
# Odd metadata is no reason to warn: the pixels count. For the process, as `catch_warnings` is not
# safe among threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Steps through the rows and columns of what is upright, by orientation; from 5 on rows and columns
# are exchanged first (EXIF 2.32, "Orientation").
_FLIPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}


class TooManyPixels(ValueError):
    """An image larger than the limit: it would not fit into memory."""


@dataclass(frozen=True)
class DecodeOptions:
    """How images are decoded.

    Attributes:
        long_side: scale down to at most this many pixels on the longer side; None leaves the size
            alone.
        max_pixels: refuse larger images before decoding them.
    """

    long_side: int | None
    max_pixels: int


def decode(data: bytes | io.BytesIO, options: DecodeOptions) -> Photo:
    """Decodes the first frame of a JPEG, PNG, BMP, GIF, TIFF or WebP.

    EXIF orientation is applied, transparency is laid on white, 16-bit values keep their upper byte.
    A JPEG that is to be scaled down is decoded at a fraction of its size.

    Args:
        data: the file's bytes. A ``BytesIO`` is closed as soon as they are not needed any more: of
            a large image file, pixels and Pillow's pixels are much to hold at once.

    Raises:
        TooManyPixels: width × height in the header exceeds ``max_pixels``.
        UnidentifiedImageError: the bytes are no image in one of :data:`FORMATS`.
        Exception: what Pillow raises for files that are damaged or cut short.
    """
    with _open(data) as image:
        width, height = image.size
        if width * height > options.max_pixels:
            raise TooManyPixels(
                f"{width}×{height} is more than the {options.max_pixels:,} pixels allowed; "
                "raise --max-pixels to accept it"
            )
        orientation = _orientation(image)
        inner = fit(height, width, options.long_side)
        image.draft(None, inner[::-1])
        image.load()
        if isinstance(data, io.BytesIO):
            data.close()
        if image.size == inner[::-1]:
            pixels = rgb_pixels(image)
        else:
            picture = to_rgb(image).resize(inner[::-1], Image.Resampling.BILINEAR)
            pixels = np.asarray(picture)
        if orientation >= 5:
            height, width = width, height
        return Photo(turned(pixels, orientation), height, width)


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """An image of any mode as uint8 RGB ``[h, w, 3]``.

    By bands of rows, as Pillow holds four bytes a pixel, and whole images would be held in several
    modes at once. One that is no higher than a band gains nothing by it.
    """
    # The unit of mode F is told by all of its values.
    if image.mode == "F" or image.height <= BAND:
        return np.asarray(to_rgb(image))
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for start in range(0, image.height, BAND):
        end = min(start + BAND, image.height)
        pixels[start:end] = np.asarray(to_rgb(image.crop((0, start, image.width, end))))
    return pixels


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels turned upright, by an EXIF orientation from 1 to 8; nothing is copied."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = _FLIPS.get(orientation, (1, 1))
    return pixels[::rows, ::columns]


def upright_size(data: bytes) -> tuple[int, int]:
    """An image's height and width in pixels once its EXIF orientation is applied, by its header.

    Raises:
        Exception: as :func:`decode`, where the header is damaged.
    """
    with _open(data) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def decoded_bytes(data: bytes | io.BytesIO, options: DecodeOptions) -> int:
    """About how much memory the image takes decoded, by its header; 0 where that is damaged."""
    try:
        with _open(data) as image:
            width, height = image.size
    except Exception:  # decoding it will tell
        return 0
    if width * height > options.max_pixels:
        return 0  # it will not be decoded
    inner_height, inner_width = fit(height, width, options.long_side)
    return 4 * inner_height * inner_width  # three bytes of colour and one of class a pixel


def _open(data: bytes | io.BytesIO) -> Image.Image:
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    if not stream.getbuffer():
        raise UnidentifiedImageError("the file is empty")
    try:
        return Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:  # Pillow's own message names a buffer's address
        raise UnidentifiedImageError("not an image in a known format") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB; itself where it is."""
    mode = image.mode
    if mode.startswith("I"):  # 16 bits, whatever the byte order; Pillow's convert would clip them
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((np.clip(values, 0, 65535) >> 8).astype(np.uint8))
    elif mode == "F":
        values = np.asarray(image)
        unit = 255 if values[np.isfinite(values)].max(initial=0) <= 1 else 1
        image = Image.fromarray(np.clip(np.nan_to_num(values * unit), 0, 255).astype(np.uint8))
    elif mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        front = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", front.size, "white"), front)
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # Pillow turns these itself
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF must not cost the image
        return 1
    return orientation if 1 <= orientation <= 8 else 1
