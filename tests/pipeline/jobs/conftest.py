"""Fixtures of whole jobs; see :mod:`tests.pipeline.jobs.reliability`."""

import json

import pytest

from model_build import artifact
from model_build.data.labels import VOC
from pipeline.jobs import plan, segment
from tests.networks import use_tensorflow
from tests.pipeline.jobs import reliability

use_tensorflow()


@pytest.fixture(scope="session")
def stub_model(tmp_path_factory):
    """A folder with the description of a network: :func:`reliability.stub_network` is it."""

    def make(fingerprint="a" * 64):
        folder = tmp_path_factory.mktemp("stub")
        description = artifact.Description(
            backbone="stub",
            labels=VOC,
            normalisation={},
            stride=reliability.StubSegmenter.stride,
            long_side=96,
            parameters=0,
            fingerprint=fingerprint,
        )
        (folder / artifact.DESCRIPTION).write_text(json.dumps(description.to_json()))
        return str(folder)

    return make


@pytest.fixture
def stub_job(monkeypatch, stub_model):
    """Runs ``segment`` in this process with the stub: ``stub_job(input, out, **options)``."""
    reliability.stub_network(monkeypatch.setattr)
    model = stub_model()

    def run(where, out, **options):
        request = {"inputs": [str(where)], "output": str(out), "model": model} | options
        return segment.segment(plan.Request(**request))

    return run
