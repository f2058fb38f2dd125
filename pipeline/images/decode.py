"""Decodes photos and scales them down to the size that the network sees."""

from __future__ import annotations

import io
from dataclasses import dataclass

from model_build.data import decode as images
from model_build.data.unreadable import TooManyPixels
from pipeline.images.sizes import fitted_size
from pipeline.records import Photo

MAX_PIXELS = images.MAX_PIXELS  # by default


@dataclass(frozen=True)
class DecodeOptions:
    """How images are decoded.

    Attributes:
        long_side: scale down to at most this many pixels on the longer side; None keeps the size.
        max_pixels: refuse larger images before decoding them.
    """

    long_side: int | None
    max_pixels: int


def decode(data: bytes | io.BytesIO, options: DecodeOptions) -> Photo:
    """Decodes and scales an image as :mod:`model_build.data.decode` does.

    Args:
        data: the file's bytes. A ``BytesIO`` is closed as soon as they are no longer needed.

    Raises:
        TooManyPixels: width × height in the header exceeds ``max_pixels``.
        Exception: as :func:`model_build.data.decode.open_image` and
            :meth:`model_build.data.decode.Picture.pixels`.
    """
    picture = images.open_image(data)
    if picture.height * picture.width > options.max_pixels:
        raise TooManyPixels(
            picture.height,
            picture.width,
            options.max_pixels,
            "; raise --max-pixels to accept it",
        )
    pixels = picture.pixels(fitted_size(picture.height, picture.width, options.long_side))
    return Photo(pixels, *picture.upright)


def decoded_bytes(data: bytes | io.BytesIO, options: DecodeOptions) -> int:
    """Estimates an image's decoded size in bytes from its header; 0 if that is damaged."""
    try:
        picture = images.open_image(data)
    except Exception:  # decoding raises the same error
        return 0
    if picture.height * picture.width > options.max_pixels:
        return 0  # it will not be decoded
    height, width = fitted_size(picture.height, picture.width, options.long_side)
    return 4 * height * width  # three bytes of colour and one of class a pixel
