import math

import pytest

from pipeline.rejects import STAGES, Reject, allowed_rejects, rejected


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


@pytest.mark.parametrize(
    ("limit", "images", "allowed"),
    [
        (None, 10, math.inf),
        ("0", 10, 0),
        ("20", 10, 20),
        ("0%", 10, 0),
        ("1.5%", 200, 3),
        ("100%", 7, 7),
        ("50%", 0, 0),
    ],
)
def test_allowed_rejects(limit, images, allowed):
    assert allowed_rejects(limit, images) == allowed


@pytest.mark.parametrize(
    "limit", ["", "%", "-1", "-1%", "100.1%", "1.5", "many", "nan%", "inf%", "5%%", "%5"]
)
def test_other_forms_of_the_limit_are_refused(limit):
    with pytest.raises(ValueError):  # noqa: PT011  (its message is the caller's business)
        allowed_rejects(limit, 10)
