import contextlib
import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from model_build.data.labels import LabelSet
from tests import networks

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


@pytest.fixture(scope="session")
def make_paired():
    """A function that writes pairs, by name, into the folders ``images`` and ``masks``."""

    def make(root, names, *, suffix=".png"):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "masks").mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        for name in names:
            image, ids = _scene(rng, 24, 32)
            for folder in ("images", "masks"):
                (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / "images" / f"{name}{suffix}")
            _palette_png(root / "masks" / f"{name}.png", ids)
        (root / "labels.json").write_text(json.dumps(TOY.to_json()))
        return root

    return make


class _Files(BaseHTTPRequestHandler):
    """Serves one file as its server's attributes say; see :func:`serve`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        asked = self.headers["Range"]
        server.asked.append(asked)
        status = server.statuses.pop(0) if server.statuses else 200
        if status != 200:
            self.send_error(status)
            return
        start = int(asked[len("bytes=") : -1]) if asked and server.ranges else 0
        size = len(server.content)
        self.send_response(206 if asked and server.ranges else 200)
        if asked and server.ranges:
            first = start + server.shift
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        if server.length:
            self.send_header("Content-Length", str(size - start))
        self.send_header("Connection", "close")
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        with contextlib.suppress(ConnectionError):
            self.wfile.write(server.content[start:][:cut])
        if cut is not None and server.hang:
            server.released.wait()
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve(monkeypatch):
    """A function that serves a file over HTTP on this machine, with faults.

    ``cuts``: bytes after which a response ends, one per request; later ones are complete. ``hang``:
    responses stop without ending instead. ``statuses``: of the first requests. ``ranges=False``:
    they are ignored. ``shift``: ranges are off by this number. ``length=False``: no Content-Length.
    The server's attributes are its ``url`` and, for each request, the Range that was ``asked`` for.
    """
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(content, *, cuts=(), statuses=(), ranges=True, shift=0, length=True, hang=False):
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
        server.content, server.cuts, server.statuses = content, list(cuts), list(statuses)
        server.ranges, server.shift, server.length, server.hang = ranges, shift, length, hang
        server.asked, server.released = [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}/data/voc.tar"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def voc_tar(make_voc, tmp_path_factory):
    """The bytes of a small tar of the shape of VOC's."""
    root = make_voc(tmp_path_factory.mktemp("tar") / "VOC2012")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(root, "VOCdevkit/VOC2012")
    return packed.getvalue()


@pytest.fixture
def make_source(monkeypatch):
    """A function that makes a :class:`Source`; retries follow without pauses."""
    from model_build.data import download

    monkeypatch.setattr(download, "RETRY_PAUSES_SECONDS", (0.0,) * 3)

    def make(url, content, **changes):
        fields = {
            "url": url,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "folder": "VOCdevkit/VOC2012",
            "unpacked": len(content),
        }
        return download.Source(**{**fields, **changes})

    return make


def _tiny(include_top, weights, input_shape):
    import keras

    layers = keras.layers
    inputs = x = keras.Input(input_shape)
    for index, (filters, stride) in enumerate(((16, 8), (32, 4))):
        x = layers.Conv2D(
            filters, stride, stride, kernel_initializer="he_normal", name=f"conv{index}"
        )(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name=f"bn{index}")(x))
    return keras.Model(inputs, x, name="tiny")


def _find_tiny(name):
    from model_build.network import backbones

    return _tiny, backbones.Normalisation("RGB", (1 / 128,) * 3, (-1.0,) * 3)


@pytest.fixture(scope="session")
def use_tiny_backbone():
    """A function that makes every backbone name of a monkeypatch mean two small convolutions."""

    def use(monkeypatch):
        from model_build.network import backbones

        monkeypatch.setattr(backbones, "_find", _find_tiny)

    return use


@pytest.fixture
def tiny_backbone(monkeypatch, use_tiny_backbone):
    use_tiny_backbone(monkeypatch)


@pytest.fixture(scope="session")
def toy_data(make_voc, tmp_path_factory):
    """Six photos to train on and two to score on, none smaller than 64 × 64."""
    return make_voc(tmp_path_factory.mktemp("toy") / "data", train=6, val=2)


@pytest.fixture(scope="session")
def quick():
    """A recipe of two epochs, of three steps each on the toy data."""
    from model_build.training.recipes import RECIPES

    return dataclasses.replace(RECIPES["default"], epochs=2, batch_size=2, learning_rate=1e-2)


