"""Precisions: who has bfloat16, what is said where it is missing, and what it changes."""

import numpy as np
import pytest
import tensorflow as tf

from model_build.common.errors import UserError
from pipeline.network import models, precision
from pipeline.network.precision import BFLOAT16, FLOAT32, resolve, supports_bfloat16
from pipeline.network.segmenter import Segmenter, graph_function
from pipeline.storage import Files

needs_bfloat16 = pytest.mark.skipif(not supports_bfloat16(), reason="the CPU has no bfloat16")


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """Makes this machine one whose CPU has these flags."""

    def make(flags, machine="x86_64"):
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse2\n")
        monkeypatch.setattr(precision, "CPUINFO", path)
        monkeypatch.setattr(precision.platform, "machine", lambda: machine)
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
        supports_bfloat16.cache_clear()

    yield make
    supports_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx512_bf16", True), ("amx_bf16 amx_tile", True), ("avx512f avx2", False), ("", False)],
)
def test_bfloat16_support_follows_from_cpu_flags(cpu, flags, expected):
    cpu(flags)
    assert supports_bfloat16() is expected


def test_bfloat16_is_not_supported_on_other_machines(cpu, monkeypatch, tmp_path):
    cpu("avx512_bf16", machine="aarch64")
    assert not supports_bfloat16()
    cpu("avx512_bf16")
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "none")
    assert not supports_bfloat16()


def test_without_onednn_bfloat16_is_not_supported(cpu, monkeypatch):
    cpu("avx512_bf16")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert not supports_bfloat16()


def test_auto_is_bfloat16_only_in_graph_mode_of_a_local_run(cpu):
    cpu("avx512_bf16")
    assert resolve(None, "graph", local=True) == BFLOAT16
    assert resolve(None, "graph", local=False) == FLOAT32
    assert resolve(None, "xla", local=True) == FLOAT32
    cpu("avx2")
    assert resolve(None, "graph", local=True) == FLOAT32


def test_explicit_bfloat16_is_refused_without_support(cpu):
    cpu("avx2")
    with pytest.raises(UserError, match=r"no avx512_bf16 or amx_bf16\); use --precision"):
        resolve(BFLOAT16, "graph", local=True)
    assert resolve(BFLOAT16, "graph", local=False) == BFLOAT16  # checked on the workers
    cpu("avx512_bf16")
    assert resolve(BFLOAT16, "graph", local=True) == BFLOAT16
    with pytest.raises(UserError, match="--engine graph"):
        resolve(BFLOAT16, "xla", local=True)


def test_a_segmenter_refuses_unsupported_bfloat16(cpu, tiny_model):
    cpu("avx2")
    with pytest.raises(UserError, match="bfloat16"):
        Segmenter(models.load(tiny_model, Files()), precision=BFLOAT16)


@needs_bfloat16
def test_each_network_of_a_process_has_its_own_precision():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)

    def network(x):
        for _ in range(3):
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME")) / 8
        return [x]

    signature = [tf.TensorSpec([1, None, None, 8])]
    images = tf.random.stateless_normal((1, 16, 16, 8), [0, 1])
    exact = tf.function(network, signature)(images)[0].numpy()
    for _ in range(2):
        full, half = (
            graph_function(network, signature, name)(images) for name in (FLOAT32, BFLOAT16)
        )
        np.testing.assert_array_equal(full[0], exact)
        assert 1e-4 < np.abs(half[0] - exact).max() / np.abs(exact).max() < 0.05


@needs_bfloat16
@pytest.mark.parametrize("batch_size", [1, 4])
def test_class_maps_in_bfloat16_hardly_depend_on_the_rest_of_the_batch(tiny_model, batch_size):
    network = models.load(tiny_model, Files())
    coarse = np.random.default_rng(1).integers(0, 255, (4, 8, 12, 3), np.uint8)
    images = np.kron(coarse, np.ones((1, 8, 8, 1), np.uint8))
    half = Segmenter(network, batch_size=batch_size, precision=BFLOAT16)
    full = Segmenter(network, batch_size=batch_size)
    alone = np.concatenate([half(image[None])[0] for image in images])
    expected = np.concatenate([full(image[None])[0] for image in images])
    assert (alone == expected).mean() > 0.95
    if batch_size == 4:
        np.testing.assert_array_equal(half(images)[0], alone)
        np.testing.assert_array_equal(half(images[::-1])[0][::-1], alone)
