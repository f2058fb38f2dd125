import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import RunInference
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from hypothesis import given
from hypothesis import strategies as st

from model_build.common.errors import JobError
from pipeline.network.handler import (
    EngineOptions,
    SegmentationHandler,
    classify,
    is_out_of_memory,
    same_shape_batches,
)
from pipeline.network.segmenter import Segmenter
from pipeline.records import ImageRef, Photo, Reject, Task, Window
from pipeline.storage import Files


def task(name):
    return Task(ImageRef(f"/photos/{name}.jpg", f"{name}.jpg"), f"{name}.png")


def photo(height, width, source=None, color=7):
    return Photo(np.full((height, width, 3), color, np.uint8), *(source or (height, width)))


def window(**photos):
    return Window(tuple(map(task, photos)), tuple(photos.values()))


class Brightness:
    """Stands for the network: the class is the red channel's value; that of 255 is not finite."""

    stride, tile = 32, None

    def __init__(self, batch_size=2, error=MemoryError):
        self.batch_size, self.error = batch_size, error
        self.shapes = []

    def __call__(self, images):
        self.shapes.append(images.shape)
        if images.shape[1] > 500:
            raise self.error(f"no room for {images.shape[2]}×{images.shape[1]}")
        return images[..., 0], (images < 255).all(axis=(1, 2, 3))


class ResourceExhaustedError(Exception):
    """As TensorFlow's is named."""


@pytest.fixture
def handler():
    return SegmentationHandler(EngineOptions("unused", "graph", 1), Files())


sizes = st.tuples(st.integers(1, 80), st.integers(1, 80))


