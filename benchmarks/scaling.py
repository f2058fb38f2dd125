"""Estimates the cost of an archive: core-hours, object operations, shuffled bytes, shards.

    python benchmarks/scaling.py --core-ms 50 [--images 1000 --images 1000000] [--workers 16]

A model, not a measurement: of one figure that has been measured, what an image costs, and of the
records that travel through the graph, which are made and encoded here. It counts a first
run in a bucket; of a second one, with all masks there, what differs. It prints Markdown.
"""

from __future__ import annotations

import click
from apache_beam.coders import FastPrimitivesCoder

from pipeline.outputs import journal
from pipeline.outputs.shards import LISTED, RECORDS_PER_BATCH, ROWS, pack, shard_count
from pipeline.records import ImageRef, ProductFile, Row, Stamp, hash_of

PAGE = 1000  # objects that a store lists a request
NAME = "2026/11/25/camera-07/IMG_20261125_{:06}.jpg"
BUCKET = "gs://archive-of-photos/incoming"


@click.command()
@click.option("--core-ms", type=float, required=True, help="Of the whole job, an image.")
@click.option("--images", "counts", multiple=True, type=int, default=[10**n for n in range(3, 9)])
@click.option("--workers", default=16, show_default=True, help="Cores in all.")
def main(core_ms: float, counts: tuple[int, ...], workers: int) -> None:
    """Print the model."""
    click.echo(f"{core_ms:g} core-ms an image; {workers} cores\n")
    rows = {
        "core-hours": lambda n: f"{n * core_ms / 3.6e6:,.2f}",
        f"hours on {workers} cores": lambda n: f"{n * core_ms / 3.6e6 / workers:,.2f}",
        "list requests": lambda n: f"{pages(n):,}",
        "objects read": lambda n: f"{n:,}",
        "objects written": lambda n: f"{n + journals(n) + 2 * shard_count(n):,}",
        "objects deleted": lambda n: f"{journals(n):,}",
        "shuffled": lambda n: size(n * shuffled()[0]),
        "histogram shards": lambda n: f"{shard_count(n):,}",
        "rows a shard": lambda n: f"{n // shard_count(n):,}",
        "second run: list requests": lambda n: f"{2 * pages(n):,}",
        "second run: objects read": lambda n: f"{shard_count(n):,}",
        "second run: shuffled": lambda n: size(n * shuffled()[1]),
    }
    click.echo("| images | " + " | ".join(f"{n:,}" for n in counts) + " |")
    click.echo("|---|" + "---|" * len(counts))
    for name, value in rows.items():
        click.echo(f"| {name} | " + " | ".join(value(n) for n in counts) + " |")


def pages(images: int) -> int:
    """Number of list requests for a number of objects."""
    return -(-images // PAGE)


def journals(images: int) -> int:
    """Files of the journal, where bundles are large."""
    return -(-images // journal.ROWS_PER_FILE)


def shuffled() -> tuple[float, float]:
    """Bytes an image that are shuffled in a first run, and in one that finds its mask done."""
    rows = [row_of(number) for number in range(RECORDS_PER_BATCH)]
    paths = [row.image for row in rows]
    packs = [*pack(rows, ROWS), *pack(paths, LISTED)]
    grouped = [(row.mask, ImageRef(row.image, row.mask, row.source)) for row in rows]
    found = [(row.mask, part) for row in rows for part in (_mask_of(row), row)]
    first, again = encoded([*grouped, *packs]), encoded([*grouped, *found, *packs])
    return first / len(rows), again / len(rows)


def _mask_of(row: Row) -> ProductFile:
    return ProductFile("masks", row.mask.removeprefix("masks/"), row.written)


def row_of(number: int) -> Row:
    """The row of one of many photos."""
    name = NAME.format(number)
    hashes = [hash_of(f"{name}{what}".encode()) for what in ("photo", "mask")]
    return Row(
        f"{BUCKET}/{name}",
        f"masks/{name.replace('.jpg', '.png')}",
        6000,
        4000,
        {"background": 24_000_000 - 500 * number, "person": 400 * number, "car": 100 * number},
        Stamp(2_345_678 + number, f"{1764075662123456 + 17 * number}"),
        hashes[0],
        Stamp(51_234 + number, f"{1764075712654321 + 19 * number}"),
        hashes[1],
        "2" * 32,
    )


def encoded(records: list) -> int:
    """Bytes of records, as Beam encodes what has no coder of its own."""
    coder = FastPrimitivesCoder()
    return sum(len(coder.encode(record)) for record in records)


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


if __name__ == "__main__":
    main()
