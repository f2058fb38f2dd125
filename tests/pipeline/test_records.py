import pytest

from pipeline.records import STAGES, Reject, Row, as_json, rejected


def test_a_reject_keeps_class_and_first_line():
    reject = rejected("a.jpg", "decode", ValueError("\n  bad header\nmore\n"))
    assert reject == Reject("a.jpg", "decode", "ValueError", "bad header")


@pytest.mark.parametrize("message", ["", " \n\t\n"])
def test_an_error_without_a_message_is_told_by_its_class(message):
    assert rejected("a.jpg", "read", OSError(message)).detail == "OSError"


def test_a_long_message_is_cut():
    assert rejected("a.jpg", "read", OSError("x" * 2000)).detail == "x" * 500


def test_stages_are_in_the_order_of_work():
    assert STAGES == ("list", "read", "decode", "infer", "write")


def test_a_row_and_a_reject_are_lines_of_json():
    row = Row("a.jpg", "masks/a.png", 2, 1, {"sky": 2})
    assert as_json(row) == {
        "image": "a.jpg",
        "mask": "masks/a.png",
        "width": 2,
        "height": 1,
        "pixels": {"sky": 2},
    }
    assert list(as_json(rejected("a.jpg", "read", OSError("gone")))) == [
        *("image", "stage", "error", "detail")
    ]
