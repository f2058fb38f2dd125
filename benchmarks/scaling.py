"""What an archive takes: core-hours, object operations, bytes that are shuffled, shards.

    python benchmarks/scaling.py --core-ms 50 [--images 1000 --images 1000000] [--workers 16]

A model, not a measurement: of one figure that has been measured, what an image costs, and of the
records that travel through the graph, which are made and encoded here. It counts a first
run in a bucket; of a second one, with all masks there, what differs. It prints Markdown.
"""

from __future__ import annotations

import click
from apache_beam.coders import FastPrimitivesCoder

from pipeline.outputs.journal import ROWS
from pipeline.outputs.shards import line_of, shard_count
from pipeline.records import ImageRef, MaskRef, Row, Stamp

PAGE = 1000  # objects that a store lists a request
NAME = "2026/11/25/camera-07/IMG_20261125_120102.jpg"
BUCKET = "gs://archive-of-photos/incoming"


@click.command()
@click.option("--core-ms", type=float, required=True, help="Of the whole job, an image.")
@click.option("--images", "counts", multiple=True, type=int, default=[10**n for n in range(3, 9)])
@click.option("--workers", default=16, show_default=True, help="Cores in all.")
def main(core_ms: float, counts: tuple[int, ...], workers: int) -> None:
    """Print the model."""
    first, again = shuffled()
    click.echo(
        f"{core_ms:g} core-ms an image; shuffled: {first} bytes an image in a first run, "
        f"{again} in one that finds all masks done; {workers} cores\n"
    )
    rows = {
        "core-hours": lambda n: f"{n * core_ms / 3.6e6:,.2f}",
        f"hours on {workers} cores": lambda n: f"{n * core_ms / 3.6e6 / workers:,.2f}",
        "list requests": lambda n: f"{pages(n):,}",
        "objects read": lambda n: f"{n:,}",
        "objects written": lambda n: f"{n + journals(n) + 2 * shard_count(n):,}",
        "objects deleted": lambda n: f"{journals(n):,}",
        "shuffled": lambda n: size(n * first),
        "histogram shards": lambda n: f"{shard_count(n):,}",
        "rows a shard": lambda n: f"{n // shard_count(n):,}",
        "second run: list requests": lambda n: f"{2 * pages(n):,}",
        "second run: objects read": lambda n: f"{shard_count(n):,}",
        "second run: shuffled": lambda n: size(n * again),
    }
    click.echo("| images | " + " | ".join(f"{n:,}" for n in counts) + " |")
    click.echo("|---|" + "---|" * len(counts))
    for name, value in rows.items():
        click.echo(f"| {name} | " + " | ".join(value(n) for n in counts) + " |")


def pages(images: int) -> int:
    """List requests for so many objects."""
    return -(-images // PAGE)


def journals(images: int) -> int:
    """Files of the journal, where bundles are large."""
    return -(-images // ROWS)


def shuffled() -> tuple[int, int]:
    """Bytes an image that are shuffled in a first run, and in one that finds its mask done."""
    path, mask = f"{BUCKET}/{NAME}", NAME.replace(".jpg", ".png")
    stamp, put = Stamp(2_345_678, "1764075662123456"), Stamp(51_234, "1764075712654321")
    pixels = {"background": 4_000_000, "person": 500_000, "car": 123_456}
    row = Row(path, f"masks/{mask}", 6000, 4000, pixels, stamp, "0" * 64, put, "1" * 64, "2" * 64)
    grouped = [(NAME, ImageRef(path, NAME, stamp))]
    by_shard = [(7, (path, line_of(row))), (7, path)]
    found = [(NAME, MaskRef(mask, put)), (NAME, row)]
    first, again = encoded([*grouped, *by_shard]), encoded([*grouped, *found, *by_shard])
    return first, again


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
