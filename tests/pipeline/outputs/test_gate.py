import threading

import pytest

from pipeline.outputs.gate import Stopped, passing, stop
from tests.waiting import DEADLINE


def test_a_run_that_has_not_been_stopped_passes_as_often_as_it_likes():
    passed = []
    for number in range(3):
        with passing("g-free"), passing("g-free"):
            passed.append(number)
    assert passed == [0, 1, 2]


def test_a_run_that_has_been_stopped_passes_no_more_and_others_still_do():
    stop("g-stopped")
    stop("g-stopped")
    with pytest.raises(Stopped, match="g-stopped"), passing("g-stopped"):
        pytest.fail("a write of a stopped run began")
    with passing("g-other"), passing(""):
        pass


def test_a_stop_waits_for_the_writes_under_way():
    begun, go_on = threading.Event(), threading.Event()
    order = []

    def write():
        with passing("g-waits"):
            begun.set()
            go_on.wait(DEADLINE)
            order.append("written")

    def end():
        stop("g-waits", DEADLINE)
        order.append("stopped")

    writer, ender = threading.Thread(target=write), threading.Thread(target=end)
    writer.start()
    begun.wait(DEADLINE)
    ender.start()
    ender.join(0.1)
    assert ender.is_alive()
    with pytest.raises(Stopped), passing("g-waits"):
        pytest.fail("a write began while the run was being stopped")
    go_on.set()
    writer.join(DEADLINE)
    ender.join(DEADLINE)
    assert order == ["written", "stopped"]


def test_a_stop_waits_for_writes_that_fail():
    with pytest.raises(ZeroDivisionError), passing("g-fails"):
        raise ZeroDivisionError
    ended = threading.Thread(target=stop, args=("g-fails", DEADLINE))
    ended.start()
    ended.join(DEADLINE)
    assert not ended.is_alive()


def test_a_stop_does_not_wait_for_ever():
    with passing("g-hangs"):
        stop("g-hangs", 0.01)
    with pytest.raises(Stopped), passing("g-hangs"):
        pytest.fail("a write of a stopped run began")
