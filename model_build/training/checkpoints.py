"""What a training leaves behind after each epoch: a checkpoint and a row of its history.

::

    MODEL/checkpoints/epoch-NNN.keras      network and optimizer; the last epoch's and the best's;
                                           epoch-000 before there is any
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
    """The newest checkpoint and the number of epochs it has behind it, or None."""
    found = _found(output)
    return (found[max(found)], max(found)) if found else None


def starting_point(output: Path, resume: bool) -> tuple[Path, int] | None:
    """Where a training into a folder starts: after its :func:`latest` checkpoint, or anew (None).

    Raises:
        UserError: there is nothing to resume; or there is, or a model, and that was not asked for.
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
    """The checkpoint of the epoch that scored best in validation, and that epoch's number.

    Raises:
        UserError: there is none.
    """
    found = _found(output)
    # A row may be there of an epoch that was cut off before its checkpoint.
    epoch = best_epoch(read_history(output)[: max(found, default=0)])
    if epoch not in found:
        raise UserError(
            f"{output / 'checkpoints'}: no checkpoint of epoch {epoch}, the best one in "
            "history.csv; restore the file or train again"
        )
    return found[epoch], epoch


def save(model: keras.Model, output: Path, epochs: int) -> Path:
    """Writes network and optimizer as ``checkpoints/epoch-NNN.keras``, whole or not at all.

    Older checkpoints but the best one's are removed once the new one is in place.

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
    """Puts a checkpoint's weights and optimizer state into a compiled network of the same kind.

    The learning rate stays the network's own: a lower one is the remedy where a training diverged.

    Raises:
        UserError: the checkpoint is of a network or an optimizer of another kind.
    """
    try:
        saved = keras.models.load_model(path)
    except Exception as error:
        raise UserError(
            f"{path}: cannot be loaded ({first_line(error)}); train again into another --output"
        ) from None
    ours, theirs = model.optimizer.variables, saved.optimizer.variables
    try:
        if saved.name != model.name:  # dilation and skips that start at zero keep all shapes
            raise ValueError(f"it is for {saved.name}, not {model.name}")
        if len(ours) != len(theirs):
            raise ValueError("other layers were trained, or with another optimizer")
        model.set_weights(saved.get_weights())
        for variable, value in zip(ours, theirs, strict=True):
            if variable.name != "learning_rate":
                variable.assign(value)
    except ValueError as error:
        raise UserError(
            f"{path}: does not fit this command ({first_line(error)}); resume with the "
            "options that the training was started with"
        ) from None


class Keeper(keras.callbacks.Callback):
    """After each epoch a row of ``history.csv`` and a checkpoint; stops where it must.

    Args:
        output: the folder.
        done: epochs that are behind already.
        patience: epochs without a better validation mIoU after which the training stops.

    Raises:
        UserError: the loss is no longer a number.
    """

    def __init__(self, output: Path, done: int, patience: int | None = None):
        super().__init__()
        self.output, self.done, self.patience = output, done, patience
        self.rows = read_history(output)[:done]

    def worthwhile(self) -> bool:
        """Whether fewer than ``patience`` epochs have gone by since the best one."""
        return not self.patience or self.done - best_epoch(self.rows) < self.patience

    def on_train_batch_end(self, batch, logs=None):
        if logs:
            self._check(logs["loss"], "loss", batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        # An epoch's last step can spoil the weights after its loss was taken.
        self._check(logs["val_loss"], "validation loss", self.params["steps"])
        self.done = epoch + 1
        row = {"epoch": self.done} | {key: f"{value:.6g}" for key, value in logs.items()}
        self.rows.append(row)
        # The row comes first: which checkpoints stay depends on it, and a row too many, of an
        # epoch that was cut off here, is dropped on resuming.
        with (
            _whole(self.output / "history.csv", self.output) as scratch,
            open(scratch, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows(self.rows)
        save(self.model, self.output, self.done)
        self.model.stop_training = not self.worthwhile()

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
    """A name to write to; the file takes its place at ``path`` once it is whole."""
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
