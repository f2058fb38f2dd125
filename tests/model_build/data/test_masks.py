import dataclasses
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from model_build.common.errors import UserError
from model_build.data.labels import LabelSet, label2image
from model_build.data.masks import palette_order, read_mask

LABELS = LabelSet(("ground", "box", "disc"), ((0, 0, 0), (250, 0, 0), (0, 250, 0)))
VOID_COLOR = (224, 224, 192)


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def grey_png(samples, bits, *more):
    """A grey PNG of 1, 2, 4, 8 or 16 bits, which Pillow writes of some depths only."""
    height, width = samples.shape
    rows = b""
    for row in samples:
        text = "".join(f"{sample:0{bits}b}" for sample in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(more)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def palette_mask(indices, colors, kind="PNG", **options):
    image = Image.fromarray(indices, "P")
    image.putpalette([channel for color in colors for channel in color])
    return saved(image, kind, **options)


def refused(data, labels=LABELS):
    with pytest.raises(UserError) as caught:
        read_mask(data, "m.png", labels)
    message = str(caught.value)
    assert message.startswith("m.png: ")
    assert "\n" not in message
    return message


def check(data, ids, how="ids", unknown=0, labels=LABELS):
    found = read_mask(data, "m.png", labels)
    assert found.ids.dtype == np.uint8
    np.testing.assert_array_equal(found.ids, ids)
    assert (found.how, found.unknown) == (how, unknown)


@pytest.fixture
def ids():
    return np.random.default_rng(0).integers(0, 3, (9, 7), np.uint8)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_samples_of_grey_pngs_are_ids_as_they_are_stored(ids, bits):
    check(grey_png(ids, bits), ids)


def test_all_sixteen_values_of_four_bits_are_distinguished():
    labels = LabelSet(tuple("abcdefghijklmnop"), tuple((0, 0, i) for i in range(16)))
    samples = np.arange(16, dtype=np.uint8).reshape(4, 4)
    check(grey_png(samples, 4), samples, labels=labels)
    check(grey_png(samples % 4, 2), samples % 4, labels=labels)


def test_samples_of_one_bit_are_0_and_1(ids):
    check(grey_png(ids > 0, 1), ids > 0)
    for kind in ("BMP", "TIFF"):
        check(saved(Image.fromarray(ids > 0), kind), ids > 0)


def test_samples_of_grey_tiffs_of_few_bits_are_not_spread():
    # Little-endian, 4×2 pixels of 4 bits in one strip; the tags are those that a reader needs.
    tags = [
        (256, 4),
        (257, 2),
        (258, 4),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 2),
        (279, 4),
    ]
    pixels = bytes([0x01, 0x20, 0x21, 0x0F])
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    data = (
        b"II*\0"
        + struct.pack("<I", 12)
        + pixels
        + struct.pack("<H", len(tags))
        + entries
        + b"\0" * 4
    )
    labels = LabelSet(tuple("abcdefghijklmnop"), tuple((0, 0, i) for i in range(16)))
    check(data, [[0, 1, 2, 0], [2, 1, 0, 15]], labels=labels)


def test_void_is_kept_in_8_and_16_bits(ids):
    ids[0] = 255
    check(saved(Image.fromarray(ids)), ids)
    check(saved(Image.fromarray(ids.astype(np.uint16))), ids)


def test_a_16_bit_id_outside_the_set_is_named():
    samples = np.full((2, 2), 257, np.uint16)
    assert refused(saved(Image.fromarray(samples))).startswith("m.png: has class id 257, but")


def test_grey_with_alpha_is_read_as_grey(ids):
    data = np.dstack([ids, np.full_like(ids, 255)])
    check(saved(Image.fromarray(data, "LA")), ids)


def test_16_bit_grey_with_alpha_is_refused():
    header = struct.pack(">IIBBBBB", 1, 1, 16, 4, 0, 0, 0)
    rows = zlib.compress(b"\0" + struct.pack(">HH", 1, 65535))
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    assert "16-bit grey with alpha" in refused(data)


