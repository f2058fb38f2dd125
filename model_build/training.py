"""Trains an FCN: from a data folder to a saved-model folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model_build import artifact, checkpoints, crops, dataset
from model_build.backbones import STRIDE
from model_build.devices import check_replicas, dtype_policy, engine, strategy
from model_build.errors import UserError, first_line
from model_build.fcn import BACKBONE, LOGITS, fcn
from model_build.labels import VOID, LabelSet
from model_build.objective import CrossEntropy, PixelAccuracy, class_weights
from model_build.recipes import RECIPES, Recipe, optimizer
from model_build.scores import confusion_matrix, scores

SAMPLES = 6  # validation photos in samples.png


def compile_model(
    model: keras.Model,
    recipe: Recipe,
    steps: int,
    freeze_backbone: bool = False,
    weights: Sequence[float] | None = None,
    jit: bool = False,
) -> None:
    """Compiles a network from :func:`model_build.fcn.fcn` in place.

    The optimizer's state is made here too, so that it is there to be saved or restored.

    Args:
        model: the network.
        recipe: how to train it.
        freeze_backbone: leave all of the backbone as it is.
        steps: batches an epoch, for the schedule.
        weights: of the classes in the loss; all 1 by default.
        jit: compile the step with XLA.
    """
    features = model.get_layer(BACKBONE)
    features.trainable = not freeze_backbone
    for layer in features.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = not (freeze_backbone or recipe.freeze_batch_norm)
    slow = (*(layer.name for layer in features.layers if layer.weights), LOGITS)
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


@dataclass(frozen=True)
class Data:
    """What a training reads: pairs to learn from, pairs to score on, and their labels."""

    pairs: list[dataset.Pair]
    validation: list[dataset.Pair]
    labels: LabelSet


def read_data(
    data: str,
    labels: LabelSet,
    splits: tuple[str, str],
    crop: tuple[int, int],
    pad_small: bool,
    say: Callable[[str], None],
) -> Data:
    """Reads and checks both splits, and says what was found.

    Args:
        data, crop, pad_small, say: see :func:`train`.
        labels: of the folder.
        splits: names of those to train on and to validate on.

    Raises:
        UserError: a pair cannot serve, no image is large enough, one is in both splits, or all
            pixels of a split are void.
    """
    every, validation = (dataset.read_split(data, split, labels) for split in splits)
    pairs = every if pad_small else crops.drop_small(every, crop)
    if not pairs:
        raise UserError(
            f"{data}: all {len(every)} training images are smaller than the crop of "
            f"{crop[0]}×{crop[1]}; pad them with --pad-small or choose a smaller --crop"
        )
    both = {pair.image for pair in every} & {pair.image for pair in validation}
    if both and splits[0] != splits[1]:
        raise UserError(
            f"{min(both)}: is in both {splits[0]} and {splits[1]}, as are {len(both)} images in "
            "all; take them out of one"
        )
    say(
        f"{data}: {len(pairs)} training images ({len(every) - len(pairs)} dropped as smaller than "
        f"the crop), {len(validation)} validation images, {len(labels)} labels"
    )
    for split, found in zip(splits, (pairs, validation), strict=True):
        if all((pair.read_ids() == VOID).all() for pair in found):
            raise UserError(
                f"{data}: all pixels of the split {split} are void ({VOID}): there is nothing to "
                "learn from or score on; mend the masks or labels.json"
            )
    if unknown := sum(pair.unknown for pair in every + validation):
        say(f"{data}: {unknown} mask pixels have a colour that is no label's: void")
    return Data(pairs, validation, labels)


def train(
    data: str,
    output: str,
    *,
    recipe: Recipe = RECIPES["default"],
    architecture: Mapping[str, Any] | None = None,
    freeze_backbone: bool = False,
    train_split: str = "train",
    val_split: str = "val",
    crop: tuple[int, int] = (320, 480),
    pad_small: bool = False,
    half: bool = False,
    patience: int | None = None,
    engine_choice: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> artifact.Description:
    """Trains on a data folder and writes a saved-model folder.

    The network that is saved is that of the epoch with the best validation mIoU.

    Args:
        data: see :mod:`model_build.dataset`.
        output: the saved-model folder; also gets what :mod:`model_build.checkpoints` and
            :mod:`model_build.plots` name, and ``tensorboard/``.
        recipe: how to train.
        architecture: arguments of :func:`model_build.fcn.fcn`.
        freeze_backbone: train the new layers only.
        train_split, val_split: names of the splits to train and to validate on.
        crop: (height, width) of the training crops in pixels, multiples of 32.
        pad_small: pad images smaller than the crop instead of dropping them.
        half: store the kernels as float16; the scores reported are those of the rounded network.
        patience: stop after so many epochs without a better validation mIoU.
        engine_choice, precision: see :func:`model_build.devices.engine`.
        seed: of the new layers' weights, the order and the crops.
        resume: go on from the last checkpoint in ``output``.
        say: gets lines for the user.

    Raises:
        UserError: for data, weights or folders that cannot serve, or a training that diverges.
        KeyboardInterrupt: after the state has been saved.
    """
    root = Path(output)
    checkpoint = checkpoints.latest(root)
    if resume and not checkpoint:
        raise UserError(f"{root}: holds no checkpoint to resume; leave --resume out")
    if checkpoint and not resume:
        if checkpoint[1]:
            raise UserError(
                f"{root}: holds a training that ended after {checkpoint[1]} epochs; "
                "add --resume to go on with it, or choose another --output"
            )
        checkpoint = None
    if not checkpoint and (root / artifact.DESCRIPTION).exists():
        raise UserError(f"{root}: holds a model already; choose another --output")
    if any(side <= 0 or side % STRIDE for side in crop):
        raise UserError(f"--crop {crop[0]}x{crop[1]}: sides must be multiples of {STRIDE}")
    where = strategy()
    replicas = where.num_replicas_in_sync
    jit, policy = engine(engine_choice, precision, replicas)
    network = {"backbone_name": "resnet50", "backbone_weights": "none"} | dict(architecture or {})
    weightless = network | {"backbone_weights": "none"}
    keras.utils.set_random_seed(seed)
    with where.scope(), dtype_policy(policy):
        # Made before all data is read, so that options that cannot serve are told early.
        labels = dataset.read_label_set(data)
        for split in (train_split, val_split):
            dataset.names(data, split)
        model, normalisation = fcn(len(labels), **weightless if checkpoint else network)
    read = read_data(data, labels, (train_split, val_split), crop, pad_small, say)
    check_replicas(recipe, len(read.pairs), replicas)
    say(f"computing in {policy} with {'XLA' if jit else 'graphs'} on {replicas} device(s)")

    done = checkpoint[1] if checkpoint else 0
    batches, steps = crops.training_crops(
        read.pairs,
        crop=crop,
        batch_size=recipe.batch_size,
        scales=recipe.scales,
        flip=recipe.flip,
        seed=seed,
        epochs=range(done, recipe.epochs),
    )
    validation = crops.whole_images(read.validation, multiple=STRIDE)
    with where.scope():
        weights = class_weights(read.pairs, len(labels), recipe.class_balance)
        compile_model(model, recipe, steps, freeze_backbone, weights, jit)
        if checkpoint:
            checkpoints.restore(model, checkpoint[0])
            say(f"{checkpoint[0]}: resumed after {done} epochs")
    if not checkpoint:
        # What is interrupted in its first epoch can be resumed too; and a folder that cannot be
        # written to is found before that epoch.
        checkpoints.save(model, root, 0)

    keeper = checkpoints.Keeper(root, done, patience)
    curves = keras.callbacks.TensorBoard(root / "tensorboard", write_graph=False)
    try:
        if done < recipe.epochs and keeper.worthwhile():
            model.fit(
                batches,
                epochs=recipe.epochs,
                initial_epoch=done,
                steps_per_epoch=steps,
                # Each replica scores the same image: Keras needs as many, all of one shape.
                validation_data=validation.map(
                    lambda *pair: [tf.repeat(x, replicas, 0) for x in pair]
                ),
                callbacks=[keeper, curves],
                shuffle=False,  # the dataset is shuffled already
                verbose=2,
            )
    except KeyboardInterrupt:
        # The epoch that was begun is run again as a whole, so what it has learnt is not kept.
        path, _ = checkpoints.latest(root) or (root, 0)
        say(f"{path}: saved; run the same command with --resume to go on")
        raise
    except tf.errors.ResourceExhaustedError:
        raise UserError(
            "out of memory; choose a smaller --crop or --batch-size (--accumulate makes up for it)"
        ) from None

    path, epoch = checkpoints.best(root)
    # Built anew: in float32, whatever the training computed in.
    model, _ = fcn(len(labels), **weightless)
    model.set_weights(keras.models.load_model(path, compile=False).get_weights())
    if half:
        for weight in model.weights:
            if len(weight.shape) > 1:
                weight.assign(np.array(weight).astype(np.float16))
    images = tf.TensorSpec([None, None, None, 3], tf.uint8)
    classify = tf.function(lambda images: tf.argmax(model(images), -1), [images])
    matrix = validate(classify, validation, len(labels))
    score = scores(matrix)
    training = {
        "data": Path(data).resolve().name,
        "train_split": train_split,
        "val_split": val_split,
        "images": len(read.pairs),
        "recipe": asdict(recipe),
        "architecture": network | {"backbone_weights": Path(network["backbone_weights"]).name},
        "crop": list(crop),
        "pad_small": pad_small,
        "freeze_backbone": freeze_backbone,
        "half": half,
        "precision": policy,
        "replicas": replicas,
        "seed": seed,
        "epoch": epoch,
        "val_images": len(read.validation),
        "val_pixel_accuracy": round(score.pixel_accuracy, 4),
        "val_miou": round(score.miou, 4),
    }
    description = artifact.Description(
        backbone=network["backbone_name"],
        labels=labels,
        normalisation=normalisation.to_json(),
        stride=STRIDE,
        long_side=max(max(pair.height, pair.width) for pair in read.pairs),
        parameters=0,
        training=training,
    )
    try:
        written = artifact.save(root, model, description, half=half)
        _draw(root, read, matrix, classify)
    except OSError as error:
        raise UserError(
            f"{root}: cannot be written: {error.strerror or first_line(error)}; mend that and run "
            "the same command with --resume"
        ) from None
    return written


def validate(classify: Callable, batches: tf.data.Dataset, classes: int) -> np.ndarray:
    """The confusion matrix ``[classes, classes]`` over a dataset of (images, ids) batches.

    Args:
        classify: uint8 images ``[n, h, w, 3]`` → class ids ``[n, h, w]``.
    """
    matrix = np.zeros((classes, classes), np.int64)
    for images, ids in batches:
        matrix += confusion_matrix(ids.numpy(), classify(images).numpy(), classes)
    return matrix


def _draw(root: Path, read: Data, matrix: np.ndarray, classify: Callable) -> None:
    """Writes the three pictures; ``matrix`` and ``classify`` are those of :func:`validate`."""
    from model_build import plots

    samples = []
    # From all over the split: neighbours may be frames of one film.
    shown = read.validation[:: max(1, len(read.validation) // SAMPLES)][:SAMPLES]
    for pair, (images, _) in zip(shown, crops.whole_images(shown, multiple=STRIDE), strict=True):
        seen = slice(pair.height), slice(pair.width)
        photo, prediction = images.numpy()[0][seen], classify(images).numpy()[0][seen]
        samples.append((photo, prediction.astype(np.uint8), pair.read_ids()))
    plots.draw_history(checkpoints.read_history(root), root / "training.png")
    plots.draw_confusion(matrix, read.labels.names, root / "confusion.png")
    plots.draw_samples(samples, read.labels, root / "samples.png")
