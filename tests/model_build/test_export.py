"""Exported programs: the network's numbers from fewer operations, layer by layer and whole."""

import os
import subprocess
import sys
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from model_build import artifact, export, folding
from model_build.common.errors import JobError
from model_build.network.fcn import LOGITS
from model_build.network.upsampling import Interpolation, Upsampling
from model_build.saved_model import ancestors
from tests.networks import vary_statistics

layers = keras.layers


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(5)


def network(*stack, head=None):
    """A network of these layers, from uint8 images to logits."""
    images = keras.Input((None, None, 3), dtype="uint8", name="images")
    values = layers.Rescaling(1 / 64, -2.0)(images)
    for layer in stack:
        values = layer(values)
    head = head or Interpolation(4, 0.5, name=LOGITS)
    return vary_statistics(keras.Model(images, head(values), name="small"))


def operations(program):
    """How often each operation is in a program, up to its scores."""
    nodes = {node.name: node for node in program.graph.node}
    return Counter(nodes[name].op for name in ancestors(nodes, ["scores"]))


STACKS = {
    "without bias": [layers.Conv2D(6, 3, use_bias=False), layers.BatchNormalization()],
    "with bias": [layers.Conv2D(6, 3, padding="same"), layers.BatchNormalization()],
    "activated": [
        layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
    ],
    "activated by itself": [layers.Conv2D(6, 3, activation="relu"), layers.BatchNormalization()],
    "not scaled": [layers.Conv2D(6, 1), layers.BatchNormalization(scale=False)],
    "not centred": [layers.Conv2D(6, 1), layers.BatchNormalization(center=False)],
    "depthwise": [
        layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        layers.BatchNormalization(),
    ],
    "depthwise with a multiplier": [
        layers.DepthwiseConv2D(3, padding="same", depth_multiplier=4),
        layers.BatchNormalization(),
    ],
    "separable": [
        layers.SeparableConv2D(6, 3, padding="same", use_bias=False, depth_multiplier=2),
        layers.BatchNormalization(),
    ],
    "grouped": [layers.Conv2D(6, 3, groups=3, use_bias=False), layers.BatchNormalization()],
    "dilated": [
        layers.Conv2D(4, 3, dilation_rate=2, padding="same", use_bias=False),
        layers.BatchNormalization(),
    ],
    "dilated depthwise": [
        layers.DepthwiseConv2D(3, dilation_rate=2, padding="same", use_bias=False),
        layers.BatchNormalization(),
    ],
    "dilated depthwise, large": [
        layers.DepthwiseConv2D(5, dilation_rate=3, padding="same"),
        layers.BatchNormalization(),
    ],
    "dilated depthwise without padding": [layers.DepthwiseConv2D(3, dilation_rate=2)],
    "padded": [
        layers.ZeroPadding2D(3),
        layers.Conv2D(6, 7, strides=2, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
    ],
    "padded unevenly": [
        layers.ZeroPadding2D(((0, 1), (0, 1))),
        layers.Conv2D(6, 3, strides=2),
        layers.BatchNormalization(),
    ],
    "padded depthwise": [
        layers.ZeroPadding2D(((0, 1), (0, 1))),
        layers.DepthwiseConv2D(3, strides=2, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
    ],
    "padded widely, depthwise": [layers.ZeroPadding2D(2), layers.DepthwiseConv2D(3)],
    "normalised by channel": [
        layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[0.5, 1.0, 4.0]),
        layers.ZeroPadding2D(1),
        layers.Conv2D(6, 3, strides=2),
    ],
    "swish": [
        layers.Conv2D(6, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.Activation("swish"),
    ],
    "twice": [
        layers.Conv2D(6, 3),
        layers.BatchNormalization(),
        layers.Conv2D(4, 1),
        layers.BatchNormalization(),
    ],
    "nothing before": [layers.BatchNormalization(), layers.ReLU(), layers.Conv2D(4, 3)],
    "nested": [keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()])],
}


@pytest.fixture(scope="module", params=STACKS)
def stack(request):
    keras.utils.set_random_seed(5)
    model = network(*STACKS[request.param])
    return request.param, model, export.export(model).program