def test_colours_are_mapped_and_unknown_ones_are_void(ids):
    colors = label2image(ids, LABELS)
    check(saved(Image.fromarray(colors)), ids, "colors")
    colors[0, :2] = VOID_COLOR
    colors[0, 2:5] = (1, 2, 3)
    ids[0, :5] = 255
    check(saved(Image.fromarray(colors)), ids, "colors", unknown=3)


def test_a_grey_mask_in_three_channels_contains_ids(ids):
    """``cv2.imread`` makes it one, and ``cv2.imwrite`` writes it so."""
    ids[0, :3] = (0, 1, 255)
    check(saved(Image.fromarray(np.dstack([ids] * 3))), ids)


def test_grey_colours_of_labels_are_mapped_as_colours():
    labels = LabelSet(("paper", "ink"), ((255, 255, 255), (0, 0, 0)))
    ids = np.array([[0, 1, 1]], np.uint8)
    check(saved(Image.fromarray(label2image(ids, labels))), ids, "colors", labels=labels)
    # Black is the label 1 and one more colour is grey and the number of a label: not ids.
    colors = np.array([[[0] * 3, [1] * 3, [255] * 3]], np.uint8)
    check(saved(Image.fromarray(colors)), [[1, 255, 0]], "colors", 1, labels)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_labels_colours_in_another_order_are_mapped(ids, kind):
    order = [2, 0, 1]  # class ids by index
    indices = np.argsort(order).astype(np.uint8)[ids]
    data = palette_mask(indices, [LABELS.colors[i] for i in order], kind)
    check(data, ids, "palette")


def test_a_void_colour_at_another_index_is_void():
    data = palette_mask(np.array([[0, 1, 2]], np.uint8), [VOID_COLOR, *LABELS.colors[1:]])
    check(data, [[255, 1, 2]], "palette")


@pytest.mark.parametrize(
    "colors",
    [
        [(9, 9, 9), (0, 0, 0), (250, 0, 0)],  # one foreign colour: the palette is another tool's
        [(0, 0, 0)] * 256,  # no palette to speak of
        [*LABELS.colors, *[(0, 0, 0)] * 253],  # filled up with black
        [(0, 0, 0)],  # too short
    ],
)
def test_indices_of_foreign_palettes_are_ids(ids, colors):
    ids[0] = 2
    check(palette_mask(ids, colors, bits=8), ids)


def test_index_255_is_void_in_palettes_filled_up_with_black(ids):
    ids[0] = 255
    check(palette_mask(ids, [*LABELS.colors, *[(0, 0, 0)] * 253]), ids)
    order = [2, 0, 1]
    indices = np.append(np.argsort(order), [0] * 253).astype(np.uint8)[ids]
    indices[ids == 255] = 255
    colors = [LABELS.colors[i] for i in order] + [(0, 0, 0)] * 253
    check(palette_mask(indices, colors), ids, "palette")


def test_only_colours_that_are_used_decide():
    palette = [LABELS.colors[1], LABELS.colors[0], (9, 9, 9)]
    order = palette_order(np.array([0, 1]), palette, LABELS)
    assert order is not None
    assert order[:2].tolist() == [1, 0]
    assert palette_order(np.array([0, 2]), palette, LABELS) is None


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palettes_of_few_bits_are_read(ids, bits):
    ids = np.minimum(ids, 2**bits - 1)
    check(palette_mask(ids, LABELS.colors, bits=bits), ids)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("JPEG", {}, "is actually JPEG"),
        ("WEBP", {}, "is actually a lossy WebP"),
        ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}, "is actually a lossy WebP"),
        ("TIFF", {"compression": "jpeg"}, "is a TIFF with lossy compression"),
        ("JPEG2000", {}, "is actually JPEG2000"),
    ],
)
def test_masks_compressed_with_loss_are_refused(ids, kind, options, said):
    image = Image.fromarray(label2image(ids, LABELS))
    message = refused(saved(image, kind, **options))
    assert said in message
    assert "a mask must be lossless" in message


