"""Runs the job on local Flink clusters of one, two and four workers.

    python benchmarks/clusters.py photos/ [--limit 600] [--workers 1 --workers 2 --workers 4]

Each cluster has the given number of single-slot task managers, each with one Python worker, which
runs one stream of photos. Per cluster a job of a few photos warms up, then one of all photos is
measured. The running rate is that between a tenth and nine tenths of the masks; the time beyond
that rate is the fixed overhead. Memory is the peak of all Python workers together, shared pages
counted once. With more workers than cores it shows their cost, not their gain. Prints Markdown.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from peers import memory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where the tests' servers are

from tests.servers import flink

ROOT = Path(__file__).resolve().parent.parent
FEW = 8  # photos of the job that warms a cluster up: each of four workers may have some
INTERVAL = 1.0  # seconds between two looks at memory


class Run(NamedTuple):
    """The resources a job used."""

    seconds: float
    images_a_second: float  # as it ran
    peak: int  # bytes that its workers held


@click.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False))
@click.option("--limit", default=600, show_default=True, help="Only the first so many photos.")
@click.option("--workers", "counts", multiple=True, type=int, default=(1, 2, 4))
@click.option("--rounds", default=1, show_default=True)
def main(photos: str, limit: int, counts: tuple[int, ...], rounds: int) -> None:
    """Measure jobs on clusters of several sizes."""
    paths = sorted(str(path.resolve()) for path in Path(photos).glob("*.jpg"))[:limit]
    runs: dict[int, list[Run]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds):
            for count in counts:  # in turns: what else the machine does is no one's fault
                folder = Path(scratch, f"{number}-{count}")
                folder.mkdir()
                with flink.running(folder / "flink", task_managers=count) as cluster:
                    run(cluster, paths[:FEW], folder / "warm")
                    runs[count].append(run(cluster, paths, folder / "all"))
    click.echo(
        f"{len(paths)} photos, float32, {os.cpu_count()} CPUs ({platform.machine()}), "
        f"medians of {rounds}\n"
    )
    click.echo("| workers | seconds | images/s as it runs | fixed overhead, s | workers' GB |")
    click.echo("|---|---|---|---|---|")
    for count in counts:
        seconds, rate, peak = np.median(runs[count], axis=0)
        overhead = seconds - len(paths) / rate
        click.echo(f"| {count} | {seconds:.0f} | {rate:.1f} | {overhead:.0f} | {peak / 1e9:.1f} |")


def run(cluster: flink.Cluster, paths: Sequence[str], folder: Path) -> Run:
    """Runs the command on some photos, with the default model."""
    folder.mkdir()
    names = folder / "photos.txt"
    names.write_text("".join(f"{path}\n" for path in paths))
    # The workers' code is this checkout's.
    options = cluster.options(f"{sys.prefix}/bin/fcn-beam-worker", {"PYTHONPATH": str(ROOT)})
    command = [sys.executable, "-m", "pipeline", "segment", f"@{names}"]
    command += ["--output", str(folder / "out"), *options]
    start = time.perf_counter()
    with memory.watched(cluster.task_managers, INTERVAL) as peak:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise click.ClickException(done.stderr[-2000:])
    summary = json.loads((folder / "out/summary.json").read_text())
    assert summary["masks"] == len(paths), summary
    return Run(seconds, rate_of(folder / "out/masks"), peak[0])


def rate_of(masks: Path) -> float:
    """Masks a second, but for the first tenth and the last: workers start and end apart."""
    written = sorted(path.stat().st_mtime for path in masks.rglob("*.png"))
    tenth = len(written) // 10
    middle = written[tenth : len(written) - tenth]
    return (len(middle) - 1) / (middle[-1] - middle[0])


if __name__ == "__main__":
    main()
