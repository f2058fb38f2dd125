"""Counts and times the operations that TensorFlow executes, as Keras writes them and exported.

    python benchmarks/unfused.py [--model DIR] [--backbone NAME …] [--size 384x512] [--precision …]

From pixels to scores, for each network: how many convolutions are fused with their bias and
activation and how many are not, which other operations pass over features, and the most expensive
operations in a trace of the executed graph, medians of several calls, one thread. MODEL is written
by ``fcn-beam train``. Backbones get random weights, so that nothing is downloaded: fusion does not
depend on them.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import click
import numpy as np
from classmaps import loaded

from model_build.artifact import DEFAULT_MODEL, describe

BACKBONES = ("mobilenet_v2", "resnet50", "efficientnet_b0", "densenet121", "resnet50_v2")
NO_WORK = ("Const", "_Arg", "_Retval", "_Send", "_Recv", "_HostSend", "_HostRecv", "NoOp")
LEAST = 0.05  # milliseconds of a kind of operation that is listed as unfused

Scores = Callable[[Any], Any]  # of images, where TensorFlow builds a graph


class Trace(NamedTuple):
    """The executed operations by kind, and milliseconds per call by kind and by node."""

    operations: Counter
    kinds: dict[str, float]
    nodes: dict[str, float]


@click.command()
@click.option("--model", default=DEFAULT_MODEL)
@click.option("--backbone", "backbones", multiple=True, default=BACKBONES, help="Repeatable.")
@click.option("--size", default="384x512", show_default=True)
@click.option("--precision", default="float32", show_default=True)
@click.option("--calls", default=15, show_default=True)
@click.option("--most", default=12, show_default=True, help="How many operations are listed.")
def main(
    model: str,
    backbones: tuple[str, ...],
    size: str,
    precision: str,
    calls: int,
    most: int,
) -> None:
    """Trace networks."""
    from model_build.common.quiet_imports import import_tensorflow

    import_tensorflow()
    height, width = map(int, size.split("x"))
    image = np.random.default_rng(0).integers(0, 255, (1, height, width, 3), np.uint8)
    for name in (model, *backbones):
        click.echo(f"\n{name}, {size}, {precision}")
        keras_scores, scores = of_folder(model) if name == model else of_backbone(name)
        traced(keras_scores, image, precision, calls, most, "as Keras writes it")
        exported = traced(scores, image, precision, calls, most, "exported")
        click.echo("  left unfused: " + (", ".join(unfused(exported)) or "nothing"))
        nodes = sorted(exported.nodes.items(), key=lambda row: -row[1])[:most]
        for node, milliseconds in nodes:
            click.echo(f"    {milliseconds:7.2f} ms  {node}")


def of_folder(folder: str) -> tuple[Scores, Scores]:
    """A saved model's scores, by Keras and as a job computes them."""
    from model_build.network.fcn import Architecture, fcn
    from model_build.training.variables import load_saved_weights

    description = describe(folder)
    architecture = Architecture.from_json(description.architecture)
    model, _ = fcn(len(description.labels), **architecture.to_json())
    load_saved_weights(folder, model)
    return by_keras(model), loaded(folder).functions.scores


def of_backbone(name: str) -> tuple[Scores, Scores]:
    """Those of an FCN of 21 classes with random weights."""
    from model_build.export import export
    from model_build.network.fcn import fcn

    model, _ = fcn(21, name)
    as_if_trained(model)
    return by_keras(model), export(model).program.scores


def by_keras(model: Any) -> Scores:
    """The scores of a network by Keras' own code, with its weights as constants."""
    import keras
    import tensorflow as tf

    from model_build.network.fcn import LOGITS

    body = keras.Model(model.input, model.get_layer(LOGITS).input)
    values = [(weight, keras.ops.convert_to_numpy(weight)) for weight in body.weights]

    def scores(images: Any) -> Any:
        with keras.StatelessScope([(weight, tf.constant(value)) for weight, value in values]):
            return body(images, training=False)

    return scores


def as_if_trained(model: Any) -> None:
    """Gives batch norms random weights: the optimizer drops a bias of zero, and fuses less then."""
    import keras

    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            as_if_trained(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1, value.shape) for value in layer.get_weights()])


def traced(
    scores: Scores, image: np.ndarray, precision: str, calls: int, most: int, name: str
) -> Trace:
    """Traces a network and prints counts and times by kind of operation."""
    found = trace(scores, image, precision, calls)
    fused = sum(count for op, count in found.operations.items() if op.startswith("_Fused"))
    alone = sum(found.operations[op] for op in ("Conv2D", "DepthwiseConv2dNative"))
    click.echo(
        f"  {name}: {sum(found.kinds.values()):.1f} ms in operations; {fused} convolutions and "
        f"products fused, {alone} convolutions alone"
    )
    for op, milliseconds in sorted(found.kinds.items(), key=lambda row: -row[1])[:most]:
        click.echo(f"    {milliseconds:7.2f} ms  {found.operations[op]:4d} × {op}")
    return found


def trace(scores: Scores, image: np.ndarray, precision: str, calls: int) -> Trace:
    """Runs a network in a session of its own, which reports what it executed."""
    import tensorflow as tf

    from pipeline.network.precision import optimizer_config

    settings = optimizer_config(precision)
    settings.intra_op_parallelism_threads = settings.inter_op_parallelism_threads = 1
    options = tf.compat.v1.RunOptions(
        trace_level=tf.compat.v1.RunOptions.FULL_TRACE, output_partition_graphs=True
    )
    times: dict[str, list[float]] = defaultdict(list)
    spec = tf.TensorSpec([1, None, None, 3], tf.uint8)
    function = tf.compat.v1.wrap_function(scores, [spec])
    given = image, *map(np.asarray, function.captured_inputs)
    feeds = {tensor.name: value for tensor, value in zip(function.inputs, given, strict=True)}
    with tf.compat.v1.Session(graph=function.graph, config=settings) as session:
        metadata = tf.compat.v1.RunMetadata()
        session.run(function.outputs, feeds, options, metadata)
        ops = {node.name: node.op for part in metadata.partition_graphs for node in part.node}
        for _ in range(calls):
            metadata = tf.compat.v1.RunMetadata()
            session.run(function.outputs, feeds, options, metadata)
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


def unfused(found: Trace) -> list[str]:
    """Operations that pass over features by themselves, the most expensive kind first."""
    rows = sorted(found.kinds.items(), key=lambda row: -row[1])
    return [
        f"{found.operations[op]} × {op} ({milliseconds:.2f} ms)"
        for op, milliseconds in rows
        if milliseconds >= LEAST and op not in (*NO_WORK, "BatchMatMulV2") and "_Fused" not in op
    ]


if __name__ == "__main__":
    main()
