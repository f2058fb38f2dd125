"""Seconds of the whole job on stores beside those on local disk, start-up included.

    python benchmarks/stores.py photos/ [--limit 100] [--rounds 3]

s3:// is moto and gs:// is fake-gcs-server, both on this machine; "+ 50 ms" is the same server
behind a proxy that holds back each request. The variants alternate on the same photos; medians are
printed, and the ratio to the local run round by round.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click

from pipeline.storage import Files
from pipeline.storage.stores import table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where the tests' servers are

from tests.servers import stores

LATENCY = 0.05  # seconds


@contextlib.contextmanager
def slow(address: str) -> Iterator[str]:
    """A proxy that holds back what a client sends after a pause, which is a request, by 50 ms."""
    host, port = address.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def pump(source: socket.socket, sink: socket.socket, pause: float) -> None:
        answered = time.monotonic() - 1
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if pause and time.monotonic() - answered > 0.001:
                    time.sleep(pause)
                sink.sendall(data)
                answered = time.monotonic()
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                threading.Thread(target=pump, args=(client, server, LATENCY), daemon=True).start()
                threading.Thread(target=pump, args=(server, client, 0.0), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


@click.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False))
@click.option("--limit", default=100, show_default=True, help="Only the first so many photos.")
@click.option("--rounds", default=3, show_default=True)
def main(photos: str, limit: int, rounds: int) -> None:
    """Measure the job on local disk and on stores."""
    paths = sorted(Path(photos).glob("*.jpg"))[:limit]
    program = stores.fake_gcs_program()
    if program is None:
        raise click.ClickException(stores.NO_FAKE_GCS)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        here = scratch / "photos"
        here.mkdir()
        for path in paths:
            (here / path.name).write_bytes(path.read_bytes())
        moto = stack.enter_context(stores.moto(scratch))
        gcs = stack.enter_context(stores.fake_gcs(scratch, program))
        stores.make_moto_bucket(moto, "bucket")
        stores.make_gcs_bucket(gcs, "bucket")
        slow_moto, slow_gcs = (stack.enter_context(slow(address)) for address in (moto, gcs))
        variants: dict[str, tuple[str, dict[str, str]]] = {
            "local disk": (str(scratch), {}),
            "gs": ("gs://bucket", stores.fake_gcs_environment(gcs)),
            "s3": ("s3://bucket", stores.moto_environment(moto)),
            "gs + 50 ms": ("gs://bucket", stores.fake_gcs_environment(slow_gcs)),
            "s3 + 50 ms": ("s3://bucket", stores.moto_environment(slow_moto)),
        }
        for name in ("gs", "s3"):
            root, environment = variants[name]
            os.environ.update(environment)
            table._open.cache_clear()
            for path in paths:
                Files().write(f"{root}/photos/{path.name}", path.read_bytes())
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for number in range(rounds):
            for index, (name, (root, environment)) in enumerate(variants.items()):
                out = f"{root}/out-{index}-{number}"
                command = [sys.executable, "-m", "pipeline", "segment", f"{root}/photos"]
                start = time.perf_counter()
                subprocess.run(
                    [*command, "--output", out],
                    check=True,
                    capture_output=True,
                    env=os.environ | environment | {"PYTHONPATH": os.getcwd()},
                )
                seconds[name].append(time.perf_counter() - start)
    click.echo(
        f"{len(paths)} photos, {os.cpu_count()} CPUs ({platform.machine()}), {rounds} rounds, "
        "medians of seconds, start-up included"
    )
    for name, values in seconds.items():
        base = zip(values, seconds["local disk"], strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in base)
        click.echo(f"{name:<12}{statistics.median(values):6.1f}  {ratio:.2f} times local disk")


if __name__ == "__main__":
    main()
