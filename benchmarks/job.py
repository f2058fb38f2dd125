"""Compares images/s of the whole job and of the plain loop, on the same photos.

    python benchmarks/job.py photos/ [--limit 600] [--rounds 3] [--workers N …] [--model DIR]

Both are timed as users run them, in separate processes including start-up: the job with its
defaults, and with --workers if given; the loop is `benchmarks/loop.py`. They alternate; prints
medians, and the ratio to the loop for each round.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from model_build.artifact import DEFAULT_MODEL


@click.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False))
@click.option("--model", default=DEFAULT_MODEL)
@click.option("--limit", type=int, help="Only the first so many photos.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--workers", multiple=True, type=int, help="Besides the default; repeatable.")
def main(photos: str, model: str, limit: int | None, rounds: int, workers: tuple[int, ...]) -> None:
    """Measure the job and the loop on PHOTOS, a folder of JPEGs."""
    count = len(list(Path(photos).glob("*.jpg"))[:limit])
    limited = ["--model", model, "--limit", str(count)]
    job = [sys.executable, "-m", "pipeline", "segment", photos, *limited, "--output"]
    loop = [sys.executable, str(Path(__file__).parent / "loop.py"), photos, *limited]
    commands = {"the plain loop": loop, "the job, by its defaults": job}
    for number in workers:
        commands[f"the job, --workers {number}"] = [*job[:-1], "--workers", str(number), "--output"]
    rates: dict[str, list[float]] = {name: [] for name in commands}
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.getcwd()}
    for _ in range(rounds):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory() as out:
                start = time.perf_counter()
                subprocess.run([*command, out], check=True, capture_output=True, env=environment)
                rates[name].append(count / (time.perf_counter() - start))
                masks = len(list(Path(out).rglob("*.png")))
                assert masks == count, f"{name}: {masks} masks of {count} photos"
    click.echo(
        f"{count} photos, {os.cpu_count()} CPUs ({platform.machine()}), {rounds} rounds, medians "
        "of images/s, start-up included"
    )
    base = rates["the plain loop"]
    for name, values in rates.items():
        ratio = statistics.median(ours / theirs for ours, theirs in zip(values, base, strict=True))
        click.echo(
            f"{name:<26}{statistics.median(values):6.1f} (from {min(values):.1f} to "
            f"{max(values):.1f}), {ratio:.2f} times the loop"
        )


if __name__ == "__main__":
    main()
