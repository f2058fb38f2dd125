"""Image files by hand, of kinds that Pillow does not write."""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image

TYPES = {"BYTE": (1, "B"), "SHORT": (3, "H"), "LONG": (4, "I"), "SLONG": (9, "i")}


def gradient(width=48, height=32):
    """A smooth photo without symmetry, uint8 RGB: JPEG hardly changes it, every turn does."""
    y, x = np.mgrid[:height, :width]
    rgb = [255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)]
    return np.stack(rgb, -1).astype(np.uint8)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.save(buffer, kind, **options)
    return buffer.getvalue()


def entry(order, tag, kind, *values):
    """An entry of an image file directory (TIFF 6.0, section 2), and what lies elsewhere of it."""
    code, letter = TYPES[kind]
    content = struct.pack(f"{order}{len(values)}{letter}", *values)
    return tag, code, len(values), content


def directory(order, entries, start):
    """A directory at an offset, followed by the values that are longer than four bytes."""
    entries = sorted(entries)
    fixed, rest = b"", b""
    after = start + 2 + 12 * len(entries) + 4
    for tag, code, count, content in entries:
        if len(content) > 4:
            place = struct.pack(f"{order}I", after + len(rest))
            rest += content + b"\0" * (len(content) % 2)
        else:
            place = content.ljust(4, b"\0")
        fixed += struct.pack(f"{order}HHI", tag, code, count) + place
    return struct.pack(f"{order}H", len(entries)) + fixed + bytes(4) + rest


def exif(orientation, kind="SHORT", order="<"):
    """EXIF with only an orientation."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return b"Exif\0\0" + head + directory(order, [entry(order, 274, kind, orientation)], 8)


def tiff(
    samples,
    photometric,
    *,
    order="<",
    planes=False,
    tile=None,
    deflate=False,
    extra=(),
    form=1,
    bits=None,
    more=(),
    behind=b"",
):
    """A TIFF.

    Args:
        samples: ``[h, w, channels]``, of the type of its samples.
        photometric: PhotometricInterpretation.
        order: ``"<"`` (II) or ``">"`` (MM).
        planes: one a channel, else pixels.
        tile: side of square tiles, a multiple of 16; None for two strips.
        deflate: compressed.
        extra: ExtraSamples.
        form: SampleFormat.
        bits: of a sample, where it is packed: 1, 2 or 4.
        more: further entries.
        behind: bytes behind the pixels.
    """
    height, width, channels = samples.shape
    data = samples.astype(samples.dtype.newbyteorder(order))
    side = tile or -(-height // 2)
    pieces = []
    for plane in np.split(data, channels, -1) if planes else [data]:
        for top in range(0, height, side):
            for left in range(0, width, tile or width):
                piece = plane[top : top + side, left : left + (tile or width)]
                if tile:
                    padding = (tile - piece.shape[0], tile - piece.shape[1])
                    piece = np.pad(piece, [(0, padding[0]), (0, padding[1]), (0, 0)])
                if bits:
                    shifts = np.arange(bits)[::-1].astype(np.uint8)
                    singles = (piece[..., 0, None] >> shifts & 1).reshape(len(piece), -1)
                    content = np.packbits(singles, axis=1).tobytes()
                else:
                    content = piece.tobytes()
                pieces.append(zlib.compress(content) if deflate else content)
    offsets = 8 + np.cumsum([0, *(len(piece) + len(piece) % 2 for piece in pieces)])
    body = b"".join(piece + b"\0" * (len(piece) % 2) for piece in pieces) + behind
    body += b"\0" * (len(body) % 2)
    depth = bits or 8 * samples.dtype.itemsize
    entries = [
        entry(order, 256, "LONG", width),
        entry(order, 257, "LONG", height),
        entry(order, 258, "SHORT", *[depth] * channels),
        entry(order, 259, "SHORT", 8 if deflate else 1),
        entry(order, 262, "SHORT", photometric),
        entry(order, 277, "SHORT", channels),
        entry(order, 284, "SHORT", 2 if planes else 1),
        entry(order, 339, "SHORT", *[form] * channels),
        entry(order, 324 if tile else 273, "LONG", *offsets[:-1].tolist()),
        entry(order, 325 if tile else 279, "LONG", *map(len, pieces)),
        *more,
    ]
    if tile:
        entries += [entry(order, 322, "LONG", tile), entry(order, 323, "LONG", tile)]
    else:
        entries.append(entry(order, 278, "LONG", side))
    if extra:
        entries.append(entry(order, 338, "SHORT", *extra))
    start = 8 + len(body)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + body + directory(order, entries, start)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples, color, bits, *before, after=()):
    """A PNG.

    Args:
        samples: ``[h, w, channels]`` of whole numbers.
        color: its colour type.
        bits: of a sample.
        before: chunks before the pixels, by name and content.
        after: whole chunks behind them.
    """
    height, width = samples.shape[:2]
    if bits == 16:
        rows = samples.astype(">u2").view(np.uint8).reshape(height, -1)
    elif bits == 8:
        rows = samples.astype(np.uint8).reshape(height, -1)
    else:
        shifts = np.arange(bits)[::-1]
        rows = np.packbits((samples[..., 0, None] >> shifts & 1).reshape(height, -1), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    chunks = [(b"IHDR", head), *before, (b"IDAT", zlib.compress(lines))]
    ends = [*after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(*one) for one in chunks] + ends)


def png_of_rows(width, height, depth, color, rows, **extra):
    """A PNG by hand; ``rows`` start with a filter byte each."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [(b"IHDR", header), *((name.encode(), data) for name, data in extra.items())]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def with_segment(jpeg, code, content):
    """A JPEG with another segment at its start."""
    return jpeg[:2] + struct.pack(">BBH", 0xFF, code, len(content) + 2) + content + jpeg[2:]


