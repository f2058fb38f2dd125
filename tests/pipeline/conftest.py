"""Fixtures that several test modules share."""

import os

import fsspec
import pytest
from hypothesis import settings

settings.register_profile("quick", max_examples=60, deadline=None, database=None)
settings.load_profile("quick")


@pytest.fixture
def memory():
    """The store behind ``memory://``, emptied; its ``store`` is a dict by path."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    return system


@pytest.fixture
def touch():
    """Makes empty files, with their folders: ``touch(folder, name, …, mtime=…)``."""

    def make(folder, *names, mtime=None):
        for name in names:
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb"):
                pass
            if mtime is not None:
                os.utime(path, (mtime, mtime))

    return make
