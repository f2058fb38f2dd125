"""The job beside its peers: images/s and peak memory on the same photos with the same network.

    make bench-peers INPUT=photos/ [ARGS="--limit 600 --rounds 3 --only ray"]

Each runs as its users run it, in a process of its own with all start-up, on the CPU. They take
turns, so that what else the machine does hits all of them; medians are printed as a Markdown table.
A first round that does not count fills the caches, and its masks are held against those of the job
in float32.
"""

from __future__ import annotations

import datetime
import itertools
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import click
import memory
import numpy as np
import shared
from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VENVS = ROOT / ".venv-peers"
WEIGHTS = "weights.npz"
JOB = ["-m", "pipeline", "segment"]
REFERENCE = "fcn-beam, float32"


class Peer(NamedTuple):
    """One line of the table.

    Attributes:
        name: what it is.
        package: the one whose version is reported.
        arguments: of Python, but for the photos and where masks go.
        venv: its environment below ``.venv-peers``; none for the project's own.
    """

    name: str
    package: str
    arguments: list[str]
    venv: str = ""

    @property
    def is_job(self) -> bool:
        return self.arguments[0] == "-m"

    @property
    def python(self) -> Path:
        return VENVS / self.venv / "bin/python" if self.venv else Path(sys.executable)


def scripts(name: str, package: str, script: str, settings: dict[str, str], venv: str = "") -> list:
    """A script of this folder with several settings, each a peer."""
    return [
        Peer(f"{name}{which}", package, [f"benchmarks/peers/{script}.py", *flags.split()], venv)
        for which, flags in settings.items()
    ]


PRECISIONS = {f", {name}": f"--precision {name}" for name in ("float32", "bfloat16")}
ACTORS = {
    ", one actor": f"--actors 1 --threads {shared.CORES}",
    ", an actor a core": f"--actors {shared.CORES}",
    ", an actor a core, bfloat16": f"--actors {shared.CORES} --precision bfloat16",
}
PEERS = [
    Peer("fcn-beam", "tensorflow", JOB),
    Peer(REFERENCE, "tensorflow", [*JOB, "--precision", "float32"]),
    Peer("plain loop, SavedModel", "tensorflow", ["benchmarks/loop.py"]),
    *scripts("plain loop, Keras model", "keras", "keras_call", {"": ""}),
    *scripts("Beam RunInference, one shape", "apache-beam", "run_inference", {"": ""}),
    *scripts("Ray Data", "ray", "ray_data", ACTORS, "ray"),
    *scripts("OpenVINO queue", "openvino", "openvino_queue", PRECISIONS, "openvino"),
    *scripts(
        "PyTorch loop",
        "torch",
        "torch_loop",
        {name: f"--weights {WEIGHTS} {flags}" for name, flags in PRECISIONS.items()},
        "torch",
    ),
]


class Run(NamedTuple):
    """One run's images/s and peak memory in bytes."""

    rate: float
    peak: int


class Failed(Exception):
    """Why a peer is left out."""


@click.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False))
@click.option("--limit", type=int, help="Only the first so many photos.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--only", multiple=True, metavar="TEXT", help="Peers named like this; repeatable.")
def main(photos: str, limit: int | None, rounds: int, only: tuple[str, ...]) -> None:
    """Measure the job and its peers on PHOTOS, a folder of JPEGs."""
    chosen = sorted(Path(photos).glob("*.jpg"))[:limit]
    if not chosen:
        raise click.UsageError(f"{photos}: holds no *.jpg; name a folder of photos")
    peers = [
        peer
        for peer in PEERS
        if not only
        or peer.name == REFERENCE
        or any(text.lower() in peer.name.lower() for text in only)
    ]
    title = heading(len(chosen), rounds)
    memory.adopt_orphans()
    runs: dict[str, list[Run]] = defaultdict(list)
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "photos").mkdir()
        for path in chosen:
            (folder / "photos" / path.name).symlink_to(path.resolve())
        if any(WEIGHTS in peer.arguments for peer in peers) and (reason := prepare(folder)):
            failures = {peer.name: reason for peer in peers if WEIGHTS in peer.arguments}
        for number, peer in itertools.product(range(rounds + 1), peers):
            if peer.name in failures:
                continue
            click.echo(f"round {number} of {rounds}: {peer.name}", err=True)
            out = folder / str(number) / peer.name
            try:
                run = measured(peer, folder, out, len(chosen))
            except Failed as failure:
                failures[peer.name] = str(failure)
                continue
            if number:
                runs[peer.name].append(run)
                shutil.rmtree(out)
        truth = folder / "0" / REFERENCE
        same = {name: agreement(truth, folder / "0" / name) for name in runs}
    click.echo(f"{title}\n\n{table(peers, runs, same, failures)}")