def scan_of(jpeg):
    """Where the coded data of a JPEG's first scan begin."""
    start = jpeg.index(b"\xff\xda")
    return start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")


def profile(primaries, gamma):
    """An ICC profile of a display: chromaticities of red, green and blue, white D65, one gamma.

    See ICC.1:2001-04, sections 6.1 and 6.3.1.2; adapted to D50 by Bradford's matrix.
    """
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (*primaries, (0.3127, 0.3290))]).T
    white, d50 = xyz[:, 3], np.array([0.9642, 1, 0.8249])
    bradford = np.array(
        [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
    )
    scale = np.diag(bradford @ d50 / (bradford @ white))
    matrix = np.linalg.inv(bradford) @ scale @ bradford
    matrix = matrix @ xyz[:, :3] * np.linalg.solve(xyz[:, :3], white)

    def numbers(values):
        return struct.pack(">3i", *(round(value * 65536) for value in values))

    curve = b"curv" + struct.pack(">IIHH", 0, 1, round(gamma * 256), 0)
    tags = [
        (b"desc", (b"desc" + struct.pack(">II5s", 0, 5, b"wide\0")).ljust(92, b"\0")),
        (b"wtpt", b"XYZ \0\0\0\0" + numbers(d50)),
        *((b"rgb"[i : i + 1] + b"XYZ", b"XYZ \0\0\0\0" + numbers(matrix[:, i])) for i in range(3)),
        *((b"rgb"[i : i + 1] + b"TRC", curve) for i in range(3)),
    ]
    place, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags:
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    size = place + len(body)
    head = struct.pack(
        ">I4sI4s4s4s12x4s", size, b"", 0x02200000, b"mntr", b"RGB ", b"XYZ ", b"acsp"
    )
    return head.ljust(68, b"\0") + numbers(d50) + bytes(48) + table + body


ADOBE_RGB = profile([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], 2.19921875)
DISPLAY_P3 = profile([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)], 2.2)


def rgb(pixels):
    return Image.fromarray(pixels)
