"""Measures images/s of training: only the input, only the network's step, and both.

    python benchmarks/training.py DATA [--backbone mobilenet_v2] [--steps 12] [--rounds 3]

The step is measured by precision and engine too; ``--engine auto`` and ``--precision auto`` of
``fcn-beam train`` rest on that. The variants alternate; medians are printed.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import click

VARIANTS = {
    "step, graph, float32": (False, "float32"),
    "step, graph, bfloat16": (False, "mixed_bfloat16"),
    "step, XLA, float32": (True, "float32"),
}


@click.command()
@click.argument("data")
@click.option("--backbone", default="mobilenet_v2", show_default=True)
@click.option("--split", default="train", show_default=True)
@click.option("--steps", default=12, show_default=True, help="Steps a round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--xla", is_flag=True, help="Measure XLA too; on a CPU that takes minutes.")
def main(data: str, backbone: str, split: str, steps: int, rounds: int, xla: bool) -> None:
    """Measure training."""
    from model_build.common.quiet_imports import import_tensorflow

    import_tensorflow()
    from model_build.data import crops
    from model_build.data.layouts import DataFolder
    from model_build.data.pairs import read_split
    from model_build.network.fcn import fcn
    from model_build.training.devices import dtype_policy
    from model_build.training.objective import compile_model
    from model_build.training.recipes import RECIPES

    recipe, crop = RECIPES["default"], (320, 480)
    folder = DataFolder(data)
    labels = folder.labels()
    pairs = read_split(folder, split, labels)
    batches, _ = crops.training_crops(
        pairs,
        crop=crop,
        batch_size=recipe.batch_size,
        scales=recipe.scales,
        flip=recipe.flip,
        epochs=range(1000),
    )
    images, ids = next(iter(batches))

    def network(jit: bool, policy: str) -> Any:
        with dtype_policy(policy):
            model, _ = fcn(len(labels), backbone)
        compile_model(model, recipe, steps, jit=jit)
        return model

    variants: dict[str, Callable[..., Any]] = {"input": lambda batch: batch}
    for name, (jit, policy) in VARIANTS.items():
        if xla or not jit:
            model = network(jit, policy)
            variants[name] = lambda model=model: model.train_on_batch(images, ids)
    both = network(False, "float32")
    variants["input and step, graph, float32"] = lambda batch: both.train_on_batch(*batch)

    rates: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(rounds + 1):
        for name, run in variants.items():
            # The input is read only where it is measured: it would fill its buffers meanwhile.
            stream = iter(batches) if name.startswith("input") else None
            if stream:
                next(stream)
            start = time.perf_counter()
            for _ in range(steps if round_number else 1):  # the first round compiles
                run(next(stream)) if stream else run()
            if round_number:
                seconds = time.perf_counter() - start
                rates[name].append(steps * recipe.batch_size / seconds)
    click.echo(
        f"{backbone}, crops of {crop[0]}x{crop[1]}, batches of {recipe.batch_size}, "
        f"{os.cpu_count()} CPUs ({platform.machine()}), {rounds} rounds of {steps} steps, medians"
    )
    for name, values in rates.items():
        click.echo(f"{name:<32}{statistics.median(values):6.1f} images/s")


if __name__ == "__main__":
    main()