def heading(photos: int, rounds: int) -> str:
    """Describes the measurement: what, where and when."""
    return (
        f"{photos} photos; medians of {rounds} rounds; {cpu()}, {shared.CORES} cores, load "
        f"{os.getloadavg()[0]:.1f} before; Python {platform.python_version()}; "
        f"{datetime.date.today()}; `make bench-peers {os.environ.get('BENCH_PEERS', '')}`"
    )


def cpu() -> str:
    """The name of the CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^model name\s*: (.+)", text, re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()


def prepare(folder: Path) -> str:
    """Makes what users would make once: the weights as the PyTorch loop reads them.

    Returns:
        Why that failed, or nothing.
    """
    command = [sys.executable, str(HERE / "weights.py"), str(folder / WEIGHTS)]
    status, printed, _ = memory.run(command, ROOT, environment())
    return last_line(printed) if status else ""


def environment() -> dict[str, str]:
    """Environment: CPU only, no logs, the project importable, no usage reports of Ray."""
    return os.environ | {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def measured(peer: Peer, folder: Path, out: Path, count: int) -> Run:
    """Runs a peer on the photos in a folder; its masks are in ``out/masks``.

    Raises:
        Failed: it is not installed, ended with an error, or did not write all masks.
    """
    if peer.venv and not (VENVS / peer.venv / ".installed").exists():
        raise Failed(f"not installed: {last_line(VENVS / peer.venv / 'install.log')}")
    masks = out / "masks"
    masks.mkdir(parents=True)
    arguments = [argument.replace(WEIGHTS, str(folder / WEIGHTS)) for argument in peer.arguments]
    target = ["--output", str(out)] if peer.is_job else [str(masks)]
    command = [str(peer.python), *arguments, str(folder / "photos"), *target]
    start = time.perf_counter()
    status, printed, peak = memory.run(command, ROOT, environment())
    seconds = time.perf_counter() - start
    memory.clear()
    if status:
        raise Failed(f"ended with status {status}: {last_line(printed)}")
    written = len(list(masks.glob("*.png")))
    if written != count:
        raise Failed(f"wrote {written} masks of {count} photos: {last_line(printed)}")
    return Run(count / seconds, peak)


def last_line(text: str | Path) -> str:
    """The last line that says something, of a text or a file; of pip's, its last error."""
    if isinstance(text, Path):
        text = text.read_text(encoding="utf-8", errors="replace") if text.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["no message"])[-1].replace("|", "/")[:200]


def agreement(truth: Path, out: Path) -> float:
    """The share of pixels, over all masks, that have the same class in both folders."""
    same = total = 0
    for path in (truth / "masks").glob("*.png"):
        ours, theirs = (np.asarray(Image.open(one)) for one in (path, out / "masks" / path.name))
        same, total = same + int((ours == theirs).sum()), total + ours.size
    return same / total if total else float("nan")


def table(
    peers: list[Peer],
    runs: dict[str, list[Run]],
    same: dict[str, float],
    failures: dict[str, str],
) -> str:
    """Markdown: a line a peer, with what it took or why it is left out."""
    lines = [
        f"| | images/s | peak memory | pixels as {REFERENCE} | `python` … |",
        "|---|---|---|---|---|",
    ]
    for peer in peers:
        if peer.name in failures:
            cells = ["left out", "", failures[peer.name]]
        else:
            rates, peaks = zip(*runs[peer.name], strict=True)
            spread = f" ({min(rates):.1f}–{max(rates):.1f})" if len(rates) > 1 else ""
            peak = statistics.median(peaks)
            cells = [f"{statistics.median(rates):.1f}{spread}"]
            cells += [f"{peak / 1e9:.2f} GB" if peak else "", f"{100 * same[peer.name]:.2f} %"]
        command = " ".join(peer.arguments).replace(f"{HERE.relative_to(ROOT)}/", "")
        lines.append(f"| {' | '.join([version(peer), *cells, f'`{command}`'])} |")
    return "\n".join(lines)


def version(peer: Peer) -> str:
    """A peer's name, with the version of its package where it is installed."""
    code = f"from importlib.metadata import version; print(version({peer.package!r}))"
    try:
        found = subprocess.run([peer.python, "-c", code], capture_output=True, text=True)
    except OSError:
        return peer.name
    return f"{peer.name} ({peer.package} {found.stdout.strip()})" if found.stdout else peer.name


if __name__ == "__main__":
    main()