@pytest.fixture(scope="session")
def run_training(toy_data, quick, use_tiny_backbone):
    """A function that trains the tiny network: what ``train`` returns, and the lines it said."""
    from model_build.network.fcn import Architecture
    from model_build.training import train

    def run(
        output,
        *,
        data=toy_data,
        weights="none",
        start=None,
        pictures=False,
        recipe=quick,
        say=None,
        crop=(64, 64),
        **options,
    ):
        lines = []
        architecture = Architecture("tiny", weights)
        chosen = train.Options(crop=crop, **options)
        with pytest.MonkeyPatch.context() as patch:
            use_tiny_backbone(patch)
            if not pictures:  # they take as long as all the steps
                patch.setattr(train, "draw", lambda *arguments: None)
            description = train.train(
                str(data),
                str(output),
                recipe=recipe,
                architecture=architecture,
                start=start,
                options=chosen,
                say=say or lines.append,
            )
        return SimpleNamespace(description=description, lines=lines, output=output)

    return run


@pytest.fixture(scope="session")
def undisturbed(run_training, tmp_path_factory):
    """The quick training, from its start to its end."""
    return run_training(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="session")
def long_training(run_training, quick, tmp_path_factory):
    """A training of six epochs, enough to learn something."""
    output = tmp_path_factory.mktemp("long") / "deep" / "model"
    return run_training(output, recipe=dataclasses.replace(quick, epochs=6), pictures=True)


@pytest.fixture(scope="session")
def read_checkpoint():
    """A function that loads a network as it was after a number of epochs."""

    def read(output, epochs):
        import keras

        return keras.models.load_model(output / "checkpoints" / f"epoch-{epochs:03d}.keras")

    return read


@pytest.fixture(scope="session")
def score_saved(toy_data, toy_labels):
    """A function that scores a saved-model folder, as TensorFlow serves it, on the toy data."""
    import tensorflow as tf

    from model_build.data import crops
    from model_build.data.layouts import DataFolder
    from model_build.data.pairs import read_split
    from model_build.scores import scores
    from model_build.training.best import validate

    def score(output):
        logits = networks.serve(output)

        def classify(images):
            return tf.argmax(logits(images), -1)

        pairs = read_split(DataFolder(str(toy_data)), "val", toy_labels)
        return scores(validate(classify, crops.whole_images(pairs), len(toy_labels)))

    return score


@pytest.fixture(scope="session")
def assert_close():
    """A function that compares the weights of two networks."""

    def compare(first, second, **tolerance):
        for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, **({"rtol": 1e-3, "atol": 1e-4} | tolerance))

    return compare


@pytest.fixture(scope="session")
def assert_same_history():
    """A function that compares what two trainings wrote into ``history.csv``."""
    from model_build.training.history import read_history

    def compare(first, second):
        for a, b in zip(read_history(first), read_history(second), strict=True):
            numbers = [{key: float(value) for key, value in row.items()} for row in (a, b)]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-4)

    return compare


# Code that is killed, starved or given other devices runs in a separate process.
_SCRIPT = """
import dataclasses, json, runpy, sys
from model_build.common.quiet_imports import import_tensorflow
import_tensorflow()
import tensorflow as tf
from model_build.network import backbones
from model_build.training import checkpoints, devices, recipes
from pipeline.cli.main import main
backbones._find = runpy.run_path({conftest!r})["_find_tiny"]
{before}
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["fcn-beam", *arguments]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
"""


@pytest.fixture
def start_commands():
    """A function that starts a process, which runs commands of ``fcn-beam`` on the tiny backbone.

    It begins with code of the test's own, and ends with the first command that fails.
    """
    started = []

    def start(*commands, before=""):
        script = _SCRIPT.format(conftest=__file__, before=textwrap.dedent(before))
        arguments = json.dumps([list(map(str, command)) for command in commands])
        process = subprocess.Popen(
            [sys.executable, "-c", script, arguments],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def train_options(toy_data):
    """The options of the command that mean the quick training, but for ``--output``."""
    return (
        *("train", toy_data, "--backbone", "tiny", "--backbone-weights", "none", "--crop", "64x64"),
        *("--epochs", 2, "--batch-size", 2, "--learning-rate", 1e-2),
    )
