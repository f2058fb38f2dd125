import json

import keras
import numpy as np
import pytest
from PIL import Image

from model_build import backbones
from model_build.labels import LabelSet

TOY = LabelSet(("ground", "box", "disc"), ((0, 0, 0), (250, 0, 0), (0, 250, 0)))


def _scene(rng, height, width):
    """Rectangles on a noisy ground; the red channel is 100 times the class id."""
    ids = np.zeros((height, width), np.uint8)
    ids[height // 8 : height // 2, width // 8 : width // 2] = 1
    top, left = rng.integers(height // 2, height - 8), rng.integers(0, width // 2)
    ids[top:, left : left + width // 2] = 2
    image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    image[..., 0] = ids * 100
    return image, ids


def _palette_png(path, ids, labels=TOY):
    mask = Image.fromarray(ids, "P")
    mask.putpalette(labels.palette)
    mask.save(path)


@pytest.fixture(scope="session")
def toy_labels():
    return TOY


@pytest.fixture(scope="session")
def palette_png():
    return _palette_png


@pytest.fixture(scope="session")
def make_voc():
    """A function that fills a folder in VOC layout with learnable scenes of three classes."""

    def make(root, *, train=4, val=2, sizes=((64, 96), (80, 72), (100, 90)), suffix=".png"):
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        for split, count in (("train", train), ("val", val)):
            names = [f"{split}_{index}" for index in range(count)]
            for index, name in enumerate(names):
                image, ids = _scene(rng, *sizes[index % len(sizes)])
                Image.fromarray(image).save(root / "JPEGImages" / f"{name}{suffix}", quality=95)
                _palette_png(root / "SegmentationClass" / f"{name}.png", ids)
            listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
            listing.write_text("".join(f"{name}\n" for name in names))
        (root / "labels.json").write_text(json.dumps(TOY.to_json()))
        return root

    return make


@pytest.fixture
def voc_folder(make_voc, tmp_path):
    return make_voc(tmp_path / "data")


def _tiny(include_top, weights, input_shape):
    layers = keras.layers
    inputs = x = keras.Input(input_shape)
    for index, (filters, stride) in enumerate(((16, 8), (32, 4))):
        x = layers.Conv2D(
            filters, stride, stride, kernel_initializer="he_normal", name=f"conv{index}"
        )(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name=f"bn{index}")(x))
    return keras.Model(inputs, x, name="tiny")


@pytest.fixture(scope="session")
def use_tiny_backbone():
    """A function that makes every backbone name of a monkeypatch mean two small convolutions."""

    def use(monkeypatch):
        normalisation = backbones.Normalisation("RGB", (1 / 128,) * 3, (-1.0,) * 3)
        monkeypatch.setattr(backbones, "_find", lambda name: (_tiny, normalisation))

    return use


@pytest.fixture
def tiny_backbone(monkeypatch, use_tiny_backbone):
    use_tiny_backbone(monkeypatch)
