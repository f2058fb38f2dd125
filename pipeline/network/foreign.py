"""SavedModels that were not trained here, run as TensorFlow loads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from model_build.artifact import Description
from model_build.saved_model import SIGNATURE, UnusableModel


class ForeignNetwork:
    """A SavedModel with the same functions as a :class:`model_build.program.Program`.

    The serving signature takes RGB images ``[n, h, w, 3]`` of any size, uint8 or numbers from 0 to
    255, and returns scores ``[n, h/s, w/s, classes]``, where s is the stride in ``model.json``.

    It runs as it was saved, with batch norms and variables, so it is slower than a program. Tiles
    are segmented independently, and images are not padded to a canvas.

    Args:
        folder: the SavedModel, on local disk; checked by :func:`model_build.saved_model.read`.
        description: its ``model.json``.

    Attributes:
        channels: number of channels of its scores.
        averaged: always empty.

    Raises:
        UnusableModel: its signature or the stride of its scores differs from the above.
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
        """Checks the shape of its scores against the description.

        Returns:
            The number of channels.
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
        """Returns float32 scores of uint8 images."""
        found = self._call(**{self._input: tf.cast(images, self._type)})[self._output]
        return tf.cast(found, tf.float32)

    def logits(self, scores: Any) -> Any:
        """Returns the scores: they have the image's size or are interpolated by the caller."""
        return scores
