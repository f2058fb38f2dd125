"""Measures start-up: the phases before the first mask, and a whole job of a few photos.

    python benchmarks/starting.py examples/ [--rounds 5] [--other ../main]

Each phase is timed in a process that does nothing else, and each job is ``fcn-beam segment`` as
users start it, on the default model. Medians of the rounds are printed, the lowest and highest in
brackets. ``--other`` names another checkout of this project, which takes turns with this one.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import click

PHASES = """
import sys, tempfile, time
start = time.perf_counter()

def ended(phase):
    global start
    print(phase, time.perf_counter() - start, sep=";")
    start = time.perf_counter()

from model_build.common import quiet_imports
from contextlib import nullcontext
getattr(quiet_imports, "claim_process", int)()
with getattr(quiet_imports, "gc_paused", nullcontext)():
    import apache_beam
    ended("import Beam")
    from pipeline.segmentation import plan
    from pipeline.segmentation import run
    ended("import the jobs")
with tempfile.TemporaryDirectory() as scratch:
    planned = plan.plan(plan.Request(inputs=[sys.argv[1]], output=scratch))
ended("plan")
quiet_imports.import_tensorflow()
ended("import TensorFlow")
from pipeline.network import models, threads
threads.set_threads()
network = models.load(planned.engine.model, planned.out.files)
ended("load the model")
from pipeline.network.segmenter import Segmenter
how = planned.engine
segmenter = Segmenter(
    network, how.engine, how.batch_size, how.precision, how.tile, how.long_side
)
ended("build the network")
import numpy
for shape in ((1, 384, 512, 3), (1, 512, 384, 3)):
    segmenter(numpy.zeros(shape, numpy.uint8))
ended("first two shapes")
"""


@click.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False))
@click.option("--rounds", default=5, show_default=True)
@click.option("--other", type=click.Path(exists=True, file_okay=False), help="Another checkout.")
def main(photos: str, rounds: int, other: str | None) -> None:
    """Time the start of a job on PHOTOS, a folder of a few."""
    here = str(Path(__file__).resolve().parents[1])
    checkouts = {"this": here, **({"other": str(Path(other).resolve())} if other else {})}
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        for name, root in checkouts.items():
            given = root, str(Path(photos).resolve())
            seconds = {**phases(*given), **job(*given)}
            for phase, value in seconds.items() if number else ():  # the first fills the caches
                found[name, phase].append(value)
    click.echo(
        f"{os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}, "
        f"medians of {rounds} rounds, seconds"
    )
    for (name, phase), values in sorted(found.items(), key=lambda item: item[0][0], reverse=True):
        low, middle, high = min(values), statistics.median(values), max(values)
        click.echo(f"{name:<6} {phase:<28}{middle:6.2f} ({low:.2f}–{high:.2f})")


def phases(root: str, photos: str) -> dict[str, float]:
    """Seconds of each phase, in a process of their own."""
    command = [sys.executable, "-c", PHASES, photos]
    done = subprocess.run(
        command, env=_environment(root), cwd=root, capture_output=True, text=True, check=True
    )
    lines = (line.split(";") for line in done.stdout.splitlines())
    return {phase: float(seconds) for phase, seconds in lines}


def job(root: str, photos: str) -> dict[str, float]:
    """Seconds of a whole job: until its first mask, until its end, and those of its CPUs."""
    with tempfile.TemporaryDirectory() as scratch:
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
        command = [sys.executable, "-m", "pipeline", "segment", photos, "--output", f"{scratch}/o"]
        subprocess.run(
            command, env=_environment(root), cwd=root, stdout=subprocess.DEVNULL, check=True
        )
        ended, after = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
        first = min(path.stat().st_mtime for path in Path(scratch, "o/masks").rglob("*.png"))
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "job, to its first mask": first - began,
        "job, to its end": ended - began,
        "job, on all CPUs together": spent,
    }


def _environment(root: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": root}


if __name__ == "__main__":
    main()
