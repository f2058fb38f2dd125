"""Saves a checkpoint and a row of the history after each epoch, and restores them.

::

    MODEL/checkpoints/epoch-NNN.keras      network and optimizer of the last and the best epoch;
                                           epoch-000 before the first
    MODEL/history.csv                      one row an epoch
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import keras

from model_build import artifact
from model_build.common.errors import UserError, cause, first_line
from model_build.training.history import best_epoch, read_history

NAME = re.compile(r"epoch-(\d+)\.keras")


def latest(output: Path) -> tuple[Path, int] | None:
    """Returns the newest checkpoint and its number of completed epochs, or None."""
    found = _found(output)
    return (found[max(found)], max(found)) if found else None


def starting_point(output: Path, resume: bool) -> tuple[Path, int] | None:
    """Returns the checkpoint to resume a training from, or None for a new training.

    Raises:
        UserError: ``resume`` without a checkpoint; or the folder has a checkpoint or a model and
            ``resume`` is False.
    """
    found = latest(output)
    if resume and not found:
        raise UserError(f"{output}: no checkpoint to resume from; leave --resume out")
    if found and not resume:
        if found[1]:
            raise UserError(
                f"{output}: has a training run that stopped after epoch {found[1]}; "
                "add --resume to continue it, or choose another --output"
            )
        found = None
    if not found and (output / artifact.DESCRIPTION).exists():
        raise UserError(f"{output}: already contains a model; choose another --output")
    return found


def best(output: Path) -> tuple[Path, int]:
    """Returns the checkpoint of the epoch with the best validation score, and its number.

    Raises:
        UserError: there is no checkpoint.
    """
    found = _found(output)
    # The history may have a row of an epoch that was interrupted before its checkpoint.
    epoch = best_epoch(read_history(output)[: max(found, default=0)])
    if epoch not in found:
        raise UserError(
            f"{output / 'checkpoints'}: no checkpoint of epoch {epoch}, the best one in "
            "history.csv; restore the file or train again"
        )
    return found[epoch], epoch


def save(model: keras.Model, output: Path, epochs: int) -> Path:
    """Writes network and optimizer atomically as ``checkpoints/epoch-NNN.keras``.

    Afterwards older checkpoints, except the best one, are removed.

    Raises:
        UserError: the file cannot be written.
    """
    path = output / "checkpoints" / f"epoch-{epochs:03d}.keras"
    with _whole(path, output) as scratch:
        model.save(scratch)
    kept = best_epoch(read_history(output))
    for epoch, old in _found(output).items():
        if epoch not in (epochs, kept):
            old.unlink(missing_ok=True)
    return path


def restore(model: keras.Model, path: Path) -> None:
    """Loads a checkpoint's weights and optimizer state into a compiled network.

    The learning rate is not restored: lowering it is the remedy for a training that diverged.

    Raises:
        UserError: the checkpoint is from another network or optimizer.
    """
    try:
        saved = keras.models.load_model(path)
    except Exception as error:
        raise UserError(
            f"{path}: cannot be loaded ({first_line(error)}); train again into another --output"
        ) from None
    own, restored = model.optimizer.variables, saved.optimizer.variables
    try:
        # Shapes alone do not show dilation, nor skips that start at zero.
        if saved.name != model.name:
            raise ValueError(f"it is for {saved.name}, not {model.name}")
        if len(own) != len(restored):
            raise ValueError("other layers were trained, or with another optimizer")
        model.set_weights(saved.get_weights())
        for variable, value in zip(own, restored, strict=True):
            if variable.name != "learning_rate":
                variable.assign(value)
    except ValueError as error:
        raise UserError(
            f"{path}: does not fit this command ({first_line(error)}); resume with the "
            "options that the training was started with"
        ) from None


class CheckpointEachEpoch(keras.callbacks.Callback):
    """Writes a row of ``history.csv`` and a checkpoint after each epoch; stops when necessary.

    Args:
        output: the folder of the training.
        done: number of epochs already completed.
        patience: epochs without a better validation mIoU after which the training stops.

    Raises:
        UserError: the loss is not finite.
    """

    def __init__(self, output: Path, done: int, patience: int | None = None):
        super().__init__()
        self.output, self.done, self.patience = output, done, patience
        self.rows = read_history(output)[:done]

    def has_patience(self) -> bool:
        """Whether fewer than ``patience`` epochs have passed since the best one."""
        return not self.patience or self.done - best_epoch(self.rows) < self.patience

    def on_train_batch_end(self, batch, logs=None):
        if logs:
            self._check(logs["loss"], "loss", batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        # The last step of an epoch can ruin the weights after its loss was computed.
        self._check(logs["val_loss"], "validation loss", self.params["steps"])
        self.done = epoch + 1
        row = {"epoch": self.done} | {key: f"{value:.6g}" for key, value in logs.items()}
        self.rows.append(row)
        # The row is written first, as it decides which checkpoints are kept; if the epoch is
        # interrupted here, the extra row is dropped on resuming.
        with (
            _whole(self.output / "history.csv", self.output) as scratch,
            open(scratch, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows(self.rows)
        save(self.model, self.output, self.done)
        self.model.stop_training = not self.has_patience()

    def _check(self, loss: float, name: str, step: int) -> None:
        if math.isfinite(loss):
            return
        kept = latest(self.output)
        remedy = "train again with a lower --learning-rate"
        if kept and kept[1]:
            remedy = f"add --resume and a lower --learning-rate to continue from {kept[0]}"
        raise UserError(
            f"{self.output}: training diverged: the {name} is {loss} at step {step} of epoch "
            f"{self.done + 1}; {remedy}"
        )


def _found(output: Path) -> dict[int, Path]:
    return {
        int(match[1]): path
        for path in (output / "checkpoints").glob("epoch-*.keras")
        if (match := NAME.fullmatch(path.name))
    }


@contextlib.contextmanager
def _whole(path: Path, output: Path) -> Iterator[Path]:
    """Yields a temporary name to write to, and moves the complete file to ``path``."""
    scratch = path.with_name(f"unfinished{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        os.replace(scratch, path)
    except OSError as error:
        kept = latest(output)
        again = f"with --resume ({kept[0]} is complete)" if kept else "again"
        raise UserError(
            f"{path}: cannot be written: {cause(error)}; fix that (free some "
            f"space, for example) and run the same command {again}"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()
