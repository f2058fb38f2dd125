import io
import json
import os
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from model_build.data.labels import VOC, LabelSet
from pipeline.images.masks import (
    BAND_ROWS,
    KEYWORD,
    Origin,
    Traces,
    encode_mask,
    encode_overlay,
    find_traces,
    histogram,
)
from pipeline.images.sizes import enlarge

THREE = LabelSet(("void", "sky", "sea"), ((0, 0, 0), (200, 40, 0), (0, 0, 250)))


@st.composite
def class_maps(draw, labels=21):
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.integers(0, labels, (height, width), np.uint8)


texts = st.text(st.characters(exclude_categories=["Cs"]))
origins = st.builds(
    Origin, texts, texts, texts, st.dictionaries(texts, st.integers(1)), idat=st.just("")
)


def origin_of(class_map, labels=VOC, **changes):
    """The origin of a run's mask of ``a.jpg``."""
    return Origin("a.jpg", "ab12", "c0ffee", histogram(class_map, labels))._replace(**changes)


def ids_of(data):
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return np.asarray(image)


@given(class_maps(), st.none() | origins)
def test_a_mask_survives_encoding_and_decoding(class_map, origin):
    pixels = histogram(class_map, VOC)
    origin = origin and origin._replace(pixels=pixels)
    data = encode_mask(class_map, VOC, origin)
    assert np.array_equal(ids_of(data), class_map)
    found = find_traces(data)
    assert _without_idat(found.origin) == origin
    assert (found.size, found.made, found.ruined) == (class_map.shape, origin is not None, False)


def _without_idat(origin):
    return origin and origin._replace(idat="")


@given(class_maps())
def test_a_mask_with_changed_pixels_is_not_made_by_a_run(class_map):
    mask = encode_mask(class_map, VOC, origin_of(class_map))
    turned = class_map[::-1].copy()
    edited = _png(_palette_image(turned, VOC), pnginfo=_text(Image.open(io.BytesIO(mask)).text))
    found = find_traces(edited)
    assert _without_idat(found.origin) == origin_of(class_map)
    assert not found.made or np.array_equal(turned, class_map)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_mask_that_an_editor_saved_without_its_text_shows_nothing(mode):
    class_map = np.array([[0, 1], [2, 2]], np.uint8)
    with Image.open(io.BytesIO(encode_mask(class_map, VOC, origin_of(class_map)))) as image:
        assert find_traces(_png(image.convert(mode))) == Traces(size=(2, 2))


def test_a_mask_of_any_labels_is_recognised_as_made_by_a_run():
    class_map = np.array([[0, 1], [2, 2]], np.uint8)
    data = encode_mask(class_map, THREE, origin_of(class_map, THREE))
    palette = data.index(b"PLTE") + 4
    recoloured = data[:palette] + VOC.palette + data[palette + 768 :]
    crc = zlib.crc32(b"PLTE" + VOC.palette).to_bytes(4, "big")
    recoloured = recoloured[: palette + 768] + crc + recoloured[palette + 772 :]
    for mask in (data, recoloured):
        assert find_traces(mask).made
        assert find_traces(mask).origin.pixels == {"void": 1, "sky": 1, "sea": 2}


@pytest.mark.parametrize(
    "pixels", [{}, {"cat": 3}, {"cat": "4"}, {"cat": 4.0}, [], None, {"cat": [4]}]
)
def test_a_text_whose_pixels_are_not_the_masks_proves_nothing(pixels):
    class_map = np.full((2, 2), 8, np.uint8)
    assert find_traces(encode_mask(class_map, VOC, origin_of(class_map))).made
    assert not find_traces(encode_mask(class_map, VOC, origin_of(class_map, pixels=pixels))).made


def _palette_image(class_map, labels):
    image = Image.fromarray(class_map)
    image.putpalette(labels.palette)
    return image


def _text(texts):
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    return info


def test_a_cropped_class_map_is_encoded():
    class_map = np.arange(12, dtype=np.uint8).reshape(3, 4)[:2, 1:3]
    assert ids_of(encode_mask(class_map, VOC)).tolist() == [[1, 2], [5, 6]]


def test_a_masks_source_is_readable_by_any_tool():
    origin = Origin("x/é [1].jpg", "ab12", "c0ffee", {"sky": 2})
    image = Image.open(io.BytesIO(encode_mask(np.array([[1, 1]], np.uint8), THREE, origin)))
    told = json.loads(image.text[KEYWORD])
    assert len(told.pop("idat")) == 64
    assert Origin(**told) == origin


