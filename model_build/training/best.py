"""The network of a training's best epoch: loaded, validated and drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from model_build.data import crops
from model_build.network.backbones import STRIDE, Normalisation
from model_build.network.fcn import Architecture, fcn
from model_build.scores import confusion_matrix
from model_build.training import checkpoints, plots
from model_build.training.examples import Examples
from model_build.training.history import read_history

SAMPLES = 6  # validation photos in samples.png


@dataclass(frozen=True)
class Best:
    """The network of the best epoch, in float32 whatever the precision of the training.

    Attributes:
        model: from :func:`model_build.network.fcn.fcn`.
        normalisation: the one in the model.
        epoch: the epoch with the best validation mIoU.
    """

    model: keras.Model
    normalisation: Normalisation
    epoch: int

    @cached_property
    def classify(self) -> Callable[[np.ndarray], tf.Tensor]:
        """Function: uint8 images ``[n, h, w, 3]`` → int64 ids, sides multiples of 32."""
        images = tf.TensorSpec([None, None, None, 3], tf.uint8)
        return tf.function(lambda images: tf.argmax(self.model(images), -1), [images])


def load_best(
    output: Path, classes: int, architecture: Architecture, *, half: bool = False
) -> Best:
    """Rebuilds the network of the best epoch from its checkpoint.

    Args:
        output: the folder of the training.
        classes: channels of the network's output.
        architecture: of the network; no pretrained backbone weights are loaded.
        half: round the kernels to float16, as they are stored.

    Raises:
        UserError: the checkpoint is missing.
    """
    path, epoch = checkpoints.best(output)
    model, normalisation = fcn(classes, **dataclasses.asdict(architecture.without_weights()))
    model.set_weights(keras.models.load_model(path, compile=False).get_weights())
    if half:
        for weight in model.weights:
            if len(weight.shape) > 1:
                weight.assign(weight.numpy().astype(np.float16))
    return Best(model, normalisation, epoch)


def validate(classify: Callable, batches: tf.data.Dataset, classes: int) -> np.ndarray:
    """Computes the confusion matrix, int64 ``[classes, classes]``, of (images, ids) batches.

    Args:
        classify: uint8 images ``[n, h, w, 3]`` → class ids ``[n, h, w]``.
        batches: from :func:`model_build.data.crops.whole_images`.
        classes: their number.
    """
    matrix = np.zeros((classes, classes), np.int64)
    for images, ids in batches:
        matrix += confusion_matrix(ids.numpy(), classify(images).numpy(), classes)
    return matrix


def draw(output: Path, examples: Examples, matrix: np.ndarray, classify: Callable) -> None:
    """Draws ``confusion.png``, ``samples.png`` and, if there was an epoch, ``training.png``.

    Args:
        output: the folder of the training, with its history.
        examples: samples are from their validation split.
        matrix, classify: those of :func:`validate`.

    Raises:
        OSError: a file cannot be written.
    """
    samples = []
    # Spread over the split, as neighbours may be frames of one film.
    shown = examples.validation[:: max(1, len(examples.validation) // SAMPLES)][:SAMPLES]
    for pair, (images, _) in zip(shown, crops.whole_images(shown, multiple=STRIDE), strict=True):
        seen = slice(pair.height), slice(pair.width)
        photo, prediction = images.numpy()[0][seen], classify(images).numpy()[0][seen]
        samples.append((photo, prediction.astype(np.uint8), pair.read_ids()))
    if history := read_history(output):
        plots.draw_history(history, output / "training.png")
    plots.draw_confusion(matrix, examples.labels.names, output / "confusion.png")
    plots.draw_samples(samples, examples.labels, output / "samples.png")
