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
        network: from :func:`pipeline.network.models.load`.
        engine: ``"xla"`` compiles the network, anew for each shape it meets; ``"graph"`` does not.
        batch_size: images a call.
    """

    def __init__(self, network: Network, engine: str = "graph", batch_size: int = 1):
        self.stride = network.description.stride
        self.batch_size = batch_size

        def classify(images):
            scores = network.body(images)
            # The scores of the coarse cells tell it as well as the logits of all pixels, which are
            # sums of them.
            finite = tf.reduce_all(tf.math.is_finite(scores), axis=[1, 2, 3])
            logits = network.head(scores)
            return tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.uint8), finite

        frozen = _freeze(classify, batch_size)
        images = tf.TensorSpec([batch_size, None, None, 3], tf.uint8)
        # One trace, for any height and width; XLA still compiles each shape it meets.
        self._classify: Callable = tf.function(frozen, [images], jit_compile=engine == "xla")

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Segments a batch.

        Args:
            images: uint8 RGB ``[n, h, w, 3]``; n at most the batch size, h and w multiples of the
                stride.

        Returns:
            uint8 class ids ``[n, h, w]``, and bool ``[n]``: whether the scores are finite.
        """
        count = len(images)
        if count < self.batch_size:
            images = np.concatenate(
                [images, np.repeat(images[:1], self.batch_size - count, axis=0)]
            )
        class_maps, finite = self._classify(tf.constant(images))
        return class_maps.numpy()[:count], finite.numpy()[:count]


def _freeze(function: Callable, batch_size: int) -> Any:
    """The function with its weights as constants."""
    signature = tf.TensorSpec([batch_size, None, None, 3], tf.uint8)
    concrete = tf.function(function).get_concrete_function(signature)
    return convert_variables_to_constants_v2(concrete)
