from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.network.tiling import Span, fade_weights, spans

MULTIPLE = 32


@st.composite
def axes(draw):
    """A length, the longest side of a tile and what tiles share, all multiples of 32 pixels."""
    side = draw(st.integers(2, 40))
    overlap = draw(st.integers(0, 3 * side // 8))
    return tuple(MULTIPLE * cells for cells in (draw(st.integers(1, 500)), side, overlap))


@given(axes())
def test_spans_have_one_length_and_cover_the_axis(axis):
    length, side, overlap = axis
    found = spans(length, side, overlap, MULTIPLE)
    assert (found[0].start, found[-1].end) == (0, length)
    assert len({span.end - span.start for span in found}) == 1
    assert found[0].end <= side
    assert all(place % MULTIPLE == 0 for span in found for place in span)


@given(axes())
def test_neighbours_share_the_overlap_and_others_share_nothing(axis):
    length, side, overlap = axis
    found = spans(length, side, overlap, MULTIPLE)
    assert all(one.end - other.start >= overlap for one, other in pairwise(found))
    assert all(one.end <= other.start for one, other in zip(found, found[2:], strict=False))


@given(axes())
def test_own_parts_are_the_axis(axis):
    length, side, overlap = axis
    found = spans(length, side, overlap, MULTIPLE)
    assert (found[0].first, found[-1].last) == (0, length)
    assert all(one.last == other.first for one, other in pairwise(found))
    assert all(span.start <= span.first < span.last <= span.end for span in found)


@pytest.mark.parametrize(
    ("length", "found"),
    [
        (96, [(0, 96, 0, 96)]),
        (128, [(0, 96, 0, 64), (32, 128, 64, 128)]),
        (160, [(0, 96, 0, 64), (64, 160, 64, 160)]),
        (224, [(0, 96, 0, 64), (64, 160, 64, 128), (128, 224, 128, 224)]),
    ],
)
def test_the_number_of_spans_is_minimal(length, found):
    assert spans(length, 96, 32, 32) == [Span(*span) for span in found]


@pytest.mark.parametrize("length", [1, 2, 3, 8, 16, 17])
def test_blending_weights_sum_to_one(length):
    share = fade_weights(length)
    np.testing.assert_allclose(share + share[::-1], 1, atol=1e-6)
    assert (np.diff(share) >= 0).all()
    assert share.dtype == np.float32
    if length >= 4:
        assert (share[0], share[-1]) == (0, 1)