def test_scores_and_logits_are_those_of_keras(stack):
    _, model, program = stack
    both = keras.Model(model.input, [model.get_layer(LOGITS).input, model.output])

    @tf.function(autograph=False)
    def run(images):
        scores = program.scores(images)
        return scores, program.logits(scores)

    for size in ((32, 96), (96, 64)):
        images = np.random.default_rng(1).integers(0, 255, (2, *size, 3), np.uint8)
        scores, logits = both(images, training=False)
        for found, expected in zip(run(tf.constant(images)), (scores, logits), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(scores).max(), rtol=0)


def test_no_arithmetic_is_left_beside_convolutions(stack):
    name, _, program = stack
    if name == "grouped":
        pytest.skip("grouped convolutions are Keras' own")
    left = operations(program)
    # One addition is all that a normalisation comes down to, where a convolution follows.
    alone = {"nothing before": 2, "activated by itself": 1, "swish": 1}  # products
    assert left["Mul"] == alone.get(name, 0)
    assert left["AddV2"] == (1 if name == "swish" else 1 + (name in alone))
    assert left["Pad"] == (name == "padded widely, depthwise")
    assert not {"Sub", "RealDiv", "Rsqrt", "SpaceToBatchND", "FusedBatchNormV3"} & left.keys()


def test_a_convolution_that_several_take_is_not_changed_for_one_of_them():
    images = keras.Input((None, None, 3), dtype="uint8")
    shared = layers.Conv2D(4, 3, use_bias=False)(layers.Rescaling(1 / 64)(images))
    normed = layers.BatchNormalization()(shared)
    scores = layers.Concatenate()([shared, normed])
    model = vary_statistics(keras.Model(images, Interpolation(2, name=LOGITS)(scores)))
    assert operations(export.export(model).program)["Conv2D"] == 2


def test_constants_beside_tensors_stay():
    """As of the hard swish of MobileNetV3: ``relu6(x + 3) / 6``."""
    images = keras.Input((None, None, 3), dtype="uint8")
    values = layers.Conv2D(4, 3)(layers.Rescaling(1 / 64)(images))
    head = Interpolation(2, name=LOGITS)
    values = values * (layers.ReLU(6.0)(values + 3.0) * (1.0 / 6.0))
    left = operations(export.export(keras.Model(images, head(values))).program)
    assert (left["Mul"], left["Relu6"]) == (2, 1)


@settings(max_examples=5, deadline=None)
@given(
    st.integers(1, 5),  # channels out, or the multiplier
    st.sampled_from([1, 2, 3, 5]),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["same", "valid"]),
    st.booleans(),
)
def test_any_convolution_and_batch_norm(after, kernel, stride, bias, depthwise, padding, half):
    options = {"strides": stride, "padding": padding, "use_bias": bias}
    options["bias_initializer"] = "normal"
    convolution = (
        layers.DepthwiseConv2D(kernel, depth_multiplier=after, **options)
        if depthwise
        else layers.Conv2D(after, kernel, **options)
    )
    model = network(convolution, layers.BatchNormalization())
    if half:
        to_half(model)
    left = operations(export.export(model, half=half).program)
    assert left["Cast"] == 1 + half  # of the images, and of the kernel
    assert left["Mul"] == half


def to_half(model):
    for weight in model.weights:
        if len(weight.shape) > 1:
            weight.assign(weight.numpy().astype(np.float16))


@pytest.mark.parametrize("learned", [False, True])
def test_half_kernels_take_half_the_size_and_change_nothing(learned):
    head = Upsampling(16, 8, name=LOGITS) if learned else None
    model = network(
        layers.Conv2D(64, 5), layers.BatchNormalization(), layers.Conv2D(16, 5), head=head
    )
    to_half(model)
    full, half = (export.export(model, half=half).program.graph for half in (False, True))
    assert half.ByteSize() < 0.6 * full.ByteSize()


def test_the_grid_of_scores_follows_from_the_head():
    exported = export.export(network(layers.Conv2D(3, 1), head=Interpolation(8, -3.5, name=LOGITS)))
    assert (exported.stride, exported.shift) == (8, -3.5)
    exported = export.export(network(layers.Conv2D(3, 1), head=Upsampling(3, 8, name=LOGITS)))
    assert (exported.stride, exported.shift) == (8, None)


