"""TensorFlow as a job has it, and a small network for it."""

import dataclasses
import json
from pathlib import Path
from unittest import mock


def _labels(change):
    return lambda description: dataclasses.replace(description, labels=change(description.labels))


def _named(labels):
    return dataclasses.replace(labels, names=(*labels.names[:-1], "another"))


def _coloured(labels):
    return dataclasses.replace(labels, colors=(*labels.colors[:-1], (1, 2, 3)))


def _scores(**changes):
    return lambda description: dataclasses.replace(
        description, scores=dataclasses.replace(description.scores, **changes)
    )


# Changes of a description, by the field of model.json that they change: each reaches a pixel.
DECIDING = {
    "labels": _labels(_named),
    "palette": _labels(_coloured),
    "stride": lambda description: dataclasses.replace(description, stride=64),
    "long_side": lambda description: dataclasses.replace(description, long_side=64),
    "scores stride": _scores(stride=8, shift=None),
    "scores shift": _scores(shift=1.25),
    "scores averages": _scores(averages=2),
    "kind": lambda description: dataclasses.replace(description, kind="saved_model"),
}


def use_tensorflow() -> None:
    """Imports TensorFlow and sets the threads that a job in this process needs.

    They can only be set before TensorFlow's first operation.
    """
    from model_build.common.quiet_imports import import_tensorflow
    from pipeline.network.threads import set_threads

    import_tensorflow()
    assert set_threads(), "TensorFlow has run an operation before its threads were set"


def save_tiny(folder: Path) -> Path:
    """Saves a network of 21 classes: random weights and a small body, but every part."""
    use_tensorflow()
    import keras

    from model_build import artifact
    from model_build.data.labels import VOC
    from model_build.network import backbones
    from model_build.network.fcn import fcn

    def body(include_top, weights, input_shape):
        layers = keras.layers
        inputs = keras.Input(input_shape)
        x = layers.Conv2D(8, 8, 8, padding="same", activation="relu")(inputs)
        x = layers.DepthwiseConv2D(3, padding="same")(x)
        x = layers.Conv2D(32, 4, 4, padding="same", activation="relu")(x)
        return keras.Model(inputs, layers.BatchNormalization()(x))

    keras.utils.set_random_seed(3)
    normalisation = backbones.Normalisation("RGB", (1 / 64,) * 3, (-2.0,) * 3)
    with mock.patch.object(backbones, "_find", return_value=(body, normalisation)):
        model, _ = fcn(len(VOC), "small")
    description = artifact.Description(
        backbone="small",
        labels=VOC,
        normalisation=normalisation.to_json(),
        stride=32,
        long_side=96,
        parameters=0,
    )
    artifact.save(folder, model, description)
    model.save(folder / "model.keras")
    return folder


def vary_statistics(model):
    """Sets the batch norms of a model, also nested ones, to statistics like those of a training."""
    import keras
    import numpy as np

    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            vary_statistics(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights(
                [
                    rng.uniform(0.5, 1.5, weight.shape)
                    if "variance" in weight.path or "gamma" in weight.path
                    else rng.normal(0, 0.3, weight.shape)
                    for weight in layer.weights
                ]
            )
    return model


def adapt_statistics(model, images):
    """Gives the batch norms of a network the statistics of images, so that features stay small."""
    import keras

    for layer in model.get_layer("backbone").layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)


def save_earlier(folder: Path, model, description, half: bool = False) -> Path:
    """Saves a network as format 1 was: a SavedModel of two functions over variables."""
    import keras
    import tensorflow as tf

    from model_build import artifact
    from model_build.network.fcn import LOGITS

    head = model.get_layer(LOGITS)
    body = keras.Model(model.input, head.input)

    def stored(part):
        return [
            tf.Variable(tf.cast(weight, tf.float16) if half and len(weight.shape) > 1 else weight)
            for weight in part.weights
        ]

    def applied(part, values, inputs):
        values = [tf.cast(value, w.dtype) for value, w in zip(values, part.weights, strict=True)]
        with keras.StatelessScope(list(zip(part.weights, values, strict=True))):
            return part(inputs, training=False)

    images = tf.TensorSpec([None, None, None, 3], tf.uint8, "images")
    scores = tf.TensorSpec([None, None, None, head.input.shape[-1]], tf.float32, "scores")
    network = tf.Module()
    network.body_weights, network.head_weights = stored(body), stored(head)
    network.body = tf.function(lambda x: applied(body, network.body_weights, x), [images])
    network.head = tf.function(lambda x: applied(head, network.head_weights, x), [scores])
    network.logits = tf.function(lambda x: {"logits": network.head(network.body(x))}, [images])
    signatures = {"serving_default": network.logits}
    tf.saved_model.save(network, str(folder / artifact.NETWORK), signatures)
    (folder / artifact.NETWORK / "fingerprint.pb").unlink()
    earlier = dataclasses.replace(
        description, format=artifact.EARLIER_FORMAT, parameters=model.count_params()
    )
    value = earlier.to_json() | {"fingerprint": artifact.fingerprint(folder, earlier)}
    for later in ("scores", "weights", "kind"):
        del value[later]
    (folder / artifact.DESCRIPTION).write_text(json.dumps(value))
    return folder


def serve(folder):
    """A saved-model folder as TensorFlow serves it: uint8 images → float32 logits."""
    import tensorflow as tf

    module = tf.saved_model.load(f"{folder}/saved_model")

    def logits(images):
        return module.signatures["serving_default"](images=tf.constant(images))["logits"]

    return logits
