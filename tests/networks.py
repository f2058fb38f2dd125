"""TensorFlow as a job has it, and a small network for it."""

from pathlib import Path
from unittest import mock


def use_tensorflow() -> None:
    """Imports TensorFlow and sets the threads that a job in this process needs.

    They can only be set before TensorFlow's first operation.
    """
    from model_build.quiet import import_tensorflow
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
    """Gives the batch norms of a model, nested ones too, statistics as training leaves them."""
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
