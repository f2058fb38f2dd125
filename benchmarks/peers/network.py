"""Compares networks in this project and in OpenVINO's throughput mode: speed, share of the peak.

    python benchmarks/peers/network.py [--rounds 7] [--images 32] [--precision NAME …]
        [--network NAME …]

The default model at 384×512 and an FCN-32s on ResNet-50 with random weights at 320×480, from a
photo's pixels to its class map. OpenVINO gets the size fixed, as its users would where all images
are of one. Each variant is a process that loads, warms up and then measures when it is told to, so
they take turns; medians are printed as Markdown. The peak is that of a large matrix product of
TensorFlow's in as many single threads, and is measured in turn with them, as the machine's speed
may change. `make bench-peers` sets up OpenVINO's environment.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import shared
from PIL import Image

ROOT = Path(__file__).parents[2]
PRECISIONS = ("float32", "bfloat16")
NETWORKS = {
    "default": ("default model", 384, 512),
    "resnet": ("FCN-32s on ResNet-50", 320, 480),
}
SIDE = 2048  # of the matrices whose product is taken for the peak
PRODUCTS = 8

Round = Callable[[], object]


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--images", type=int, default=32, help="in a round")
    options.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    options.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    given = options.parse_args()
    print("| | engine | images/s | core-ms an image | times OpenVINO | of the peak |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for key in given.network:
            name, height, width = NETWORKS[key]
            folder = str(shared.MODEL)
            if key == "resnet":
                folder = f"{scratch}/resnet"
                run("build", folder)
            operations = int(run("count", folder, height, width))
            for precision in given.precision:
                compare(name, folder, (height, width), precision, operations, given)


def compare(name, folder, size, precision, operations, given) -> None:
    """Prints the lines of one network in one precision."""
    arguments = [folder, *size, precision, given.images]
    variants = {role: start(role, *arguments) for role in ("peak", "graph", "openvino")}
    rates: dict[str, list[tuple[float, float]]] = {role: [] for role in variants}
    for _ in range(given.rounds):
        for role, child in variants.items():
            child.stdin.write("go\n")
            child.stdin.flush()
            seconds, cores = map(float, child.stdout.readline().split())
            rates[role].append((seconds, cores))
    for child in variants.values():
        child.communicate()
    peak = [PRODUCTS * shared.CORES * 2 * SIDE**3 / seconds for seconds, _ in rates.pop("peak")]
    theirs = statistics.median(seconds for seconds, _ in rates["openvino"])
    for role, rows in rates.items():
        seconds, cores = (statistics.median(column) for column in zip(*rows, strict=True))
        share = statistics.median(
            given.images * operations / took / most
            for (took, _), most in zip(rows, peak, strict=True)
        )
        print(
            f"| {name}, {size[0]}×{size[1]}, {precision} | {role} | {given.images / seconds:.1f} | "
            f"{1000 * cores / given.images:.1f} | {theirs / seconds:.2f} | {100 * share:.0f} % |",
            flush=True,
        )


def command(role: str, *arguments) -> tuple[list[str], dict[str, str]]:
    python = ROOT / ".venv-peers/openvino/bin/python" if role == "openvino" else sys.executable
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    environment = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"}
    return [str(python), __file__, "as", role, *map(str, arguments)], environment


def run(role: str, *arguments) -> str:
    """The last line that a piece of work prints in a process of its own."""
    words, environment = command(role, *arguments)
    done = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip().rpartition("\n")[2]


def start(role: str, *arguments) -> subprocess.Popen:
    """A process that is ready to measure."""
    words, environment = command(role, *arguments)
    pipe = subprocess.PIPE
    child = subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe, text=True)
    assert child.stdout is not None
    if child.stdout.readline() != "ready\n":
        raise SystemExit(f"{role}: cannot be measured; see above")
    return child


# In processes of their own


def measure(work: Round) -> None:
    """Measures a round of work for each line of standard input."""
    work()
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter(), time.process_time()
        work()
        took = time.perf_counter() - begin[0], time.process_time() - begin[1]
        print(*took, flush=True)


def in_streams(work: Round, times: int) -> Round:
    """Repeats a piece of work in one thread per core."""

    pool = ThreadPoolExecutor(shared.CORES)  # whose threads stay, as those of a job do

    def stream(_: int) -> None:
        for _ in range(times // shared.CORES):
            work()

    return lambda: list(pool.map(stream, range(shared.CORES)))


def photo(height: str, width: str) -> np.ndarray:
    """A photo: how long finding its classes takes depends on what they are."""
    image = Image.open(ROOT / "examples/astronaut.jpg")
    return np.asarray(image.resize((int(width), int(height))))[None]


def by_tensorflow(folder: str, height: str, width: str, precision: str, images: str):
    from model_build.common.quiet_imports import import_tensorflow

    import_tensorflow()
    from classmaps import loaded

    from pipeline.network.segmenter import Segmenter
    from pipeline.network.threads import set_threads

    set_threads()
    segmenter = Segmenter(loaded(folder), precision=precision, long_side=512)
    image = photo(height, width)
    measure(in_streams(lambda: segmenter(image), int(images)))


def by_openvino(folder: str, height: str, width: str, precision: str, images: str) -> None:
    import openvino as ov
    from openvino_queue import HINTS, network

    model = network(f"{folder}/saved_model", int(height), int(width))
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": HINTS[precision]}
    queue = ov.AsyncInferQueue(ov.compile_model(model, "CPU", settings))
    image = photo(height, width)

    def work() -> None:
        for _ in range(int(images)):
            queue.start_async([image])
        queue.wait_all()

    measure(work)


def peak(folder: str, height: str, width: str, precision: str, images: str) -> None:
    from model_build.common.quiet_imports import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    from pipeline.network.threads import set_threads

    set_threads()
    matrix = tf.cast(tf.random.normal((SIDE, SIDE)), precision)
    # On a CPU an operation is done when its call returns.
    measure(in_streams(lambda: tf.linalg.matmul(matrix, matrix), PRODUCTS * shared.CORES))


def build(folder: str) -> None:
    """Saves an FCN-32s on ResNet-50 with random weights."""
    from unfused import as_if_trained

    from model_build.artifact import Description, save
    from model_build.data.labels import VOC
    from model_build.network.fcn import fcn

    model, normalisation = fcn(len(VOC), "resnet50")
    as_if_trained(model)
    save(folder, model, Description("resnet50", VOC, normalisation.to_json(), 32, 500, 0))


def count(folder: str, height: str, width: str) -> None:
    """Prints how many floating-point operations a network's convolutions and products take."""
    from model_build.common.quiet_imports import import_tensorflow

    import_tensorflow()
    import tensorflow as tf
    from classmaps import loaded

    images = tf.TensorSpec([1, int(height), int(width), 3], tf.uint8)
    graph = tf.compat.v1.wrap_function(loaded(folder).functions.scores, [images]).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    print(tf.compat.v1.profiler.profile(graph, options=options).total_float_ops)


ROLES = {
    "graph": by_tensorflow,
    "openvino": by_openvino,
    "peak": peak,
    "build": build,
    "count": count,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["as"]:
        ROLES[sys.argv[2]](*sys.argv[3:])
    else:
        main()
