import re
import threading

import pytest

from pipeline.outputs.runs import Stopped, is_run, new_run, stop_writes, writing
from tests.waiting import DEADLINE


def test_a_run_that_has_not_been_stopped_writes_as_often_as_it_likes():
    passed = []
    for number in range(3):
        with writing("g-free"), writing("g-free"):
            passed.append(number)
    assert passed == [0, 1, 2]


def test_a_run_that_has_been_stopped_writes_no_more_and_others_still_do():
    stop_writes("g-stopped")
    stop_writes("g-stopped")
    with pytest.raises(Stopped, match="g-stopped"), writing("g-stopped"):
        pytest.fail("a write of a stopped run began")
    with writing("g-other"), writing(""):
        pass


def test_a_stop_waits_for_the_writes_under_way():
    begun, go_on = threading.Event(), threading.Event()
    order = []

    def write():
        with writing("g-waits"):
            begun.set()
            go_on.wait(DEADLINE)
            order.append("written")

    def end():
        stop_writes("g-waits", DEADLINE)
        order.append("stopped")

    writer, ender = threading.Thread(target=write), threading.Thread(target=end)
    writer.start()
    begun.wait(DEADLINE)
    ender.start()
    ender.join(0.1)
    assert ender.is_alive()
    with pytest.raises(Stopped), writing("g-waits"):
        pytest.fail("a write began while the run was being stopped")
    go_on.set()
    writer.join(DEADLINE)
    ender.join(DEADLINE)
    assert order == ["written", "stopped"]


def test_a_stop_waits_for_writes_that_fail():
    with pytest.raises(ZeroDivisionError), writing("g-fails"):
        raise ZeroDivisionError
    ended = threading.Thread(target=stop_writes, args=("g-fails", DEADLINE))
    ended.start()
    ended.join(DEADLINE)
    assert not ended.is_alive()


def test_a_stop_does_not_wait_for_ever():
    with writing("g-hangs"):
        stop_writes("g-hangs", 0.01)
    with pytest.raises(Stopped), writing("g-hangs"):
        pytest.fail("a write of a stopped run began")


def test_names_of_runs_differ_and_tell_when_they_began():
    names = {new_run() for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}", name) for name in names)


@pytest.mark.parametrize("name", ["../../victim", "..", ".", "a/b", "", "symphony", "r1"])
def test_other_names_are_no_runs(name):
    assert not is_run(name)
    assert is_run(new_run())
    assert not is_run(f"{new_run()}{name or '-'}")
