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


@pytest.fixture(scope="session")
def stub_model(tmp_path_factory):
    """A folder with the description of a network: :func:`reliability.stub_network` is it."""
    from tests.pipeline.segmentation import reliability  # TensorFlow and Beam

    def make(fingerprint="a" * 64):
        return reliability.save_stub(tmp_path_factory.mktemp("stub"), fingerprint)

    return make


@pytest.fixture
def stub_job(monkeypatch, stub_model):
    """Runs ``segment`` in this process with the stub: ``stub_job(input, out, **options)``.

    In one stream by default: several pass their elements by a server.
    """
    from pipeline.segmentation import plan
    from pipeline.segmentation import run as segmentation
    from tests.pipeline.segmentation import reliability

    reliability.stub_network(monkeypatch.setattr)
    model = stub_model()

    def run(where, out, **options):
        request = {"inputs": [str(where)], "output": str(out), "model": model, "workers": 1}
        return segmentation.segment(plan.Request(**request | options))

    return run
