"""Compiles a network and runs the epochs of its training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from model_build.common.errors import UserError
from model_build.data import crops
from model_build.training import checkpoints
from model_build.training.devices import Machine
from model_build.training.examples import Examples
from model_build.training.objective import class_weights, compile_model
from model_build.training.options import Options
from model_build.training.recipes import Recipe


def prepare(
    model: keras.Model,
    examples: Examples,
    output: Path,
    start: tuple[Path, int] | None,
    recipe: Recipe,
    options: Options,
    machine: Machine,
    say: Callable[[str], None] = print,
    inherited: tuple[str, ...] = (),
) -> tuple[tf.data.Dataset, int]:
    """Compiles a network, and restores its checkpoint or saves the initial one.

    Args:
        model: from :func:`model_build.training.train.build`.
        examples: the training data.
        output: the folder of the training.
        start: from :func:`model_build.training.checkpoints.starting_point`.
        recipe, options, machine: those of :func:`model_build.training.train.train`.
        say: receives lines for the user.
        inherited: layers outside the backbone that start with weights of a trained network.

    Returns:
        The training batches of all remaining epochs, and the number of batches per epoch.

    Raises:
        UserError: the checkpoint does not fit, or ``output`` cannot be written to.
    """
    done = start[1] if start else 0
    batches, steps = crops.training_crops(
        examples.pairs,
        crop=options.crop,
        batch_size=recipe.batch_size,
        scales=recipe.scales,
        flip=recipe.flip,
        seed=options.seed,
        epochs=range(done, recipe.epochs),
    )
    with machine.strategy.scope():
        weights = class_weights(examples.pairs, len(examples.labels), recipe.class_balance)
        compile_model(
            model, recipe, steps, options.freeze_backbone, weights, machine.jit, inherited
        )
        if start:
            checkpoints.restore(model, start[0])
            say(f"{start[0]}: resuming after epoch {done}")
    if not start:
        # So a training interrupted in its first epoch can be resumed, and a folder that is not
        # writable is noticed before that epoch.
        checkpoints.save(model, output, 0)
    return batches, steps


def fit(
    model: keras.Model,
    batches: tf.data.Dataset,
    steps: int,
    validation: tf.data.Dataset,
    output: Path,
    epochs: range,
    patience: int | None = None,
    replicas: int = 1,
    say: Callable[[str], None] = print,
) -> None:
    """Trains to the last epoch, or stops early by ``patience``.

    Args:
        model, batches, steps: from :func:`prepare`.
        validation: from :func:`model_build.data.crops.whole_images`.
        output: the folder for the checkpoint and row of the history of each epoch.
        epochs: numbers of the epochs to train, from 0.
        patience: stop after this many epochs without a better validation mIoU.
        replicas: number of copies of the network.
        say: receives lines for the user.

    Raises:
        UserError: memory ran out, the training diverged or ``output`` cannot be written to.
        KeyboardInterrupt: after printing how to resume.
    """
    keeper = checkpoints.CheckpointEachEpoch(output, epochs.start, patience)
    if not epochs or not keeper.has_patience():
        return
    try:
        model.fit(
            batches,
            epochs=epochs.stop,
            initial_epoch=epochs.start,
            steps_per_epoch=steps,
            # Each replica validates the same image: Keras needs one per replica, all of one shape.
            validation_data=validation.map(lambda *pair: [tf.repeat(x, replicas, 0) for x in pair]),
            callbacks=[
                keeper,
                keras.callbacks.TensorBoard(output / "tensorboard", write_graph=False),
            ],
            shuffle=False,  # the dataset is already shuffled
            verbose=2,
        )
    except KeyboardInterrupt:
        # The interrupted epoch is repeated from its start, so its updates are not saved.
        path, _ = checkpoints.latest(output) or (output, 0)
        say(f"{path}: saved; run the same command with --resume to continue")
        raise
    except tf.errors.ResourceExhaustedError:
        raise UserError(
            "out of memory; choose a smaller --crop or --batch-size (and a larger --accumulate to "
            "make up for it)"
        ) from None
