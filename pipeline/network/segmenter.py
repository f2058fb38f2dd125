"""The compiled network: uint8 images → uint8 class maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from model_build.artifact import Network
from pipeline.network.threads import has_accelerator


class Segmenter:
    """Runs same-sized images through a network, always at one batch size.

    A smaller batch is filled up: which bits a convolution yields may depend on the size of the
    batch, but not on what its other images hold, so a mask never depends on its batch mates.

    Args:
        network: from :func:`pipeline.network.models.load`.
        engine: ``"xla"`` compiles the network, anew for each shape it meets; ``"graph"`` does not.
            ``"auto"`` follows a fixed rule, so that all workers of a job choose alike: XLA on an
            accelerator, the graph on a CPU, where compiling takes longer than it gains
            (``benchmarks/engines.py``).
        batch_size: images a call; None takes 8 on an accelerator and 1 on a CPU, where larger
            batches gain little and the last of each shape must be filled up.
    """

    def __init__(self, network: Network, engine: str = "auto", batch_size: int | None = None):
        accelerator = has_accelerator()
        xla = accelerator if engine == "auto" else engine == "xla"
        self.stride = network.description.stride
        self.batch_size = batch_size or (8 if accelerator else 1)
        self.description = "XLA" if xla else "graph"

        def classify(images):
            logits = network.head(network.body(images))
            return tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.uint8)

        frozen = _freeze(classify, self.batch_size)
        images = tf.TensorSpec([self.batch_size, None, None, 3], tf.uint8)
        # One trace, for any height and width; XLA still compiles each shape it meets.
        self._classify: Callable = tf.function(
            lambda images: frozen(images)[0], [images], jit_compile=xla
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Segments a batch.

        Args:
            images: uint8 RGB ``[n, h, w, 3]``; n at most the batch size, h and w multiples of the
                stride.

        Returns:
            uint8 class ids ``[n, h, w]``.
        """
        count = len(images)
        if count < self.batch_size:
            images = np.concatenate(
                [images, np.repeat(images[:1], self.batch_size - count, axis=0)]
            )
        return self._classify(tf.constant(images)).numpy()[:count]


def _freeze(function: Callable, batch_size: int) -> Any:
    """The function with its weights as constants."""
    signature = tf.TensorSpec([batch_size, None, None, 3], tf.uint8)
    concrete = tf.function(function).get_concrete_function(signature)
    return convert_variables_to_constants_v2(concrete)
