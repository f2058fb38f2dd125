"""Prepares Pillow to read TIFFs correctly.

Pillow reads uncompressed pixels itself, and gets planes of 16 bits and YCbCr wrong; libtiff reads
them like compressed ones.
"""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Any, NamedTuple

from PIL import ExifTags, TiffImagePlugin

from model_build.data import libtiff
from model_build.data.unreadable import DamagedImage, UnsupportedImage

PREFIXES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_WHITE_IS_ZERO = 0  # a PhotometricInterpretation (TIFF 6.0, section 8)
_UNSIGNED, _FLOAT = 1, 3  # values of SampleFormat (section 19)
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SAMPLES, _PLANES, _FORMAT = 277, 284, 339

# Set for the process, as Pillow has no setting for a single image.
TiffImagePlugin.READ_LIBTIFF = True
# Grey images that Pillow supports only in the other byte order; libtiff returns all in the
# machine's. Keys: byte order, photometric, sample format, bit order, bits, extra samples.
for order, photometric in ((order, one) for order in (b"II", b"MM") for one in (0, 1)):
    grey = (order, photometric, (_UNSIGNED,), 1)
    kind = "I;16B" if order == b"MM" else "I;16"
    TiffImagePlugin.OPEN_INFO.setdefault((*grey, (16,), ()), (kind, kind))
    TiffImagePlugin.OPEN_INFO.setdefault((*grey, (32,), ()), ("I", "I;32N"))
# Unpackers for samples that libtiff has already converted to the machine's byte order.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF", "F;64BF": "F;64NF"}
# It logs errors that it also raises.
logging.getLogger(TiffImagePlugin.__name__).setLevel(logging.CRITICAL)
libtiff.silence()


class Samples(NamedTuple):
    """The meaning of grey values of more than 8 bits.

    Attributes:
        bits: of a value, which is scaled by its range.
        inverted: 0 is white.
    """

    bits: int = 16
    inverted: bool = False


def prepare_to_load(image: TiffImagePlugin.TiffImageFile) -> tuple[Samples, int]:
    """Prepares an opened TIFF for loading.

    Returns:
        The meaning of its grey values; and the orientation still to be applied: Pillow applies a
        numeric one itself, but not one of bytes.

    Raises:
        UnsupportedImage: Pillow garbles this variant.
    """
    tags = image.tag_v2
    if tags.get(_PLANES, 1) == 2 and image.mode in ("LA", "PA", "LAB"):
        raise _unsupported(tags)
    image.info.pop("xmp", None)  # Pillow would turn the image by it if EXIF has no orientation
    orientation = tags.get(ExifTags.Base.Orientation, 1)
    image.tile = [tile._replace(args=_native(tile.args)) for tile in image.tile]
    bits = tags.get(_BITS, (16,))[0]
    unsigned = tags.get(_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED
    samples = Samples(bits if unsigned else 16, tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)
    return samples, 1 if isinstance(orientation, int) else orientation


def _native(args: Any) -> Any:
    """Replaces the unpacker, the first of a tile's arguments, by one of native byte order."""
    return (_NATIVE.get(args[0], args[0]), *args[1:])


def explain_unreadable(data: io.BytesIO) -> Exception:
    """Returns the error for a TIFF that Pillow cannot open: damaged, or not supported."""
    with contextlib.suppress(Exception):
        data.seek(0)
        head = data.read(8)
        if head.startswith(PREFIXES[2:]):
            head += data.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
        data.seek(tags.next)
        tags.load(data)
        if {_WIDTH, _HEIGHT, _PHOTOMETRIC} <= set(tags):
            return _unsupported(tags)
    return DamagedImage()


def _unsupported(tags: TiffImagePlugin.ImageFileDirectory_v2) -> UnsupportedImage:
    samples = tags.get(_SAMPLES, 1)
    form = " floating point" if tags.get(_FORMAT, (_UNSIGNED,))[0] == _FLOAT else ""
    planes = " in planes" if tags.get(_PLANES, 1) == 2 and samples > 1 else ""
    return UnsupportedImage(
        f"a TIFF of {samples} × {tags.get(_BITS, (1,))[0]} bits{form}{planes}, photometric "
        f"interpretation {tags[_PHOTOMETRIC]}, compression {tags.get(_COMPRESSION, 1)}, which is "
        "not supported"
    )