@given(st.dictionaries(st.integers(0, 50), sizes, max_size=12), st.integers(1, 4))
def test_batches_share_a_padded_shape_and_lose_nothing(found, batch_size):
    photos = {index: photo(*size) for index, size in found.items()}
    batches = list(same_shape_batches(photos, stride=32, batch_size=batch_size))
    assert sorted(index for batch in batches for index in batch) == sorted(photos)
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    for batch in batches:
        assert len({tuple(-(-side // 32) for side in found[index]) for index in batch}) == 1


def test_photos_of_one_shape_fill_batches_across_the_window():
    model = Brightness()
    photos = {f"p{i}": photo(*size) for i, size in enumerate([(33, 40), (64, 64), (10, 10)] * 3)}
    classify(window(**photos), model)
    # 33×40 and 64×64 are padded to one shape.
    assert model.shapes == [*[(2, 64, 64, 3)] * 3, (2, 32, 32, 3), (1, 32, 32, 3)]


def test_windows_are_returned_with_their_class_maps(handler):
    first = window(a=photo(33, 40, color=1), b=photo(10, 70, color=2), c=photo(60, 20, color=3))
    second = window(d=photo(32, 32, color=4))
    model = Brightness()
    found = list(handler.run_inference([first, second], model))
    assert [one.tasks for one in found] == [first.tasks, second.tasks]
    assert [one.photos for one in found] == [first.photos, second.photos]
    assert [[int(m[0, 0]) for m in one.class_maps] for one in found] == [[1, 2, 3], [4]]


def test_class_maps_have_the_size_of_the_photos_pixels(handler):
    photos = window(a=photo(33, 40), b=photo(20, 30, source=(200, 300)))
    (found,) = handler.run_inference([photos], Brightness())
    assert [class_map.shape for class_map in found.class_maps] == [(33, 40), (20, 30)]
    assert all((class_map == 7).all() for class_map in found.class_maps)
    assert all(class_map.dtype == np.uint8 for class_map in found.class_maps)


def test_the_network_sees_padded_photos_whose_edges_are_repeated():
    seen = []

    class Spy(Brightness):
        def __call__(self, images):
            seen.append(images)
            return super().__call__(images)

    classify(window(a=photo(20, 33, color=9)), Spy())
    assert [images.shape for images in seen] == [(1, 32, 64, 3)]
    assert (seen[0] == 9).all()


class Tiles(Brightness):
    """Takes what is larger than 100 pixels in tiles: there the class is one more."""

    tile = 100

    def tiled(self, pixels):
        if len(pixels) > 500:
            raise self.error(f"no room for {pixels.shape[1]}×{pixels.shape[0]}")
        return pixels[..., 0] + 1, bool((pixels < 255).all())


def test_an_image_larger_than_a_tile_is_tiled(handler):
    model = Tiles()
    photos = window(a=photo(100, 90), b=photo(101, 90), c=photo(9, 120), d=photo(90, 100))
    (found,) = handler.run_inference([photos], model)
    assert [int(one[0, 0]) for one in found.class_maps] == [7, 8, 8, 7]
    assert [one.shape for one in found.class_maps] == [(100, 90), (101, 90), (9, 120), (90, 100)]
    assert len(model.shapes) == 2


@pytest.mark.parametrize(
    ("large", "error"), [(photo(600, 9), "MemoryError"), (photo(9, 300, color=255), "NonFinite")]
)
def test_an_error_in_tiles_rejects_only_its_image(handler, large, error):
    (found,) = handler.run_inference([window(a=large, b=photo(9, 9))], Tiles(1))
    assert found.class_maps[0].stage == "infer"
    assert found.class_maps[0].error.startswith(error)
    assert int(found.class_maps[1][0, 0]) == 7


def test_a_reject_passes_through(handler):
    reject = Reject("/photos/b.jpg", "decode", "OSError", "cut short")
    model = Brightness()
    (found,) = handler.run_inference([window(a=photo(9, 9), b=reject, c=photo(8, 8))], model)
    assert found.class_maps[1] is reject
    assert [one.shape for one in found.class_maps[::2]] == [(9, 9), (8, 8)]
    assert model.shapes == [(2, 32, 32, 3)]


def test_a_window_of_rejects_needs_no_network(handler):
    reject = Reject("/photos/a.jpg", "read", "OSError", "gone")
    model = Brightness()
    (found,) = handler.run_inference([window(a=reject)], model)
    assert (found.class_maps, model.shapes) == ((reject,), [])


@pytest.mark.parametrize("error", [MemoryError, ResourceExhaustedError])
def test_out_of_memory_with_batch_size_1_rejects_only_that_image(handler, error):
    photos = window(before=photo(32, 32), a=photo(640, 640), after=photo(70, 70), b=photo(640, 630))
    (found,) = handler.run_inference([photos], Brightness(1, error))
    detail = ("infer", error.__name__, "no room for 640×640")
    assert found.class_maps[1] == Reject("/photos/a.jpg", *detail)
    assert found.class_maps[3] == Reject("/photos/b.jpg", *detail)
    assert [one.shape for one in found.class_maps[::2]] == [(32, 32), (70, 70)]


@pytest.mark.parametrize("error", [MemoryError, ResourceExhaustedError])
def test_out_of_memory_with_several_images_a_batch_ends_the_job_and_names_the_remedy(error):
    photos = window(a=photo(32, 32), b=photo(640, 600))
    with pytest.raises(JobError, match="608×640 pixels in batches of 4; add --batch-size 1"):
        classify(photos, Brightness(4, error))


def test_any_other_error_of_the_network_ends_the_job():
    with pytest.raises(ZeroDivisionError, match="no room"):
        classify(window(a=photo(640, 640)), Brightness(1, ZeroDivisionError))


def test_out_of_memory_errors_are_recognised_by_name():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(ResourceExhaustedError())
    assert not is_out_of_memory(OSError(12, "Cannot allocate memory"))


def test_nonfinite_scores_reject_only_their_image(handler):
    photos = window(a=photo(9, 9), b=photo(9, 9, color=255), c=photo(8, 8, color=3))
    (found,) = handler.run_inference([photos], Brightness())
    reject = found.class_maps[1]
    assert reject[:3] == ("/photos/b.jpg", "infer", "NonFiniteScores")
    assert "not finite" in reject.detail
    assert [int(one[0, 0]) for one in found.class_maps[::2]] == [7, 3]


def test_a_failing_window_costs_no_other_window(handler):
    windows = [window(large=photo(640, 640)), window(small=photo(9, 9))]
    found = handler.run_inference(windows, Brightness(1))
    assert [type(one.class_maps[0]) for one in found] == [Reject, np.ndarray]


def test_no_windows_are_no_error(handler):
    assert list(handler.run_inference([], Brightness())) == []


def test_a_window_is_one_element_to_beam(handler):
    assert handler.batch_elements_kwargs() == {"min_batch_size": 1, "max_batch_size": 1}


def test_the_bytes_of_a_batch_are_those_of_its_pixels(handler):
    reject = Reject("/photos/b.jpg", "read", "OSError", "gone")
    photos = window(a=photo(10, 20, source=(1000, 2000)), b=reject)
    assert handler.get_num_bytes([photos, window(c=photo(5, 5))]) == 3 * (200 + 25)


# With a network


def test_options_reach_the_network(tiny_model):
    options = EngineOptions(tiny_model, "xla", 3, tile=128)
    segmenter = SegmentationHandler(options, Files()).load_model()
    assert isinstance(segmenter, Segmenter)
    assert (segmenter.batch_size, segmenter.stride, segmenter.tile) == (3, 32, 128)


def test_windows_go_through_beams_inference(tiny_model):
    rng = np.random.default_rng(0)

    def noise(height, width):
        return Photo(rng.integers(0, 255, (height, width, 3), np.uint8), height, width)

    reject = Reject("/photos/c.jpg", "read", "OSError", "gone")
    windows = [window(a=noise(64, 96), b=noise(50, 70), c=reject), window(d=noise(33, 40))]
    handler = SegmentationHandler(EngineOptions(tiny_model, "graph", 1), Files())
    expected = {one.tasks: classify(one, handler.load_model()) for one in windows}

    def check(found):
        assert {one.tasks for one in found} == set(expected)
        for one in found:
            for got, wanted in zip(one.class_maps, expected[one.tasks], strict=True):
                np.testing.assert_array_equal(got, wanted)

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        assert_that(pipeline | beam.Create(windows) | RunInference(handler), check)
