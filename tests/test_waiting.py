import pytest

from tests import waiting
from tests.waiting import wait_until


def test_a_wait_returns_what_its_condition_returns():
    found = iter([None, 0, "", "here"])
    assert wait_until(lambda: next(found), "there is a word", pause=0) == "here"


def test_a_failed_wait_reports_its_condition(monkeypatch):
    monkeypatch.setattr(waiting, "DEADLINE", 0)
    with pytest.raises(AssertionError, match="waited 0 s in vain until pigs fly"):
        wait_until(lambda: False, "pigs fly")


def test_a_true_condition_ends_the_wait():
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 / 0, "anything")
