import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images.sizes import crop, enlarge, fitted_size, nearest, pad, padded_size

sides = st.integers(1, 100_000)
small = st.integers(1, 40)


@given(sides, sides, st.integers(1, 5000))
def test_fit_bounds_the_long_side_and_keeps_the_ratio(height, width, long_side):
    h, w = fitted_size(height, width, long_side)
    assert 1 <= h <= height
    assert 1 <= w <= width
    assert max(h, w) == min(max(height, width), long_side)
    scale = max(h, w) / max(height, width)
    assert abs(h - height * scale) <= 0.5 + 1e-6 or h == 1
    assert abs(w - width * scale) <= 0.5 + 1e-6 or w == 1


@given(small, small, st.integers(0, 90), st.integers(0, 90), st.integers(0, 2**32 - 1))
def test_a_class_map_comes_back_exactly_from_an_enlarged_one(height, width, taller, wider, seed):
    class_map = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    enlarged = enlarge(class_map, (height + taller, width + wider))
    np.testing.assert_array_equal(enlarge(enlarged, class_map.shape), class_map)


@given(sides, st.integers(0, 5000))
def test_no_pixel_of_a_row_is_lost_where_it_is_enlarged(length, longer):
    enlarged = nearest(length, length + longer)
    back = enlarged[nearest(length + longer, length)]
    np.testing.assert_array_equal(back, np.arange(length))


@given(sides, sides)
def test_fit_without_a_limit_leaves_the_size(height, width):
    assert fitted_size(height, width, None) == (height, width)


def test_fit_examples():
    assert fitted_size(375, 500, 512) == (375, 500)
    assert fitted_size(3000, 4000, 512) == (384, 512)
    assert fitted_size(4000, 3000, 512) == (512, 384)
    assert fitted_size(1, 10_000, 100) == (1, 100)


@given(small, small, st.integers(1, 32))
def test_a_bucket_is_the_next_multiple_of_the_stride(height, width, stride):
    h, w = padded_size(np.empty((height, width, 3), np.uint8), stride)
    assert h % stride == w % stride == 0
    assert height <= h < height + stride
    assert width <= w < width + stride


@given(small, small, st.integers(1, 32), st.integers(0, 2**32 - 1))
def test_pad_and_crop_are_a_round_trip(height, width, stride, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    size = padded_size(pixels, stride)
    padded = pad(pixels, size)
    assert padded.shape == (*size, 3)
    assert padded.dtype == np.uint8
    assert (padded[height:, :width] == pixels[-1]).all()
    assert (padded[:height, width:] == pixels[:, -1:]).all()
    back = crop(padded[..., 0], pixels)
    assert np.array_equal(back, pixels[..., 0])


def test_pad_returns_a_fitting_image_unchanged():
    pixels = np.zeros((32, 64, 3), np.uint8)
    assert pad(pixels, (32, 64)) is pixels


@given(small, small, st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_enlarging_to_any_size_adds_no_class(height, width, tall, wide, seed):
    rng = np.random.default_rng(seed)
    padded = rng.choice(np.array([0, 3, 15, 20], np.uint8), (height + 5, width + 5))
    class_map = crop(padded, np.empty((height, width, 3), np.uint8))
    enlarged = enlarge(class_map, (tall, wide))
    assert enlarged.shape == (tall, wide)
    assert enlarged.dtype == np.uint8
    assert set(np.unique(enlarged)) <= set(np.unique(padded[:height, :width]))


@given(small, st.integers(0, 200))
def test_nearest_takes_the_pixel_under_the_middle(length, more):
    scaled = length + more
    middles = [(Fraction(i) + Fraction(1, 2)) * length / scaled for i in range(scaled)]
    assert nearest(length, scaled).tolist() == [math.floor(middle) for middle in middles]


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_enlarging_by_a_whole_factor_repeats_every_class(factor):
    class_map = np.arange(12, dtype=np.uint8).reshape(3, 4)
    enlarged = enlarge(class_map, (3 * factor, 4 * factor))
    assert np.array_equal(enlarged, class_map.repeat(factor, 0).repeat(factor, 1))


def test_a_class_map_of_the_right_size_is_not_copied():
    class_map = np.zeros((3, 4), np.uint8)
    assert enlarge(class_map, (3, 4)) is class_map
