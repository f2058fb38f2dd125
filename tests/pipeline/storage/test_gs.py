"""Google Cloud Storage differs from other stores."""

import pytest

from pipeline.storage.stores.gs import seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05Z", 1767323045.0),
        ("2026-01-02T03:04:05.5Z", 1767323045.5),
        ("2026-01-02T03:04:05.678Z", 1767323045.678),
        ("2026-01-02T03:04:05.123456789Z", 1767323045.123456789),
        ("2026-01-02T04:04:05.25+01:00", 1767323045.25),
    ],
)
def test_times_have_fractions_of_any_length(text, expected):
    assert seconds(text) == pytest.approx(expected, abs=1e-6)
