"""Measures the gain of FCN-8s skips that are trained on top of a frozen network.

    python benchmarks/skips.py DATA FILE.weights.h5 --output DIR --train-split A --held-split B

FILE holds the weights of an FCN with context on MobileNetV2 without skips, as
``fcn-beam train --start`` takes them. A network with skips gets these weights; only what enlarges
the scores and adds those of finer features is trained. Both are scored on a split that was not
trained on. The one with skips is saved in DIR: ``benchmarks/engines.py`` measures its time,
and ``fcn-beam train --start DIR --epochs 0`` scores it on another split.
"""

from __future__ import annotations

import dataclasses
import time

import click


@click.command()
@click.argument("data")
@click.argument("weights")
@click.option("--output", required=True)
@click.option("--train-split", required=True)
@click.option("--held-split", required=True)
@click.option("--output-stride", default=16, show_default=True)
@click.option("--epochs", default=3, show_default=True)
@click.option("--learning-rate", default=1e-3, show_default=True)
@click.option("--class-balance", default=0.0, show_default=True)
def main(
    data: str,
    weights: str,
    output: str,
    train_split: str,
    held_split: str,
    output_stride: int,
    epochs: int,
    learning_rate: float,
    class_balance: float,
) -> None:
    """Train skips and score them."""
    from model_build.common.quiet_imports import import_tensorflow

    import_tensorflow()
    import keras
    import tensorflow as tf

    from model_build import artifact
    from model_build.data import crops
    from model_build.data.layouts import DataFolder
    from model_build.data.pairs import read_split
    from model_build.network.fcn import BACKBONE, Architecture, fcn
    from model_build.scores import scores
    from model_build.training.best import validate
    from model_build.training.objective import class_weights, compile_model
    from model_build.training.recipes import RECIPES

    keras.utils.set_random_seed(0)
    folder = DataFolder(data)
    labels = folder.labels()
    plain = Architecture("mobilenet_v2", output_stride=output_stride, context=True)
    finer = dataclasses.replace(plain, skips=8)
    started, _ = fcn(len(labels), **dataclasses.asdict(plain))
    started.load_weights(weights)
    model, normalisation = fcn(len(labels), **dataclasses.asdict(finer))
    known = {layer.name for layer in started.layers}
    for layer in model.layers:
        if layer.name in known and layer.weights:
            layer.set_weights(started.get_layer(layer.name).get_weights())

    held = read_split(folder, held_split, labels)
    images = crops.whole_images(held)

    def say(name: str, network: keras.Model) -> None:
        specification = tf.TensorSpec([None, None, None, 3], tf.uint8)
        classify = tf.function(lambda batch: tf.argmax(network(batch), -1), [specification])
        score = scores(validate(classify, images, len(labels)))
        click.echo(
            f"{name:<28} {held_split}, {len(held)} images: pixel accuracy "
            f"{score.pixel_accuracy:.4f}, mIoU {score.miou:.4f}"
        )

    say("without skips", started)
    say("with skips, not yet trained", model)
    pairs = read_split(folder, train_split, labels)
    recipe = dataclasses.replace(
        RECIPES["default"],
        epochs=epochs,
        batch_size=8,
        learning_rate=learning_rate,
        scales=(0.75, 1.25),
    )
    batches, steps = crops.training_crops(
        pairs,
        crop=(384, 480),
        batch_size=recipe.batch_size,
        scales=recipe.scales,
        flip=recipe.flip,
        epochs=range(epochs),
    )
    for layer in model.layers:
        layer.trainable = layer.name not in known
    weights_of_classes = class_weights(pairs, len(labels), class_balance)
    compile_model(model, recipe, steps, freeze_backbone=True, weights=weights_of_classes)
    assert model.get_layer(BACKBONE).trainable_variables == []
    start = time.perf_counter()
    model.fit(batches, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=2)
    minutes = (time.perf_counter() - start) / 60
    say(f"with skips, {minutes:.1f} minutes", model)
    description = artifact.Description(
        backbone=finer.backbone_name,
        labels=labels,
        normalisation=normalisation.to_json(),
        stride=32,
        long_side=max(max(pair.height, pair.width) for pair in pairs),
        parameters=0,
        training={"data": folder.root, "train_split": train_split, "epochs": epochs},
        architecture=finer.to_json(),
    )
    artifact.save(output, model, description)


if __name__ == "__main__":
    main()
