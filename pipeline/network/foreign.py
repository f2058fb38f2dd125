"""Anybody's network: a SavedModel as TensorFlow loads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from model_build.artifact import Description
from model_build.saved_model import SIGNATURE, UnusableModel


class Foreign:
    """The functions of a SavedModel, as :class:`model_build.program.Program` has them.

    Its serving signature takes RGB images ``[n, h, w, 3]`` of any size, uint8 or numbers from 0 to
    255, and gives scores ``[n, h/s, w/s, classes]``, s the stride of ``model.json``.

    It runs as it was saved, with batch norms and variables of its own, and so slower than a
    program. It sees each tile by itself, and images at their own size, on no canvas.

    Args:
        folder: the SavedModel, on local disk; checked by :func:`model_build.saved_model.read`.
        description: of it.

    Attributes:
        channels: of its scores.
        averaged: nothing.

    Raises:
        UnusableModel: it has another signature, or scores of another stride.
    """

    averaged = ()

    def __init__(self, folder: str, description: Description):
        self._module = tf.saved_model.load(folder)  # holds the variables
        self._call = self._module.signatures[SIGNATURE]
        taken, given = self._call.structured_input_signature[1], self._call.structured_outputs
        if len(taken) != 1 or len(given) != 1:
            raise UnusableModel(
                f"its signature has {len(taken)} inputs and {len(given)} outputs; save it with one "
                "of each"
            )
        ((self._input, spec),), (self._output,) = taken.items(), given
        shape = spec.shape
        if spec.dtype not in (tf.uint8, tf.float32) or shape.rank != 4 or shape[3] != 3:
            raise UnusableModel(
                f"its input is {spec.dtype.name} {shape}; save it with uint8 or float32 images "
                "[n, h, w, 3]"
            )
        if any(shape[:3]):
            raise UnusableModel(f"its input is {shape}; save it for images of any size")
        self._type = spec.dtype
        self.channels = self._check_scores(description)

    def _check_scores(self, description: Description) -> int:
        """Holds what it gives against its description.

        Returns:
            The channels of its scores.
        """
        size, stride = np.array((2, 3)) * description.stride, description.scores.stride
        shape = self.scores(tf.zeros([1, *size, 3], tf.uint8)).shape
        if shape.rank != 4 or list(shape[1:3]) != list(size // stride):
            raise UnusableModel(
                f"of {size[0]}×{size[1]} pixels it gives {list(shape)}, but model.json says scores "
                f"of stride {stride}; correct that, or save it with logits [n, h, w, classes]"
            )
        return shape[3]

    def scores(self, images: Any) -> Any:
        """Scores, float32, of uint8 images."""
        found = self._call(**{self._input: tf.cast(images, self._type)})[self._output]
        return tf.cast(found, tf.float32)

    def logits(self, scores: Any) -> Any:
        """The same: they are of the image's size, or interpolated elsewhere."""
        return scores
