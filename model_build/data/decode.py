"""Decodes image files to upright uint8 RGB, by the same rules in training and in the job.

EXIF orientation is applied, transparency is composited on white, grey values of more than 8 bits
keep their upper 8, and only the first of several frames is used. Damaged metadata never makes an
image unreadable.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from model_build.data import jpeg, png, tiff
from model_build.data.modes import rgb_pixels, to_rgb
from model_build.data.profiles import in_srgb
from model_build.data.tiff import Samples
from model_build.data.unreadable import DamagedImage, TooManyPixels, UnsupportedImage

MAX_PIXELS = 178_000_000  # twice the number at which Pillow warns
# Formats that are pure data: no EPS (runs a PostScript interpreter), no PDF. JPEG and PNG have
# their own modules. The MPO files of phones, JPEGs with a second picture appended, count as JPEG.
OTHER_FORMATS = ("BMP", "DIB", "GIF", "TIFF", "WEBP")

COLOURED = ("RGB", "RGBA", "RGBa", "P", "PA")  # modes whose colour profiles are applied

# Pillow's own limit is off: callers check an image's size before they decode its pixels.
Image.MAX_IMAGE_PIXELS = None
# Blocks large enough that glibc returns them to the system when they are freed: it keeps those of
# 16 MB, the default (https://pillow.readthedocs.io/en/stable/reference/block_allocator.html).
Image.core.set_block_size(64 << 20)
Image.init()  # loads all formats now, not when the first file of one is met
# Warnings about odd metadata do not matter. Set for the whole process, as `catch_warnings` is not
# thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Steps through rows and columns that turn an image upright, by orientation; from 5 on rows and
# columns are swapped first (EXIF 2.32, "Orientation").
_FLIPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}


class Picture(NamedTuple):
    """An opened image, of which only the header has been read.

    Attributes:
        height: as stored, in pixels.
        width: likewise.
        orientation: the EXIF orientation still to be applied, 1 to 8.
        load: see :meth:`pixels`.
    """

    height: int
    width: int
    orientation: int
    load: Callable[[tuple[int, int]], np.ndarray]

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width in pixels after the orientation is applied."""
        size = self.height, self.width
        return size[::-1] if self.orientation >= 5 else size

    def pixels(self, size: tuple[int, int]) -> np.ndarray:
        """Decodes the pixels; works only once, as the file is closed.

        Args:
            size: (height, width) to scale to, as stored and no larger than the picture. A JPEG is
                decoded at a fraction of its size if that is enough.

        Returns:
            uint8 RGB, upright: ``[*size, 3]``, or with swapped sides if it is turned.

        Raises:
            DamagedImage: the file is damaged or cut short.
        """
        with _damage():
            return turn_upright(self.load(size), self.orientation)


