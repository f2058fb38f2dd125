"""The compiled network: uint8 images → uint8 class maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from model_build.artifact import Network


class Segmenter:
    """Runs same-sized images through a network, always at one batch size.

    A smaller batch is filled up: which bits a convolution yields may depend on the size of the
    batch, but not on what its other images hold, so a mask never depends on its batch mates.

    Args:
        network: from :func:`model_build.artifact.load`.
        engine: ``"xla"`` compiles the whole network, ``"graph"`` nothing. ``"auto"`` follows a
            fixed rule, so that all workers of a job choose alike: on an accelerator all is
            compiled; on a CPU the upsampling and argmax are, which gain by it, and the body is
            not, which loses, above all in depthwise convolutions (``benchmarks/engines.py``).
        batch_size: images a call; None takes 8 on an accelerator and 1 on a CPU, where larger
            batches gain little and the last of each shape must be filled up.
    """

    def __init__(self, network: Network, engine: str = "auto", batch_size: int | None = None):
        accelerator = bool(tf.config.list_physical_devices("GPU"))
        compiled = {
            "xla": (True, True),
            "graph": (False, False),
            "auto": (accelerator, True),
        }[engine]
        self.stride = network.description.stride
        self.batch_size = batch_size or (8 if accelerator else 1)
        self.description = " and ".join(
            f"{part} {'XLA' if by_xla else 'graph'}"
            for part, by_xla in zip(("body", "head"), compiled, strict=True)
        )
        frozen = _freeze(network.body, self.batch_size)
        images = tf.TensorSpec([self.batch_size, None, None, 3], tf.uint8)
        scores = tf.TensorSpec(frozen.outputs[0].shape, tf.float32)

        def body(images):
            return frozen(images)[0]

        def head(scores):
            logits = network.head(scores)
            return tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.uint8)

        # One trace each, for any height and width; XLA still compiles each shape it meets.
        if compiled == (True, True):
            self._classify: Callable = tf.function(
                lambda images: head(body(images)), [images], jit_compile=True
            )
        else:
            run_body = tf.function(body, [images])
            run_head = tf.function(head, [scores], jit_compile=compiled[1])
            self._classify = lambda images: run_head(run_body(images))

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


def _freeze(body: Callable, batch_size: int) -> Any:
    """The body with its weights as constants, so that batch norms fold into convolutions."""
    signature = tf.TensorSpec([batch_size, None, None, 3], tf.uint8)
    concrete = tf.function(body).get_concrete_function(signature)
    return convert_variables_to_constants_v2(concrete)
