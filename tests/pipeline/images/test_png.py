import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model_build.data.labels import VOC
from pipeline.images.png import chunks, compress, palette_png
from pipeline.images.sizes import enlarge

lengths = st.integers(1, 12)
scaled = st.integers(1, 200)


def noise(height, width, seed=0, classes=21):
    return np.random.default_rng(seed).integers(0, classes, (height, width), np.uint8)


def image_data(data):
    """Returns the joined content of a PNG's ``IDAT`` chunks."""
    return b"".join(content for kind, content in chunks(data) if kind == b"IDAT")


@given(st.builds(noise, lengths, lengths, st.integers(0, 99)), scaled, scaled)
def test_any_class_map_survives_encoding_at_any_size(class_map, more_height, more_width):
    size = class_map.shape[0] + more_height, class_map.shape[1] + more_width
    stream = compress(class_map, size)
    data = palette_png(stream, size, VOC.palette, b"")
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), enlarge(class_map, size))
    # Pillow does not look at the stream's own checksum, others do.
    assert len(zlib.decompress(stream)) == size[0] * (1 + size[1])
    assert image_data(data) == stream
    assert [kind for kind, _ in chunks(data)] == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]


@pytest.mark.parametrize("size", [(6, 4000), (3000, 5), (2999, 4001)])
def test_large_masks_survive_encoding(size):
    class_map = noise(6, 5)
    data = palette_png(compress(class_map, size), size, VOC.palette, b"")
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image), enlarge(class_map, size))


def test_a_mask_of_a_photo_as_cameras_make_them_takes_little_room():
    class_map = np.zeros((341, 512), np.uint8)
    class_map[100:200, 50:400] = 15
    stream = compress(class_map, (4000, 6000))
    assert len(stream) < 100_000
    assert len(zlib.decompress(stream)) == 4000 * 6001


def test_the_image_data_of_several_chunks_is_one():
    image = Image.fromarray(noise(400, 400, classes=256))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = buffer.getvalue()
    assert data.count(b"IDAT") > 1
    assert len(zlib.decompress(image_data(data))) == 400 * 401


@given(st.data())
def test_a_truncated_or_altered_png_is_damaged(data):
    whole = palette_png(compress(noise(4, 5), (4, 5)), (4, 5), VOC.palette, b"key\0text")
    place = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ValueError, match=r"damaged or cut short|not a PNG"):
        list(chunks(whole[:place]))
    other = bytearray(whole)
    other[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match=r"damaged or cut short|not a PNG"):
        list(chunks(bytes(other)))