def test_a_lossless_webp_is_read(ids):
    image = Image.fromarray(label2image(ids, LABELS))
    check(saved(image, "WEBP", lossless=True), ids, "colors")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
    check(saved(image, "WEBP", lossless=True, exif=exif), ids, "colors")


def test_of_an_animation_the_first_frame_counts(ids):
    first, second = Image.fromarray(ids), Image.fromarray(np.zeros_like(ids))
    check(saved(first, save_all=True, append_images=[second]), ids)
    check(saved(first, "GIF", save_all=True, append_images=[second]), ids)


def test_a_mask_turned_by_exif_is_refused(ids):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1
    check(saved(Image.fromarray(ids), exif=exif), ids)
    exif[ExifTags.Base.Orientation] = 3
    assert "rotated by its EXIF tag" in refused(saved(Image.fromarray(ids), exif=exif))


def test_damaged_masks_are_refused(ids):
    data = saved(Image.fromarray(np.tile(ids, (20, 20))))
    for damaged in (b"", b"no image", data[: len(data) // 2], data[:40], b"\x89PNG\r\n\x1a\n"):
        assert refused(damaged).startswith("m.png: cannot be read as a mask: ")


def test_a_mask_without_its_end_is_read(ids):
    data = saved(Image.fromarray(ids))
    check(data[: data.index(b"IEND") - 4], ids)


def test_damaged_metadata_costs_no_mask(ids):
    whole = grey_png(ids, 8)
    place = whole.index(b"IDAT") - 4
    for kind in (b"pHYs", b"tEXt", b"iCCP"):
        check(whole[:place] + chunk(kind, b"?") + whole[place:], ids)


def test_a_mask_of_two_headers_is_refused(ids):
    whole = grey_png(ids, 8)
    header, rest = whole[8:33], whole[33:]
    assert "its first chunk is not IHDR, or not the only one" in refused(
        whole[:8] + header * 2 + rest
    )


def test_a_mask_without_its_last_row_is_refused(ids):
    height, width = ids.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 + width) * (height - 1))
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    assert "end before the last row" in refused(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_values_of_a_data_folder_are_mapped_to_class_ids():
    labels = dataclasses.replace(LABELS, values=(0, 7, 255))
    samples = np.array([[0, 7, 255]], np.uint8)
    check(saved(Image.fromarray(samples)), [[0, 1, 2]], labels=labels)
    check(saved(Image.fromarray(np.dstack([samples] * 3))), [[0, 1, 2]], labels=labels)
    check(palette_mask(samples, [(9, 9, 9)], bits=8), [[0, 1, 2]], labels=labels)
    message = refused(saved(Image.fromarray(samples + 1)), labels)
    assert "has class id 1, but the 3 labels have the ids 0, 7, 255; fix" in message


def test_colours_count_whatever_the_values_are():
    labels = dataclasses.replace(LABELS, values=(0, 7, 9))
    ids = np.array([[0, 1, 2]], np.uint8)
    check(palette_mask(ids, LABELS.colors), ids, "palette", labels=labels)
    check(saved(Image.fromarray(label2image(ids, LABELS))), ids, "colors", labels=labels)
    void = np.array([[0, 7, 255]], np.uint8)
    check(saved(Image.fromarray(void)), [[0, 1, 255]], labels=labels)


def test_a_label_whose_value_is_255_is_no_void_in_palettes():
    labels = dataclasses.replace(LABELS, values=(0, 1, 255))
    palette = np.frombuffer(LABELS.palette, np.uint8).reshape(256, 3).tolist()
    check(palette_mask(np.array([[0, 1, 255]], np.uint8), palette), [[0, 1, 2]], labels=labels)
    # The label's own colour counts, as in any palette.
    palette[7] = list(LABELS.colors[2])
    palette[2] = [9, 9, 9]
    check(palette_mask(np.array([[0, 7]], np.uint8), palette), [[0, 2]], "palette", labels=labels)
