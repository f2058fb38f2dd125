import ctypes

import pytest

from pipeline.network.memory import give_back


def test_memory_is_given_back_where_the_system_can_take_it():
    give_back()


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_a_system_that_cannot_take_it_is_no_error(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", fail)
    give_back()
