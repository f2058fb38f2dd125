"""The objective of a training: loss, class weights, metrics, and compilation."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from model_build.data.labels import VOID
from model_build.data.pairs import Pair
from model_build.network.fcn import BACKBONE, LOGITS
from model_build.training.recipes import Recipe, optimizer


@keras.saving.register_keras_serializable("fcn_beam")
class CrossEntropy(keras.losses.Loss):
    """Per-pixel cross-entropy on logits, a weighted mean over the pixels that are not void.

    Args:
        weights: one per class.
    """

    def __init__(self, weights: Sequence[float], name: str = "cross_entropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.weights = tuple(float(weight) for weight in weights)

    def call(self, y_true, y_pred):
        known = y_true != VOID
        ids = tf.where(known, tf.cast(y_true, tf.int32), 0)
        weights = tf.gather(tf.constant(self.weights), ids) * tf.cast(known, tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(ids, tf.cast(y_pred, tf.float32))
        mean = tf.math.divide_no_nan(tf.reduce_sum(weights * losses), tf.reduce_sum(weights))
        return mean[None]  # a vector, as Keras does not divide a scalar by the number of replicas

    def get_config(self):
        return {**super().get_config(), "weights": self.weights}


@keras.saving.register_keras_serializable("fcn_beam")
class PixelAccuracy(keras.metrics.MeanIoU):
    """Share of the non-void pixels whose class is correct."""

    def result(self):
        matrix = keras.ops.cast(self.total_cm, "float32")
        return keras.ops.divide_no_nan(keras.ops.trace(matrix), keras.ops.sum(matrix))


def class_weights(pairs: Sequence[Pair], classes: int, balance: float) -> list[float]:
    """Returns class weights for the loss: shares of the pixels to the power of -``balance``.

    Scaled so that the mean over the pixels is 1; a class without pixels weighs 1.
    """
    counts = np.sum([np.bincount(pair.read_ids().ravel(), minlength=256) for pair in pairs], axis=0)
    shares = counts[:classes] / max(1, counts[:classes].sum())
    weights = np.where(shares > 0, np.maximum(shares, 1e-12) ** -balance, 0)
    scale = (shares * weights).sum() or 1
    return np.where(shares > 0, weights / scale, 1).tolist()


def compile_model(
    model: keras.Model,
    recipe: Recipe,
    steps: int,
    freeze_backbone: bool = False,
    weights: Sequence[float] | None = None,
    jit: bool = False,
    inherited: Sequence[str] = (),
) -> None:
    """Compiles a network from :func:`model_build.network.fcn.fcn` in place.

    The optimizer's state is also created, so that it can be saved or restored.

    Args:
        model: the network.
        recipe: how to train it.
        freeze_backbone: do not train the backbone.
        steps: batches per epoch, for the schedule.
        weights: of the classes in the loss; all 1 by default.
        jit: compile the step with XLA.
        inherited: layers outside the backbone that learn at its rate.
    """
    features = model.get_layer(BACKBONE)
    features.trainable = not freeze_backbone
    for layer in features.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = not (freeze_backbone or recipe.freeze_batch_norm)
    slow = (*(layer.name for layer in features.layers if layer.weights), LOGITS, *inherited)
    classes = model.output.shape[-1]
    score = {"num_classes": classes, "ignore_class": VOID, "sparse_y_pred": False}
    model.compile(
        optimizer(recipe, steps * recipe.epochs, slow),
        CrossEntropy(weights or [1.0] * classes),
        metrics=[
            PixelAccuracy(**score, name="accuracy"),
            keras.metrics.MeanIoU(**score, name="miou"),
        ],
        jit_compile=jit,
    )
    model.optimizer.build(model.trainable_variables)