def test_a_palette_that_spells_the_name_of_a_chunk_does_no_harm():
    labels = LabelSet(("a", "b"), (tuple(b"IDA"), tuple(b"T\0\0")))
    origin = Origin("a.jpg", "ab12", "c0ffee", {"a": 1})
    found = find_traces(encode_mask(np.array([[0]], np.uint8), labels, origin))
    assert (_without_idat(found.origin), found.made) == (origin, True)


def test_a_name_that_is_not_utf_8_survives_in_a_masks_text():
    origin = Origin(os.fsdecode(b"a\xff.jpg"), "", "", {})
    found = find_traces(encode_mask(np.zeros((1, 1), np.uint8), VOC, origin))
    assert _without_idat(found.origin) == origin


def test_equal_masks_of_equal_origin_have_equal_bytes():
    class_map = np.random.default_rng(0).integers(0, 21, (30, 40), np.uint8)
    origin = Origin("a.jpg", "ab12", "c0ffee", histogram(class_map, VOC))
    again = Origin("a.jpg", "ab12", "c0ffee", histogram(class_map, VOC))
    assert encode_mask(class_map, VOC, origin) == encode_mask(class_map.copy(), VOC, again)
    assert encode_mask(class_map, VOC, origin) != encode_mask(class_map, VOC)


@pytest.mark.parametrize(
    "text",
    [None, "", "Copyright", "[]", "{}", "null", '{"image": "a.jpg"}', '{"image": "a", "x": 1}']
    + ['{"image": [], "hash": "a", "recipe": "b", "pixels": {}}', "[" * 100_000, "\xff"],
)
def test_an_invalid_text_chunk_is_ignored(text):
    image = _palette_image(np.array([[1, 2]], np.uint8), THREE)
    info = _text({} if text is None else {KEYWORD: text})
    assert find_traces(_png(image, pnginfo=info)) == Traces(size=(1, 2))


def test_a_mask_is_a_palette_png_with_the_colours_of_the_labels():
    image = Image.open(io.BytesIO(encode_mask(np.array([[0, 1, 15, 20]], np.uint8), VOC)))
    assert (image.format, image.mode) == ("PNG", "P")
    assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    rgb = np.asarray(image.convert("RGB"))[0].tolist()
    assert rgb == [[0, 0, 0], [128, 0, 0], [192, 128, 128], [0, 64, 128]]


def test_a_mask_has_the_palette_of_its_label_set():
    image = Image.open(io.BytesIO(encode_mask(np.array([[1, 2]], np.uint8), THREE)))
    assert np.asarray(image.convert("RGB"))[0].tolist() == [[200, 40, 0], [0, 0, 250]]


def _png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


noise = np.random.default_rng(0).integers(0, 21, (60, 60), np.uint8)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5, 0.9])
def test_a_mask_that_is_cut_short_is_ruined(share):
    data = encode_mask(noise, VOC, origin_of(noise))
    assert find_traces(data[: int(share * len(data))]) == Traces(ruined=True)
    zeros = data[: int(share * len(data))].ljust(len(data), b"\0")  # as a power cut may leave it
    assert find_traces(zeros) == Traces(ruined=True)


@pytest.mark.parametrize("missing", range(1, 25))
def test_a_mask_that_lacks_its_last_bytes_is_ruined(missing):
    data = encode_mask(noise, VOC, origin_of(noise))
    assert find_traces(data[:-missing]) == Traces(ruined=True)


@given(st.integers(0, 7), st.data())
def test_a_mask_with_a_bit_turned_over_is_not_taken_for_whole(bit, data):
    whole = encode_mask(noise, VOC, origin_of(noise))
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << bit
    assert not find_traces(bytes(damaged)).made


