"""Fixtures of both packages, and the two speeds of the tests.

Nothing heavy is imported here, so a file of a light room runs in a second or two.
"""

import io
import os
import sys

import numpy as np
import pytest
from PIL import Image

from tests import networks

pytest_plugins = ["tests.servers.fixtures"]


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the tests that are marked slow, too")


def pytest_configure(config):
    """Leaves out slow tests unless --all, -m or a test's own name asks for them."""
    for name in ("MAKEFLAGS", "ARGS"):  # of `make test ARGS=…`: tests run make with their own
        os.environ.pop(name, None)
    asked = config.option.all or config.option.markexpr or any("::" in arg for arg in config.args)
    if not asked:
        config.option.markexpr = "not slow"


def pytest_sessionstart(session):
    if session.config.option.markexpr == "not slow" and not hasattr(session.config, "workerinput"):
        print(
            "Leaving out tests that are marked slow (clusters, kills, n-th failures, trainings, "
            "wheels, documents' commands); `make test ARGS=--all` runs everything."
        )


def pytest_collection_finish(session):
    """Sets TensorFlow's threads, where collected tests have imported it, before its first use."""
    if "tensorflow" in sys.modules:
        networks.use_tensorflow()


def pytest_collection_modifyitems(items):
    """Runs slow tests first, so that no worker is left with only them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A saved-model folder: random weights and a small body, but a network with every part."""
    return str(networks.save_tiny(tmp_path_factory.mktemp("model")))


@pytest.fixture
def photos(tmp_path):
    """A folder of photos of several sizes, in two subfolders."""
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate([(64, 96), (96, 64), (50, 70), (33, 90), (120, 200)]):
        pixels = np.kron(
            rng.integers(0, 255, (10, 10, 3), np.uint8), np.ones((20, 20, 1), np.uint8)
        )
        path = folder / "ab"[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[:height, :width]).save(path)
    return folder


@pytest.fixture
def image_bytes():
    """An image file of random RGB pixels: ``image_bytes("PNG", width=6, height=4, **save)``."""

    def make(kind, width=6, height=4, **options):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **options)
        return buffer.getvalue()

    return make
