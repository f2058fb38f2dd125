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

# The limit is checked below, per call, against the caller's number.
Image.MAX_IMAGE_PIXELS = None
Image.init()  # loads the formats Pillow would otherwise load when it meets one
libtiff.silence()
# Odd metadata is no reason to warn: the pixels count. For the process, as `catch_warnings` is not
# safe among threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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


def decode(data: bytes, options: DecodeOptions) -> Photo:
    """Decodes the first frame of a JPEG, PNG, BMP, GIF, TIFF or WebP.

    EXIF orientation is applied, transparency is laid on white, 16-bit values keep their upper byte.
    A JPEG that is to be scaled down is decoded at a fraction of its size.

    Args:
        data: the file's bytes.

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
        picture = to_rgb(image)
        if picture.size != inner[::-1]:
            picture = picture.resize(inner[::-1], Image.Resampling.BILINEAR)
        if orientation in _TURNS:
            picture = picture.transpose(_TURNS[orientation])
            if orientation >= 5:
                height, width = width, height
        return Photo(np.asarray(picture), height, width)


def upright_size(data: bytes) -> tuple[int, int]:
    """An image's height and width in pixels once its EXIF orientation is applied, by its header.

    Raises:
        Exception: as :func:`decode`, where the header is damaged.
    """
    with _open(data) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def decoded_bytes(data: bytes, options: DecodeOptions) -> int:
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


def _open(data: bytes) -> Image.Image:
    if not data:
        raise UnidentifiedImageError("the file is empty")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:  # Pillow's own message names a buffer's address
        raise UnidentifiedImageError("not an image in a known format") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB."""
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
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # Pillow turns these itself
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF must not cost the image
        return 1
