import numpy as np
import pytest

from pipeline.images import DecodedImage
from pipeline.inference import (
    Photo,
    SegmentationHandler,
    Segmented,
    same_shape_batches,
)


def photo(name, height, width, source=None):
    pixels = np.full((height, width, 3), 7, np.uint8)
    return Photo(name, name, f"{name}.png", DecodedImage(pixels, *(source or (height, width))))


class Brightness:
    """Stands for the network: the class is the red channel's value."""

    stride, batch_size = 32, 2

    def __init__(self):
        self.shapes = []

    def __call__(self, images):
        self.shapes.append(images.shape)
        if images.shape[1] > 500:
            raise MemoryError("no room for 640×640")
        return images[..., 0]


@pytest.fixture
def handler():
    return SegmentationHandler("unused")


def test_batches_share_a_padded_shape_and_lose_nothing():
    photos = [photo(str(i), *size) for i, size in enumerate([(33, 40), (64, 64), (10, 10)] * 3)]
    batches = list(same_shape_batches(photos, stride=32, batch_size=2))
    assert sorted(p.path for batch in batches for p in batch) == sorted(p.path for p in photos)
    assert all(len(batch) <= 2 for batch in batches)
    for batch in batches:
        assert len({-(-p.image.pixels.shape[0] // 32) for p in batch}) == 1


def test_class_maps_come_back_at_the_source_size(handler):
    photos = [photo("a", 33, 40), photo("b", 20, 30, source=(200, 300))]
    results = {r.photo.path: r for r in handler.run_inference(photos, Brightness())}
    assert results["a"].class_map.shape == (33, 40)
    assert results["b"].class_map.shape == (200, 300)
    assert np.all(results["b"].class_map == 7)


def test_a_failing_batch_costs_its_own_images_only(handler):
    photos = [photo("large", 640, 640), photo("small", 32, 32)]
    results = list(handler.run_inference(photos, Brightness()))
    (reject,) = [r for r in results if not isinstance(r, Segmented)]
    assert reject == ("large", "infer", "MemoryError", "no room for 640×640")
    assert [r.photo.path for r in results if isinstance(r, Segmented)] == ["small"]


def test_an_empty_window_is_no_error(handler):
    assert list(handler.run_inference([], Brightness())) == []


def test_windows_are_bounded_by_pixels(handler):
    kwargs = handler.batch_elements_kwargs()
    size = kwargs["element_size_fn"]
    assert kwargs["min_batch_size"] == kwargs["max_batch_size"] == 32
    assert size(photo("small", 10, 10)) == 1
    assert size(photo("large", 4000, 3000)) == 13