def test_a_program_that_computes_something_else_is_not_saved(monkeypatch, tmp_path):
    class Wrong(folding._Convolution):
        def then(self, scale, shift):
            return super().then(scale * 1.001, shift)

    monkeypatch.setattr(folding, "_Convolution", Wrong)
    model = network(layers.Conv2D(6, 3), layers.BatchNormalization())
    with pytest.raises(JobError, match=r"^small: its inference program computes something else"):
        artifact.save(tmp_path / "model", model, None)
    assert not (tmp_path / "model").exists()


def test_weights_that_are_no_half_numbers_are_not_held_as_such():
    with pytest.raises(JobError, match="scores differ by"):
        export.export(network(layers.Conv2D(6, 3)), half=True)


def test_the_model_is_not_changed_by_its_export():
    model = network(*STACKS["twice"])
    before = [weight.numpy() for weight in model.weights]
    outputs = [operation.output for operation in model.operations]  # of one call each
    export.export(model)
    assert all(one is other.output for one, other in zip(outputs, model.operations, strict=True))
    for one, other in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(one, other)


BACKBONES = """
import sys
from tests import networks
networks.use_tensorflow()
import keras, numpy as np
from model_build import export, program
from model_build.artifact import Scores
from model_build.network.fcn import LOGITS, fcn, scoring_layers
from pipeline.network.models import Network
from pipeline.network.precision import BFLOAT16, supports_bfloat16
from pipeline.network.segmenter import Segmenter
from types import SimpleNamespace

images = np.random.default_rng(1).integers(0, 255, (2, 12, 16, 3), np.uint8)
images = np.kron(images, np.ones((1, 8, 8, 1), np.uint8))
# Random weights amplify rounding errors from layer to layer, also in Keras' own graph.
export.MAX_SCORE_DIFFERENCE, export.MIN_AGREEMENT = 1e-3, 0.999
for name, options in {networks}:
    keras.utils.set_random_seed(1)
    model, _ = fcn(7, name, **options)
    networks.adapt_statistics(model, images)
    for layer in map(model.get_layer, scoring_layers(model)):
        layer.set_weights([np.random.default_rng(2).normal(0, 0.1, w.shape) for w in layer.weights])
    scores = keras.Model(model.input, model.get_layer(LOGITS).input)(images, training=False)
    bias = model.get_layer("scores").bias  # no class is ahead everywhere
    bias.assign(bias - np.mean(scores, (0, 1, 2)))
    exported = export.export(model)
    scores = Scores(exported.stride, exported.shift, len(exported.program.averaged))
    description = SimpleNamespace(stride=32, long_side=128, scores=scores, kind="program")
    network = Network(description, exported.program)
    expected = np.argmax(model(images, training=False), -1)
    assert len(np.unique(expected)) > 1, name
    same = []
    for precision in ("float32", BFLOAT16)[: 1 + supports_bfloat16()]:
        segmenter = Segmenter(network, batch_size=2, precision=precision, tile=64)
        found, finite = segmenter(images)
        assert finite.all()
        same.append((found == expected).mean())
        assert same[-1] >= (0.999 if precision == "float32" else 0.9), (name, same)
        segmenter.tiled(images[0])
    print(name, program.dilates_depthwise(), *same)
    keras.backend.clear_session()
"""
NETWORKS = [
    ("resnet18", {"learn_upsampling": True}),
    ("resnet50", {"skips": 8}),
    ("resnet50_v2", {"output_stride": 16}),
    ("mobilenet", {}),
    ("mobilenet_v2", {"output_stride": 8, "context": True}),
    ("mobilenet_v2", {"skips": 16}),
    ("mobilenet_v3_small", {"output_stride": 16}),
    ("efficientnet_b0", {"output_stride": 16, "context": True}),
    ("efficientnet_v2_b0", {}),
    ("densenet121", {"skips": 16}),
    ("vgg16", {"skips": 8}),
]


@pytest.mark.slow
@pytest.mark.parametrize("onednn", ["0", "1"])
def test_programs_of_backbones_are_their_networks_with_and_without_onednn(onednn):
    code = BACKBONES.replace("{networks}", repr(NETWORKS))
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": onednn}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(NETWORKS)
    assert {line.split()[1] for line in lines} == {str(onednn == "1")}