def open_image(data: bytes | io.BytesIO) -> Picture:
    """Reads the header of a JPEG, PNG, BMP, GIF, TIFF or WebP.

    Args:
        data: the file's bytes. A ``BytesIO`` is closed as soon as they are no longer needed: for a
            large image it would be costly to hold file, pixels and Pillow's pixels at once.

    Raises:
        UnidentifiedImageError: the bytes are not an image in one of these formats.
        UnsupportedImage: they are a variant of one that is not supported.
        DamagedImage: the header is damaged or cut short.
    """
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    stream.seek(0)
    head = stream.read(12)
    if not head:
        raise UnidentifiedImageError("the file is empty")
    with _damage():
        if head.startswith(jpeg.START):
            return _jpeg(stream)
        if head.startswith(png.SIGNATURE):
            return _png(stream)
        return _other(stream, head)


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes an image upright at its own size.

    Returns:
        uint8 RGB ``[h, w, 3]``.

    Raises:
        TooManyPixels: width × height in the header exceeds ``max_pixels``.
        Exception: as :func:`open_image` and :meth:`Picture.pixels`.
    """
    picture = open_image(data)
    if picture.height * picture.width > max_pixels:
        raise TooManyPixels(picture.height, picture.width, max_pixels)
    return picture.pixels((picture.height, picture.width))


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns pixels upright by an EXIF orientation from 1 to 8, as a view."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = _FLIPS.get(orientation, (1, 1))
    return pixels[::rows, ::columns]


def _jpeg(stream: io.BytesIO) -> Picture:
    header = jpeg.read_header(stream.getvalue())

    def load(size: tuple[int, int]) -> np.ndarray:
        pixels = jpeg.decode(stream.getvalue(), header, size)
        stream.close()
        if header.channels == 4 or pixels.shape[:2] != size:
            image = Image.fromarray(pixels, "RGB" if header.channels < 4 else "CMYK")
            return _finished(image, size, header.profile)
        return _in_srgb(pixels, header.profile)

    return Picture(header.height, header.width, orientation_of(header.exif), load)


def _png(stream: io.BytesIO) -> Picture:
    reduced = png.reduce(stream.getvalue())
    chunks = io.BytesIO(reduced.stream)
    try:
        image = png.open_reduced(chunks, reduced)
    except UnidentifiedImageError:  # Pillow's own message names a buffer's address
        raise DamagedImage from None

    def load(size: tuple[int, int]) -> np.ndarray:
        stream.close()
        image.load()
        png.check_rows(image, reduced)
        whole = png.with_key(image, reduced)
        chunks.close()
        return _finished(whole, size, reduced.profile)

    return Picture(image.height, image.width, orientation_of(reduced.exif), load)


def _other(stream: io.BytesIO, head: bytes) -> Picture:
    try:
        image = Image.open(stream, formats=OTHER_FORMATS)
    except Exception as error:
        if head.startswith(tiff.PREFIXES):
            raise tiff.explain_unreadable(stream) from error
        if head.startswith(b"GIF8") or (head[:4], head[8:]) == (b"RIFF", b"WEBP"):
            raise DamagedImage from error
        if isinstance(error, UnidentifiedImageError):  # Pillow's message names a buffer's address
            raise UnidentifiedImageError("not an image in a known format") from None
        raise
    samples, orientation = Samples(), orientation_of(image.info.get("exif", b""))
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        samples, tag = tiff.prepare_to_load(image)
        orientation = _whole(tag)

    def load(size: tuple[int, int]) -> np.ndarray:
        image.load()
        stream.close()
        return _finished(image, size, image.info.get("icc_profile", b""), samples)

    return Picture(image.height, image.width, orientation, load)


def _finished(
    image: Image.Image, size: tuple[int, int], profile: bytes, samples: Samples | None = None
) -> np.ndarray:
    """Converts a loaded image of any mode and size to uint8 RGB ``[*size, 3]``."""
    if image.mode == "CMYK" and profile:
        inks = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))
        pixels = in_srgb(inks, "CMYK", profile)
        if pixels is not None:
            return pixels
    if image.size == size[::-1]:
        pixels = rgb_pixels(image, samples)
    else:
        picture = to_rgb(image, samples).resize(size[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(picture)
    return _in_srgb(pixels, profile) if image.mode in COLOURED else pixels


def _in_srgb(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    converted = in_srgb(pixels, "RGB", profile)
    return pixels if converted is None else converted


def orientation_of(exif: bytes) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 if it is missing or damaged."""
    if not exif:
        return 1
    tags = Image.Exif()
    with contextlib.suppress(Exception):  # damaged EXIF must not make the image unreadable
        tags.load(exif)
        return _whole(tags.get(ExifTags.Base.Orientation, 1))
    return 1


def _whole(tag: Any) -> int:
    """Reads an orientation from a tag of any type: BYTE is bytes, several values are a tuple."""
    with contextlib.suppress(Exception):
        orientation = int(tag[0] if isinstance(tag, bytes | tuple) else tag)
        return orientation if 1 <= orientation <= 8 else 1
    return 1


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Turns all errors of Pillow's decoders into DamagedImage, with their text if it helps."""
    try:
        yield
    except (MemoryError, UnidentifiedImageError, UnsupportedImage, DamagedImage):
        raise
    except Exception as error:
        words = str(error) if isinstance(error, OSError | SyntaxError) else ""
        if words.startswith("Unsupported"):
            raise UnsupportedImage(words) from error
        # Texts such as "decoder error -2" or "could not create decoder object" explain nothing.
        raise DamagedImage("" if "decoder" in words else words) from error
