"""Folders of format 1 run as anybody's SavedModel, with the classes of the program made since."""

import dataclasses

import keras
import numpy as np
import pytest

from model_build import artifact
from model_build.network import fcn  # noqa: F401, whose layers Keras reads
from pipeline.network import models
from pipeline.network.foreign import ForeignNetwork
from pipeline.network.segmenter import Segmenter
from pipeline.storage import Files
from tests.networks import save_earlier, serve, vary_statistics

FILES = Files()


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "float16"])
def folders(request, tiny_model, tmp_path_factory):
    """The same network in the earlier format and in this one."""
    half = request.param
    model = vary_statistics(keras.models.load_model(f"{tiny_model}/model.keras"))
    if half:
        model.set_weights([w.astype(np.float16) if w.ndim > 1 else w for w in model.get_weights()])
    description = artifact.describe(tiny_model)
    root = tmp_path_factory.mktemp("formats")
    artifact.save(root / "now", model, description, half=half)
    return save_earlier(root / "earlier", model, description, half), root / "now"


def test_a_folder_of_the_earlier_format_gives_the_same_class_maps(folders):
    earlier, now = (models.load(str(folder), FILES) for folder in folders)
    assert isinstance(earlier.functions, ForeignNetwork)
    assert earlier.description.scores == artifact.Scores(1, None, 0)
    segmenters = [Segmenter(network) for network in (earlier, now)]
    rng = np.random.default_rng(0)
    found = []
    for cells in ((2, 3), (3, 2), (1, 1), (5, 7), (12, 8)):
        blocks = rng.integers(0, 256, (1, *cells, 3), np.uint8)
        images = blocks.repeat(32, axis=1).repeat(32, axis=2)
        (before, finite), (after, _) = (segmenter(images) for segmenter in segmenters)
        assert finite.all()
        found.append((before.ravel(), after.ravel()))
    before, after = np.concatenate(found, axis=1)
    assert len(np.unique(after)) >= 3
    assert np.mean(before == after) >= 0.9999


@pytest.mark.parametrize("engine", ["graph", "xla"])
def test_each_engine_accepts_any_savedmodel(folders, engine):
    network = models.load(str(folders[0]), FILES)
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    (class_map,), _ = Segmenter(network, engine)(images)
    expected = np.argmax(serve(folders[0])(images), -1)[0]
    assert np.mean(class_map == expected) >= 0.9999


def test_it_is_read_from_a_store(folders, memory):
    for path in folders[0].rglob("*"):
        if path.is_file():
            name = path.relative_to(folders[0]).as_posix()
            FILES.write(f"memory://bucket/model/{name}", path.read_bytes())
    network = models.load("memory://bucket/model", FILES)
    here = models.describe(str(folders[0]), FILES)
    assert network.description == here
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    assert network.functions.scores(images).shape == (1, 64, 96, 21)


def test_its_description_may_be_written_in_this_format(folders, tmp_path):
    """So such a folder can be extended by fields that format 1 did not have."""
    earlier = artifact.describe(folders[0])
    (tmp_path / "saved_model").symlink_to(folders[0] / "saved_model")
    written = artifact.write_description(tmp_path, dataclasses.replace(earlier, format=2))
    assert models.load(str(tmp_path), FILES).description == written
    assert written.fingerprint != earlier.fingerprint
