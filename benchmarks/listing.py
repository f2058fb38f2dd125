"""How fast INPUT is listed, and with how much memory: local disk, and a store that invents names.

    python benchmarks/listing.py [--files 100000 --folders 1000] [--objects 1000000]
    python benchmarks/listing.py --only shares --objects 10000000
    python benchmarks/listing.py --only flink --files 1000 --objects 10000000

Each way is a process of its own: one worker, as for `--dry-run`; the shares of many workers, one
after another; and the first steps of the graph, up to the image references, which are counted: as
local runs have it, and as it lets many workers list, both in this machine's runner; and, only where
it is asked for, the latter on a Flink cluster of this machine, which is started for it. The store
is a process beside them that speaks Google's list interface and holds no names.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
from clusters import INTERVAL, ROOT
from peers import memory

from pipeline.inputs.listing import ListImages, ListOptions, list_source
from pipeline.inputs.parallel_listing import (
    MAX_SPLITS,
    Found,
    ListingUnit,
    first_units,
    list_unit,
)
from pipeline.records import Source
from pipeline.storage import Files
from tests.servers import flink as flinks
from tests.servers import invented
from tests.servers.stores import fake_gcs_environment

WAYS = ("alone", "units", "local", "spread", "flink")


@click.command()
@click.option("--files", default=100_000, show_default=True, help="Of local disk, empty.")
@click.option("--folders", default=1000, show_default=True, help="That hold them.")
@click.option("--objects", default=1_000_000, show_default=True, help="Of the store.")
@click.option("--only", type=click.Choice(WAYS), help="One way.")
def main(files: int, folders: int, objects: int, only: str | None) -> None:
    """Measure listings."""
    click.echo(f"{os.cpu_count()} CPUs ({platform.machine()})")
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch, "photos"), files, folders)
        report(f"{files:,} files in {folders:,} folders", f"{scratch}/photos", files, only)
        with invented.beside(Path(scratch), {"photos": objects}) as address:
            os.environ.update(fake_gcs_environment(address))
            report(f"{objects:,} objects below one prefix", "gs://invented", objects, only)


def make(where: Path, files: int, folders: int) -> None:
    """Makes empty files, evenly in folders."""
    for index in range(files):
        path = where / f"{index % folders:06d}" / f"{index:09d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def report(what: str, where: str, count: int, only: str | None) -> None:
    """Prints what each way takes."""
    for way in [globals()[only]] if only else [alone, shares, local, spread]:
        # A new process each, as the peak of a process never goes down.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found, seconds, peak = pool.submit(measured, way, where).result()
        assert found == count, f"{found} of {count} were found"
        click.echo(
            f"{what}, {way.__name__}: {seconds:.1f} s, {count / seconds:,.0f} a second, "
            f"peak memory {peak / 1e6:.0f} MB"
        )


def measured(way: Callable[[str], int], where: str) -> tuple[int, float, int]:
    """How many images a way finds, its seconds, and its process's peak memory in bytes."""
    start = time.perf_counter()
    found = way(where)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found, time.perf_counter() - start, peak


def alone(where: str) -> int:
    """Lists a folder from beginning to end."""
    return sum(1 for _ in list_source(Source("folder", where, where), ListOptions(where), Files()))


def shares(where: str) -> int:
    """Lists a folder share by share, level by level; prints what shares there are."""
    files, seen, number = Files(), 0, 0
    left = list(first_units(Source("folder", where, where), files))
    for level in range(MAX_SPLITS + 1):
        sizes, further = [], []
        for share in left:
            size = 0
            for found in list_unit(share, files, to_the_end=level == MAX_SPLITS):
                if isinstance(found, ListingUnit):
                    further.append(found)
                elif isinstance(found, Found):
                    size += 1
                    number += int(found.file.path[-13:-4])
            sizes.append(size)
        if sizes:
            click.echo(f"level {level}: {len(sizes):,} shares, the largest of {max(sizes):,}")
        seen, left = seen + sum(sizes), further
    assert number == seen * (seen - 1) // 2, "a file is missing, or there twice"
    return seen


def local(where: str) -> int:
    """Lists a folder as the graph of a local run does."""
    return by_the_graph(where, ListOptions(where, spread=False))


def spread(where: str) -> int:
    """Lists a folder as the graph does where many workers list."""
    return by_the_graph(where, ListOptions(where))


def flink(where: str) -> int:
    """The same on a cluster of two workers; prints what it takes once the cluster is up."""
    variables = {"PYTHONPATH": str(ROOT)}
    variables |= {k: v for k, v in os.environ.items() if k.startswith(("STORAGE_", "GCSFS_"))}
    with tempfile.TemporaryDirectory() as scratch, flinks.running(Path(scratch)) as cluster:
        options = cluster.options(f"{sys.prefix}/bin/fcn-beam-worker", variables)
        options.remove("--shared-disk")
        options += ["--parallelism", str(len(cluster.task_managers))]
        start = time.perf_counter()
        with memory.watched(cluster.task_managers, INTERVAL) as peak:
            found = by_the_graph(where, ListOptions(where), options)
        seconds = time.perf_counter() - start
    click.echo(f"job on Flink: {seconds:.1f} s, its workers {peak[0] / 1e6:.0f} MB at most")
    return found


def by_the_graph(
    where: str, options: ListOptions, runner: Sequence[str] = ("--runner", "FnApiRunner")
) -> int:
    """Runs the first steps of the graph, and adds up the numbers in the names."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    with tempfile.TemporaryDirectory() as scratch:
        total = Path(scratch, "total")
        with beam.Pipeline(options=PipelineOptions([*runner])) as pipeline:
            sources = pipeline | beam.Create([Source("folder", where, where)])
            images, _, _ = sources | ListImages(options, Files())
            _ = (
                images
                | beam.Map(lambda image: (1, int(image.path[-13:-4])))
                | beam.CombineGlobally(
                    lambda pairs: tuple(map(sum, zip((0, 0), *pairs, strict=True)))
                )
                | beam.Map(lambda sums: total.write_text("{} {}".format(*sums)))
            )
        found, number = map(int, total.read_text().split())
    assert number == found * (found - 1) // 2, "a file is missing, or there twice"
    return found


if __name__ == "__main__":
    main()
