import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import records
from pipeline.records import STAGES, Reject, Row, Stamp, hash_of, rejected

stamps = st.builds(Stamp, st.none() | st.integers(0), st.none() | st.text())
rows = st.builds(
    Row,
    image=st.text(),
    mask=st.text(),
    width=st.integers(1),
    height=st.integers(1),
    pixels=st.dictionaries(st.text(), st.integers(1)),
    source=stamps,
    hash=st.text("0123456789abcdef"),
    written=stamps,
    mask_hash=st.text("0123456789abcdef"),
    recipe=st.none() | st.text(),
)


def test_a_reject_keeps_class_and_first_line():
    reject = rejected("a.jpg", "decode", ValueError("\n  bad header\nmore\n"))
    assert reject == Reject("a.jpg", "decode", "ValueError", "bad header")


@pytest.mark.parametrize("message", ["", " \n\t\n"])
def test_an_error_without_a_message_is_reported_by_its_class(message):
    assert rejected("a.jpg", "read", OSError(message)).detail == "OSError"


def test_a_long_message_is_cut():
    assert rejected("a.jpg", "read", OSError("x" * 2000)).detail == "x" * 500


def test_the_log_shows_where_the_first_of_each_stage_and_cause_failed(monkeypatch, caplog):
    monkeypatch.setattr(records, "_logged_causes", set())
    caplog.set_level(logging.INFO, logger="pipeline.records")
    for image, stage, error in [
        ("a.jpg", "read", OSError("gone")),
        ("b.jpg", "read", OSError("gone, too")),
        ("c.jpg", "decode", OSError("cut short")),
        ("d.jpg", "read", ValueError("too large")),
    ]:
        rejected(image, stage, error)
    assert caplog.messages == ["a.jpg: read: gone", "c.jpg: decode: cut short"] + [
        "d.jpg: read: too large"
    ]
    assert all(record.exc_info[1] is not None for record in caplog.records)


def test_stages_are_in_the_order_of_work():
    assert STAGES == ("list", "read", "decode", "infer", "write")


def test_a_row_is_a_line_of_json_that_people_can_read():
    row = Row(
        image="a.jpg",
        mask="masks/a.png",
        width=2,
        height=1,
        pixels={"sky": 2},
        source=Stamp(9, "17"),
        hash="ab12",
        written=Stamp(5, "18"),
        mask_hash="cd34",
        recipe="c0ffee",
    )
    assert row.to_json() == {
        "image": "a.jpg",
        "mask": "masks/a.png",
        "width": 2,
        "height": 1,
        "pixels": {"sky": 2},
        "versions": {
            "image": {"size": 9, "version": "17", "sha256": "ab12"},
            "mask": {"size": 5, "version": "18", "sha256": "cd34"},
        },
        "recipe": "c0ffee",
    }


VERSION = {"size": 1, "version": "1", "sha256": "ab"}
BAD_VERSIONS = ({"size": "1"}, {"size": [1]}, {"version": 1}, {"version": {}}, {"sha256": None})


@given(rows)
def test_a_row_survives_its_json(row):
    assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row


@pytest.mark.parametrize("missing", ["image", "mask", "pixels", "versions", "recipe"])
def test_a_line_that_lacks_something_is_no_row(missing):
    line = Row("a.jpg", "masks/a.png", 2, 1, {"sky": 2}).to_json()
    del line[missing]
    with pytest.raises(ValueError, match=f"no row of a mask: .*{missing}"):
        Row.from_json(line)


@pytest.mark.parametrize(
    "value",
    [None, [], 1, "row", {}, Reject("a.jpg", "read", "OSError", "gone").to_json()]
    + [Row("a", "b", 1, 1, {}).to_json() | {"versions": None}]
    + [Row("a", "b", 1, 1, {}).to_json() | {"pixels": 3}],
)
def test_another_value_is_no_row(value):
    with pytest.raises(ValueError, match="no row of a mask"):
        Row.from_json(value)


@pytest.mark.parametrize(
    "change",
    [{"image": 1}, {"image": None}, {"image": "\udcff.jpg"}, {"mask": ["a"]}, {"mask": "\ud800"}]
    + [{"width": "1"}, {"width": 1.5}, {"height": None}, {"recipe": 3}]
    + [{"pixels": pixels} for pixels in (None, [], [["sky", 1]], "x", {"sky": "1"}, {"sky": []})]
    + [{"versions": versions} for versions in (None, [], 1, "x", {}, {"image": 1, "mask": 1})]
    + [{"versions": {"image": VERSION | change, "mask": VERSION}} for change in BAD_VERSIONS]
    + [{"versions": {"image": VERSION, "mask": VERSION | change}} for change in BAD_VERSIONS],
)
def test_a_value_of_the_wrong_type_makes_no_row(change):
    line = Row("a.jpg", "masks/a.png", 1, 1, {"sky": 1}).to_json()
    Row.from_json(line)
    with pytest.raises(ValueError, match=r"no row of a mask|surrogates not allowed"):
        Row.from_json(line | change)


@given(rows)
def test_fields_of_a_row_that_are_not_known_are_ignored(row):
    line = row.to_json() | {"new": 1}
    line["versions"] = {name: of | {"new": 1} for name, of in line["versions"].items()} | {"new": 1}
    assert Row.from_json(line) == row


NAMES = st.text() | st.binary().map(lambda name: name.decode("utf-8", "surrogateescape"))


@given(st.builds(Reject, NAMES, st.text(), st.text(), st.text(), st.none() | rows))
def test_a_reject_comes_back_from_its_line_also_with_fields_that_are_not_known(reject):
    line = json.loads(json.dumps(reject.to_json()))
    assert Reject.from_json(line) == Reject.from_json(line | {"new": 1}) == reject


@pytest.mark.parametrize("value", [None, [], 1, "reject", {}, {"image": "a"}])
def test_another_value_is_no_reject(value):
    with pytest.raises(ValueError, match="no reject"):
        Reject.from_json(value)


@pytest.mark.parametrize(
    "change", [{name: 1} for name in ("image", "stage", "error", "detail")] + [{"row": {}}]
)
def test_a_value_of_another_kind_makes_no_reject(change):
    line = Reject("a.jpg", "read", "OSError", "gone").to_json()
    Reject.from_json(line)
    with pytest.raises(ValueError, match=r"no (reject|row)"):
        Reject.from_json(line | change)


def test_a_reject_is_a_line_of_json():
    assert rejected("a.jpg", "read", OSError("gone")).to_json() == {
        "image": "a.jpg",
        "stage": "read",
        "error": "OSError",
        "detail": "gone",
    }


def test_a_hash_is_the_sha256_that_other_tools_print():
    assert hash_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert hash_of(b"a") != hash_of(b"b")
