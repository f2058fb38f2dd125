"""The compiled network: uint8 images → uint8 class maps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from model_build.program import Program
from pipeline.network.canvases import canvas_size, ignore_padding, run_on_canvas
from pipeline.network.models import Network
from pipeline.network.precision import FLOAT32, check, optimizer_config
from pipeline.network.sparse_argmax import axis, sparse_argmax_of
from pipeline.network.tiling import Tiling

Run = Callable[..., Sequence[Any]]


class Segmenter:
    """Runs same-sized images through a network, always at one batch size.

    A smaller batch is filled up: the exact bits of a convolution may depend on the size of the
    batch, but not on its other images, so a mask never depends on the rest of its batch.

    Args:
        network: from :func:`pipeline.network.models.load`.
        engine: ``"graph"`` runs the network in TensorFlow's graph mode; XLA compiles only the step
            from scores to classes. ``"xla"`` compiles all of it, on canvases
            (:mod:`pipeline.network.canvases`); larger images run in graph mode.
        batch_size: images per call.
        precision: of the network's features, ``"float32"`` or ``"bfloat16"``; logits are float32.
        tile: the longest side in pixels of the tiles of :meth:`tiled`, a multiple of the stride;
            None if that is never called.
        long_side: the longest side of images in pixels; None if unknown. Only limits the size of
            canvases.

    Raises:
        UserError: this machine or the engine does not support the precision.
    """

    def __init__(
        self,
        network: Network,
        engine: str = "graph",
        batch_size: int = 1,
        precision: str = FLOAT32,
        tile: int | None = None,
        long_side: int | None = None,
    ):
        check(precision, engine)
        description, functions = network
        self.stride = description.stride
        self.batch_size = batch_size
        self.tile = tile
        compiled = engine == "xla" and isinstance(functions, Program)
        # Larger canvases would take much memory: XLA holds all logits of one at once.
        longest = tile or 2 * description.long_side
        longest = min(long_side or longest, longest)
        canvas_of = functools.partial(canvas_size, longest=longest, multiple=self.stride)
        images = tf.TensorSpec([batch_size, None, None, 3], tf.uint8)
        means = [tf.TensorSpec([batch_size, 1, 1, count]) for count in functions.averaged]

        def traced(function: Callable[..., Any], *signature: tf.TensorSpec) -> Run:
            """Compiles a function of images for canvases, or runs it in graph mode."""
            plain = functools.cache(lambda: graph_function(function, signature, precision))
            if not compiled:
                return plain()

            def unpadded(*inputs: Any) -> Any:
                *given, part = inputs
                return function(*given, change=ignore_padding(given[0], part))

            whole = [*signature, tf.TensorSpec([2], tf.int32)]
            return run_on_canvas(
                tf.function(unpadded, whole, autograph=False, jit_compile=True),
                lambda *inputs: plain()(*inputs),
                canvas_of,
            )

        def score(*inputs: Any, **changes: Any) -> list[Any]:
            scores = functions.scores(*inputs, **changes)
            # Checking the coarse scores suffices: the logits of pixels are sums of them.
            return [scores, tf.reduce_all(tf.math.is_finite(scores), axis=[1, 2, 3])]

        scores = tf.TensorSpec([batch_size, None, None, functions.channels])
        classify = class_finder(network, scores, engine, canvas_of)
        score_whole = traced(score, images)

        def whole(images: Any) -> tuple[Any, Any]:
            found, finite = score_whole(images)
            return classify(found)[0], finite

        self._whole = self._batched(whole)
        if tile is not None:
            self._tiling = Tiling(
                self._batched(traced(functions.features, images)) if means else None,
                self._batched(traced(score, images, *means)),
                self._batched(classify),
                tile,
                self.stride,
                batch_size,
            )

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Segments a batch.

        Args:
            images: uint8 RGB ``[n, h, w, 3]``; n at most the batch size, h and w multiples of the
                stride.

        Returns:
            uint8 class ids ``[n, h, w]``, and bool ``[n]``: whether the scores are finite.
        """
        class_maps, finite = self._whole(images)
        return class_maps, finite

    def tiled(self, pixels: np.ndarray) -> tuple[np.ndarray, bool]:
        """Segments an image of any size in tiles; see :class:`pipeline.network.tiling.Tiling`."""
        return self._tiling(pixels)

    def _batched(self, function: Callable[..., Sequence[Any]]) -> Callable[..., list[np.ndarray]]:
        """Wraps a function of full batches so that it accepts smaller ones."""

        def call(*arrays: np.ndarray) -> list[np.ndarray]:
            count = len(arrays[0])
            short = self.batch_size - count
            if short:
                arrays = tuple(np.concatenate([x, np.repeat(x[:1], short, axis=0)]) for x in arrays)
            return [np.asarray(found)[:count] for found in function(*map(tf.constant, arrays))]

        return call


def class_finder(
    network: Network,
    spec: tf.TensorSpec,
    engine: str,
    canvas_of: Callable[[tuple[int, int]], tuple[int, int] | None],
) -> Run:
    """Returns a function: scores → uint8 classes ``[n, h, w]``, its only output.

    In graph mode, the classes of interpolated scores are computed by
    :mod:`pipeline.network.sparse_argmax`, all others as the argmax of all logits, compiled for
    canvases.

    Args:
        spec: of the scores.
        canvas_of: (height, width) of an image → those of its canvas.
    """
    description, functions = network
    stride, shift = description.scores.stride, description.scores.shift

    def classes(scores: Any) -> list[Any]:
        # These sums decide between classes, so they stay float32.
        classes = tf.argmax(functions.logits(scores), axis=-1, output_type=tf.int32)
        return [tf.cast(classes, tf.uint8)]

    @functools.cache
    def in_graph() -> Run:
        if shift is None:
            return graph_function(classes, [spec], FLOAT32)
        return sparse_argmax_of(axis(stride, shift), spec)

    if engine != "xla" and shift is not None:
        return in_graph()
    compiled = tf.function(classes, [spec], autograph=False, jit_compile=True)

    def cells_canvas(size: tuple[int, int]) -> tuple[int, int] | None:
        found = canvas_of((size[0] * stride, size[1] * stride))
        return None if found is None else (found[0] // stride, found[1] // stride)

    return run_on_canvas(
        lambda scores, part: compiled(scores), lambda scores: in_graph()(scores), cells_canvas
    )


def graph_function(function: Callable, signature: Sequence[tf.TensorSpec], precision: str) -> Run:
    """Traces a function that returns a list, and optimizes its graph for a precision.

    The operation behind each call takes the optimizer's settings as an attribute, so they apply to
    this function only. ``tf.config.optimizer`` would set them for all functions that the calling
    thread runs, including those of other programs, and for no other thread.
    """
    settings = optimizer_config(precision).SerializeToString(deterministic=True)
    # tf.function would serialize operations that might have state.
    traced = tf.compat.v1.wrap_function(function, signature)
    types = [tensor.dtype for tensor in traced.outputs]

    def run(*inputs: Any) -> Sequence[Any]:
        return tf.raw_ops.PartitionedCall(
            args=[*inputs, *traced.captured_inputs], Tout=types, f=traced, config_proto=settings
        )

    return run
