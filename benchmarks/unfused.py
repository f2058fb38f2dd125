"""What TensorFlow executes of a network, as its exporter wrote it and folded: counts and times.

    python benchmarks/unfused.py [--model DIR] [--backbone NAME …] [--size 384x512] [--precision …]

For each network: how many convolutions run with their bias and activation as one operation and how
many alone, what else passes over features, and the dearest operations by a trace of the executed
graph, medians of several calls, one thread. Backbones have random weights, so that nothing is
downloaded: what can be folded does not depend on them.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import click
import numpy as np

from model_build.artifact import DEFAULT_MODEL

BACKBONES = ("MobileNetV2", "ResNet50", "EfficientNetB0", "DenseNet121", "ResNet50V2")
NO_WORK = ("Const", "_Arg", "_Retval", "_Send", "_Recv", "_HostSend", "_HostRecv", "NoOp")


class Trace(NamedTuple):
    """What was executed: operations by kind, and milliseconds a call by kind and by node."""

    operations: Counter
    kinds: dict[str, float]
    nodes: dict[str, float]


@click.command()
@click.option("--model", default=DEFAULT_MODEL)
@click.option("--backbone", "backbones", multiple=True, default=BACKBONES, help="Repeatable.")
@click.option("--size", default="384x512", show_default=True)
@click.option("--precision", default="float32", show_default=True)
@click.option("--calls", default=15, show_default=True)
@click.option("--dearest", default=12, show_default=True, help="So many operations are listed.")
def main(
    model: str,
    backbones: tuple[str, ...],
    size: str,
    precision: str,
    calls: int,
    dearest: int,
) -> None:
    """Trace networks."""
    from model_build.artifact import load
    from model_build.quiet import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    from pipeline.network.folding import fold
    from pipeline.network.segmenter import freeze, scores_of
    from pipeline.network.threads import set_threads

    set_threads()
    height, width = map(int, size.split("x"))
    networks: dict[str, Any] = {}
    network = load(model)
    images = tf.TensorSpec([1, None, None, 3], tf.uint8)
    body = freeze(scores_of(network), images)
    networks[f"{model}, body"] = body, network.description.stride
    for name in backbones:
        networks[name] = freeze(headless(name), images), 32
    image = np.random.default_rng(0).integers(0, 255, (1, height, width, 3), np.uint8)
    for name, (plain, stride) in networks.items():
        click.echo(f"\n{name}, {size}, {precision}")
        traces = {
            label: trace(tf, function, image, precision, calls)
            for label, function in (("as written", plain), ("folded", fold(plain, stride)))
        }
        for label, found in traces.items():
            fused = sum(n for op, n in found.operations.items() if op.startswith("_Fused"))
            alone = sum(found.operations[op] for op in ("Conv2D", "DepthwiseConv2dNative"))
            click.echo(
                f"  {label}: {sum(found.kinds.values()):.1f} ms in operations; "
                f"{fused} convolutions and products fused, {alone} convolutions alone"
            )
            rows = sorted(found.kinds.items(), key=lambda row: -row[1])[:dearest]
            for op, milliseconds in rows:
                click.echo(f"    {milliseconds:7.2f} ms  {found.operations[op]:4d} × {op}")
        left = unfused(traces["folded"])
        click.echo("  left unfused: " + (", ".join(left) or "nothing"))
        nodes = sorted(traces["folded"].nodes.items(), key=lambda row: -row[1])[:dearest]
        for node, milliseconds in nodes:
            click.echo(f"    {milliseconds:7.2f} ms  {node}")


def headless(name: str) -> Any:
    """A backbone of ``keras.applications`` with random weights: images → float32 features."""
    import keras
    import tensorflow as tf

    model = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(None, None, 3)
    )
    as_if_trained(model)

    def features(images: tf.Tensor) -> tf.Tensor:
        return model(tf.cast(images, tf.float32), training=False)

    return features


def as_if_trained(model: Any) -> None:
    """Gives batch norms random weights: the optimizer drops a bias of zero, and fuses less then."""
    import keras

    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1, value.shape) for value in layer.get_weights()])


def trace(tf: Any, function: Any, image: np.ndarray, precision: str, calls: int) -> Trace:
    """Runs a frozen function in a session of its own, which tells what it executed."""
    from pipeline.network.precision import optimizer

    settings = optimizer(precision)
    settings.intra_op_parallelism_threads = settings.inter_op_parallelism_threads = 1
    options = tf.compat.v1.RunOptions(
        trace_level=tf.compat.v1.RunOptions.FULL_TRACE, output_partition_graphs=True
    )
    graph = function.graph
    times: dict[str, list[float]] = defaultdict(list)
    with tf.compat.v1.Session(graph=graph, config=settings) as session:
        feeds = {function.inputs[0].name: image}
        outputs = [tensor.name for tensor in function.outputs]
        metadata = tf.compat.v1.RunMetadata()
        session.run(outputs, feeds, options, metadata)
        ops = {node.name: node.op for part in metadata.partition_graphs for node in part.node}
        for _ in range(calls):
            metadata = tf.compat.v1.RunMetadata()
            session.run(outputs, feeds, options, metadata)
            for device in metadata.step_stats.dev_stats:
                for node in device.node_stats:
                    took = node.op_end_rel_micros - node.op_start_rel_micros
                    times[node.node_name].append(took / 1000)
    nodes = {
        f"{_kind(ops[name])} {name}": statistics.median(values)
        for name, values in times.items()
        if name in ops
    }
    kinds: dict[str, float] = defaultdict(float)
    for key, milliseconds in nodes.items():
        kinds[key.partition(" ")[0]] += milliseconds
    operations = Counter(_kind(op) for op in ops.values() if op not in NO_WORK)
    return Trace(operations, dict(kinds), nodes)


def _kind(op: str) -> str:
    """An operation under the name it has without oneDNN, which rewrites some."""
    return op.replace("_MklNative", "_" if "Fused" in op else "")


def unfused(found: Trace, least: float = 0.05) -> list[str]:
    """What passes over features by itself and takes at least so many milliseconds in all."""
    rows = sorted(found.kinds.items(), key=lambda row: -row[1])
    return [
        f"{found.operations[op]} × {op} ({milliseconds:.2f} ms)"
        for op, milliseconds in rows
        if milliseconds >= least and not op.startswith("_Fused") and op not in ("BatchMatMulV2",)
    ]


if __name__ == "__main__":
    main()
