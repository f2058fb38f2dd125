"""TIFF: what Pillow needs to know to read it right.

Pillow reads uncompressed pixels by itself, and gets planes of 16 bits and YCbCr wrong; libtiff
reads them like compressed ones.
"""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Any, NamedTuple

from PIL import ExifTags, TiffImagePlugin

from model_build.data import libtiff
from model_build.data.unreadable import DamagedImage, UnsupportedImage

PREFIXES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two of BigTIFF
_WHITE_IS_ZERO = 0  # of PhotometricInterpretation (TIFF 6.0, section 8)
_UNSIGNED, _FLOAT = 1, 3  # of SampleFormat (section 19)
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SAMPLES, _PLANES, _FORMAT = 277, 284, 339

# For this process, as Pillow has no setting for a single image.
TiffImagePlugin.READ_LIBTIFF = True
# Grey images that Pillow reads in the other order of bytes alone; libtiff gives all in the
# machine's. Keys: order, photometric, sample format, order of bits, bits, extra samples.
for order, photometric in ((order, one) for order in (b"II", b"MM") for one in (0, 1)):
    grey = (order, photometric, (_UNSIGNED,), 1)
    kind = "I;16B" if order == b"MM" else "I;16"
    TiffImagePlugin.OPEN_INFO.setdefault((*grey, (16,), ()), (kind, kind))
    TiffImagePlugin.OPEN_INFO.setdefault((*grey, (32,), ()), ("I", "I;32N"))
# Unpackers of samples whose bytes libtiff has put into the machine's order already.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF", "F;64BF": "F;64NF"}
# It logs an error beside raising one.
logging.getLogger(TiffImagePlugin.__name__).setLevel(logging.CRITICAL)
libtiff.silence()


class Samples(NamedTuple):
    """What grey values of more than 8 bits mean.

    Attributes:
        bits: of a value: it is scaled by its range.
        inverted: 0 is white.
    """

    bits: int = 16
    inverted: bool = False


def settle(image: TiffImagePlugin.TiffImageFile) -> tuple[Samples, int]:
    """Prepares an opened TIFF for loading.

    Returns:
        What its grey values mean; and the orientation that is left to apply: Pillow applies that of
        a number by itself, but not that of bytes.

    Raises:
        UnsupportedImage: Pillow garbles this kind.
    """
    tags = image.tag_v2
    if tags.get(_PLANES, 1) == 2 and image.mode in ("LA", "PA", "LAB"):
        raise _unsupported(tags)
    image.info.pop("xmp", None)  # Pillow would turn the image by it, where EXIF has no orientation
    orientation = tags.get(ExifTags.Base.Orientation, 1)
    image.tile = [tile._replace(args=_native(tile.args)) for tile in image.tile]
    bits = tags.get(_BITS, (16,))[0]
    unsigned = tags.get(_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED
    samples = Samples(bits if unsigned else 16, tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)
    return samples, 1 if isinstance(orientation, int) else orientation


def _native(args: Any) -> Any:
    """A tile's arguments, of which the unpacker is the first."""
    return (_NATIVE.get(args[0], args[0]), *args[1:])


def explain(data: io.BytesIO) -> Exception:
    """The error for a TIFF that Pillow does not open: damaged, or of a kind that is not read."""
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
