"""The hardware settings of a training: replicas on several GPUs, XLA, mixed precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import tensorflow as tf

from model_build.common.errors import UserError
from model_build.training.recipes import Recipe


def strategy() -> tf.distribute.Strategy:
    """Replicates the network on all GPUs, if there are several, and splits batches among them."""
    several = len(tf.config.list_logical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


def resolve_engine(choice: str, precision: str, replicas: int = 1) -> tuple[bool, str]:
    """Resolves how a training step is computed.

    Args:
        choice: ``"xla"``, ``"graph"``, or ``"auto"``: XLA on one GPU; not on a CPU, where it is
            many times slower on depthwise convolutions, nor on several GPUs, as Keras compiles
            their common step as one program, and an XLA program runs on one device.
        precision: a Keras dtype policy, or ``"auto"``: mixed_float16 on GPUs with tensor cores
            (compute capability 7.0), else float32. On CPUs bfloat16 is slower even with
            instructions for it (``benchmarks/training.py``).
        replicas: number of copies of the network, see :func:`strategy`.

    Returns:
        Whether to compile the step with XLA, and the name of the dtype policy.

    Raises:
        UserError: XLA for several replicas.
    """
    if choice == "xla" and replicas > 1:
        raise UserError(
            f"--engine xla: only works with one GPU, but {replicas} are visible; leave it out, or "
            "show one with CUDA_VISIBLE_DEVICES=0"
        )
    gpus = tf.config.list_physical_devices("GPU")
    if precision == "auto":
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        capable = [detail.get("compute_capability", (0, 0)) >= (7, 0) for detail in details]
        precision = "mixed_float16" if capable and all(capable) else "float32"
    return choice == "xla" or (choice == "auto" and bool(gpus) and replicas == 1), precision


@dataclass(frozen=True)
class Machine:
    """The hardware settings of a training.

    Attributes:
        strategy: see :func:`strategy`.
        jit: whether a step is compiled with XLA.
        policy: a Keras dtype policy.
    """

    strategy: tf.distribute.Strategy
    jit: bool
    policy: str

    @property
    def replicas(self) -> int:
        return self.strategy.num_replicas_in_sync

    def __str__(self) -> str:
        devices = f"{self.replicas} device{'s' * (self.replicas != 1)}"
        return f"{self.policy} {'with' if self.jit else 'without'} XLA on {devices}"


def machine(choice: str = "auto", precision: str = "auto") -> Machine:
    """Returns settings for all devices of this machine; see :func:`resolve_engine`."""
    where = strategy()
    return Machine(where, *resolve_engine(choice, precision, where.num_replicas_in_sync))


def check_replicas(recipe: Recipe, images: int, replicas: int) -> None:
    """Checks that a recipe works with several replicas.

    Raises:
        UserError: batches cannot be split evenly; or gradients are accumulated, as Keras'
            optimizers cannot synchronise in a step that may or may not update the weights.
    """
    if replicas == 1:
        return
    one = "or show one GPU with CUDA_VISIBLE_DEVICES=0"
    batch_size = min(recipe.batch_size, images)
    if batch_size % replicas:
        raise UserError(
            f"--batch-size {batch_size}: does not divide evenly among {replicas} GPUs; choose a "
            f"multiple of {replicas}, {one}"
        )
    if recipe.accumulate > 1:
        raise UserError(
            f"--accumulate {recipe.accumulate}: only works with one GPU, but {replicas} are "
            f"visible; raise --batch-size instead, {one}"
        )


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Sets the Keras dtype policy of layers created while its block runs."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