def test_a_damaged_file_without_traces_of_a_run_may_be_a_persons():
    by_hand = _png(Image.fromarray(noise))
    for data in (by_hand[:-20], by_hand[: len(by_hand) // 2]):
        assert find_traces(data) == Traces()


def test_a_mask_with_appended_bytes_is_intact():
    class_map = np.ones((6, 6), np.uint8)
    mask = encode_mask(class_map, VOC, origin_of(class_map))
    for more in (b"more", b"something longer than a chunk's head"):
        assert find_traces(mask + more).made


@pytest.mark.parametrize("data", [b"GIF89a", b"my notes", b"\x89PNG with text behind"])
def test_a_file_that_is_not_a_png_is_not_made_by_a_run(data):
    assert find_traces(data) == Traces()


@pytest.mark.parametrize("data", [b"", b"\x89", b"\x89PNG\r\n\x1a\n", bytes(8), bytes(1000)])
def test_remains_of_a_crash_are_recognised(data):
    assert find_traces(data) == Traces(ruined=True)


sizes = st.tuples(st.integers(20, 150), st.integers(20, 150))


@given(class_maps(), sizes)
def test_a_mask_is_enlarged_while_it_is_written(class_map, size):
    expected = enlarge(class_map, size)
    assert np.array_equal(ids_of(encode_mask(class_map, VOC, size=size)), expected)
    assert histogram(class_map, VOC, size) == histogram(expected, VOC)


def test_the_pixels_of_the_largest_masks_are_counted_exactly():
    class_map = np.array([[0, 1, 2]], np.uint8)
    assert histogram(class_map, THREE, (30_001, 100_000)) == {
        "void": 33_333 * 30_001,
        "sky": 33_334 * 30_001,
        "sea": 33_333 * 30_001,
    }


@given(class_maps())
def test_a_histogram_counts_every_pixel(class_map):
    counts = histogram(class_map, VOC)
    assert sum(counts.values()) == class_map.size
    assert counts == {name: n for i, name in enumerate(VOC.names) if (n := (class_map == i).sum())}
    assert all(type(count) is int for count in counts.values())


def test_a_histogram_names_only_labels_that_occur():
    assert histogram(np.array([[2, 2, 1]], np.uint8), THREE) == {"sky": 1, "sea": 2}


def test_a_histogram_of_an_unknown_id_is_an_error():
    for size in (None, (2, 2)):
        with pytest.raises(ValueError, match="none of the 3 labels"):
            histogram(np.array([[3]], np.uint8), THREE, size)


def test_void_counts_nowhere():
    assert histogram(np.array([[255, 1, 255]], np.uint8), THREE) == {"sky": 1}
    assert histogram(np.array([[255]], np.uint8), THREE, (3, 3)) == {}


def _overlay(pixels, class_map, labels):
    image = Image.open(io.BytesIO(encode_overlay(pixels, class_map, labels)))
    assert image.format == "JPEG"
    return np.asarray(image).astype(int)


def test_an_overlay_blends_colours_and_leaves_black_labels():
    pixels = np.full((32, 32, 3), 100, np.uint8)
    class_map = np.zeros((32, 32), np.uint8)
    class_map[:, 16:] = 1
    overlay = _overlay(pixels, class_map, THREE)
    assert overlay.shape == (32, 32, 3)
    assert np.abs(overlay[:, :14] - 100).max() < 8
    assert np.abs(overlay[:, 18:] - [150, 70, 50]).max() < 8


def test_an_overlay_takes_a_class_map_of_another_size():
    pixels = np.full((32, 48, 3), 100, np.uint8)
    overlay = _overlay(pixels, np.array([[0, 2]], np.uint8), THREE)
    assert overlay.shape == (32, 48, 3)
    assert np.abs(overlay[:, :22] - 100).max() < 8
    assert np.abs(overlay[:, 26:] - [50, 50, 175]).max() < 8


@given(class_maps(), st.integers(0, 40), st.integers(0, 40))
def test_the_mask_gives_the_same_overlay_as_the_class_map_it_was_enlarged_from(
    class_map, taller, wider
):
    rng = np.random.default_rng(class_map.size)
    pixels = rng.integers(0, 256, (*class_map.shape, 3), np.uint8)
    size = class_map.shape[0] + taller, class_map.shape[1] + wider
    mask = ids_of(encode_mask(class_map, VOC, size=size))
    assert encode_overlay(pixels, mask, VOC) == encode_overlay(pixels, class_map, VOC)


def test_an_overlay_of_the_brightest_pixels_does_not_overflow():
    white = LabelSet(("a", "b"), ((0, 0, 0), (255, 255, 255)))
    overlay = _overlay(np.full((8, 8, 3), 255, np.uint8), np.ones((8, 8), np.uint8), white)
    assert overlay.min() > 250


def test_a_map_higher_than_a_band_is_counted_painted_and_encoded_whole():
    rng = np.random.default_rng(0)
    class_map = rng.integers(0, len(VOC), (2 * BAND_ROWS + 9, 5), np.uint8)
    counts = histogram(class_map, VOC)
    assert sum(counts.values()) == class_map.size
    assert list(counts.values()) == np.bincount(class_map.ravel()).tolist()
    np.testing.assert_array_equal(ids_of(encode_mask(class_map, VOC)), class_map)
    pixels = np.full((*class_map.shape, 3), 200, np.uint8)
    with Image.open(io.BytesIO(encode_overlay(pixels, 0 * class_map, VOC))) as overlay:
        assert overlay.size == class_map.shape[::-1]
        assert np.ptp(np.asarray(overlay)) <= 2  # black paints nothing, in any band
