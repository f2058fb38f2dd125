"""Fixtures of whole jobs; see :mod:`tests.pipeline.segmentation.reliability`."""

import pytest

from pipeline.segmentation import plan
from pipeline.segmentation import run as segmentation
from tests.networks import use_tensorflow
from tests.pipeline.segmentation import reliability

use_tensorflow()


@pytest.fixture(scope="session")
def stub_model(tmp_path_factory):
    """A folder with the description of a network: :func:`reliability.stub_network` is it."""

    def make(fingerprint="a" * 64):
        return reliability.save_stub(tmp_path_factory.mktemp("stub"), fingerprint)

    return make


@pytest.fixture
def stub_job(monkeypatch, stub_model):
    """Runs ``segment`` in this process with the stub: ``stub_job(input, out, **options)``.

    In one stream unless told otherwise: several pass their elements by a server.
    """
    reliability.stub_network(monkeypatch.setattr)
    model = stub_model()

    def run(where, out, **options):
        request = {"inputs": [str(where)], "output": str(out), "model": model, "workers": 1}
        return segmentation.segment(plan.Request(**request | options))

    return run
