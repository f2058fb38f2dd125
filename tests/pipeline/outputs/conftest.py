"""Fixtures of the lock's tests."""

import types

import pytest

from pipeline.outputs import lock as module
from pipeline.outputs.lock import Lock
from pipeline.storage import local


@pytest.fixture
def no_locks(monkeypatch):
    """A local disk that knows no locks, such as some that are mounted from elsewhere."""

    def refuse(handle, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(local.fcntl, "flock", refuse)


class Clock:
    """The time of an observer, which passes only while it waits; ``meanwhile`` runs each time."""

    def __init__(self, meanwhile=lambda: None):
        self.now, self.looks, self.meanwhile = 100.0, 0, meanwhile

    def monotonic(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds
        self.looks += 1
        self.meanwhile()


@pytest.fixture
def observer(monkeypatch):
    """A lock whose taker waits by a :class:`Clock`; both are returned."""

    def make(out, meanwhile=lambda: None):
        clock = Clock(meanwhile)
        watch = types.SimpleNamespace(
            monotonic=clock.monotonic, strftime=module.time.strftime, gmtime=module.time.gmtime
        )
        monkeypatch.setattr(module, "time", watch)
        return Lock(out, clock.wait), clock

    return make
