"""Training recipes and their optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from model_build.common.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """A training recipe: the hyperparameters of a training.

    Attributes:
        optimizer: ``"sgd"`` or ``"adamw"``.
        learning_rate: of the new layers, per step on the mean loss.
        backbone_rate: factor on it for the pretrained backbone, for other layers from a trained
            network, and for the last upsampling if it is learned, as that starts as interpolation
            and not from noise; only with AdamW.
        weight_decay: decoupled, times the learning rate.
        schedule: ``"constant"``; or ``"cosine"`` or ``"poly"`` (power 0.9, as in DeepLab), both to
            zero, after a linear warm-up of 5 % of the steps.
        epochs: passes over the training split.
        batch_size: crops per step.
        accumulate: number of steps whose gradients are averaged into one update.
        freeze_batch_norm: do not update the backbone's batch norms, if batches are too small to
            estimate their statistics.
        scales: range of the random scale factor applied before the crop.
        flip: mirror half of the crops.
        class_balance: 0 to 1; a pixel's weight in the loss is its class's share of the training
            pixels to the power of minus this, so that the background does not outweigh rare
            classes.
    """

    optimizer: str
    learning_rate: float
    backbone_rate: float
    weight_decay: float
    schedule: str
    epochs: int
    batch_size: int
    accumulate: int
    freeze_batch_norm: bool
    scales: tuple[float, float]
    flip: bool
    class_balance: float


RECIPES = {
    "default": Recipe(
        optimizer="adamw",
        learning_rate=1e-3,
        backbone_rate=0.1,
        weight_decay=1e-2,
        schedule="cosine",
        epochs=12,
        batch_size=8,
        accumulate=1,
        freeze_batch_norm=True,
        scales=(0.75, 1.5),
        flip=True,
        class_balance=0.5,
    ),
    # For starting from a trained network: see docs/train-on-your-own-photos.md.
    "start": Recipe(
        optimizer="adamw",
        learning_rate=1e-3,
        backbone_rate=0.3,
        weight_decay=1e-2,
        schedule="cosine",
        epochs=20,
        batch_size=4,
        accumulate=1,
        freeze_batch_norm=True,
        scales=(0.75, 1.5),
        flip=True,
        class_balance=0.5,
    ),
    # Dive into Deep Learning, "Fully Convolutional Networks".
    "d2l": Recipe(
        optimizer="sgd",
        learning_rate=1e-3,
        backbone_rate=1.0,
        weight_decay=1e-3,
        schedule="constant",
        epochs=5,
        batch_size=32,
        accumulate=1,
        freeze_batch_norm=False,
        scales=(1.0, 1.0),
        flip=False,
        class_balance=0.0,
    ),
}


@keras.saving.register_keras_serializable("fcn_beam")
class AdamW(keras.optimizers.AdamW):
    """``keras.optimizers.AdamW`` with a smaller step for layers that do not start from noise.

    Args:
        slow: names of the layers that learn at ``slow_rate`` times the learning rate.
    """

    def __init__(self, *args, slow: tuple[str, ...] = (), slow_rate: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.slow, self.slow_rate = tuple(slow), slow_rate

    def update_step(self, gradient, variable, learning_rate):
        # The backend's variable has no path, but the optimizer's list of variables does.
        path = self._trainable_variables[self._get_variable_index(variable)].path
        slow = path.split("/")[0] in self.slow
        rate = learning_rate * self.slow_rate if slow else learning_rate
        super().update_step(gradient, variable, rate)

    def get_config(self):
        return {**super().get_config(), "slow": self.slow, "slow_rate": self.slow_rate}


@keras.saving.register_keras_serializable("fcn_beam")
class WarmupThenPoly(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up, then ``rate · left^0.9`` (Chen et al. 2017, section 4.1).

    ``left`` falls from 1 at the warm-up's end to 0 at the last step.

    Args:
        rate: the highest learning rate.
        warmup: steps to reach it, starting from a hundredth.
        steps: total number of steps, including the warm-up.
    """

    def __init__(self, rate: float, warmup: int, steps: int):
        self.rate, self.warmup, self.steps = rate, warmup, steps

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        rising = self.rate * (0.01 + 0.99 * step / self.warmup)
        left = keras.ops.clip((self.steps - step) / max(1, self.steps - self.warmup), 0, 1)
        return keras.ops.where(step < self.warmup, rising, self.rate * left**0.9)

    def get_config(self):
        return {"rate": self.rate, "warmup": self.warmup, "steps": self.steps}


def learning_rate(recipe: Recipe, steps: int) -> Any:
    """Returns a recipe's learning rate over ``steps`` batches: a number or a Keras schedule."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    warmup = max(1, steps // 20)
    if recipe.schedule == "poly":
        return WarmupThenPoly(recipe.learning_rate, warmup, steps)
    return keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate / 100,
        max(1, steps - warmup),
        warmup_target=recipe.learning_rate,
        warmup_steps=warmup,
    )


def optimizer(recipe: Recipe, steps: int, slow: tuple[str, ...]) -> keras.optimizers.Optimizer:
    """Creates the optimizer of a recipe.

    Args:
        steps: batches of the whole training, for the schedule.
        slow: names of the layers that learn at ``backbone_rate``.

    Raises:
        UserError: ``backbone_rate`` is set for SGD.
    """
    options = {
        "learning_rate": learning_rate(recipe, steps),
        "weight_decay": recipe.weight_decay,
        "gradient_accumulation_steps": recipe.accumulate if recipe.accumulate > 1 else None,
    }
    if recipe.optimizer == "sgd":
        if recipe.backbone_rate != 1:
            raise UserError(
                f"--backbone-rate {recipe.backbone_rate:g}: this recipe's optimizer, SGD, has one "
                "rate for all layers; leave it out or choose --recipe default"
            )
        return keras.optimizers.SGD(**options)
    return AdamW(**options, slow=slow, slow_rate=recipe.backbone_rate)
