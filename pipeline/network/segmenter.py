"""The compiled network: uint8 images → uint8 class maps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from model_build.program import Program
from pipeline.network.canvases import canvas, of_part, on_canvas
from pipeline.network.models import Network
from pipeline.network.precision import FLOAT32, check, optimizer
from pipeline.network.sparse_argmax import axis, sparse_argmax_of
from pipeline.network.tiling import Tiling

Run = Callable[..., Sequence[Any]]


class Segmenter:
    """Runs same-sized images through a network, always at one batch size.

    A smaller batch is filled up: which bits a convolution yields may depend on the size of the
    batch, but not on what its other images hold, so a mask never depends on its batch mates.

    Args:
        network: from :func:`pipeline.network.models.load`.
        engine: ``"graph"`` runs the network in TensorFlow's graph mode; XLA compiles what finds
            classes in its scores. ``"xla"`` compiles all of it, on canvases
            (:mod:`pipeline.network.canvases`); what no canvas holds is run in graph mode.
        batch_size: images a call.
        precision: of the network's features, ``"float32"`` or ``"bfloat16"``; logits are float32.
        tile: the longest side in pixels of the tiles that :meth:`tiled` takes images in, a multiple
            of the stride; None where it is not to be called.
        long_side: the longest side in pixels of the images that it gets; None for any. It only
            says which canvases are worth having.

    Raises:
        UserError: a precision that this machine, or the engine, does not have.
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
        # Beyond that the logits of a canvas, which XLA holds all at once, take much memory.
        longest = tile or 2 * description.long_side
        longest = min(long_side or longest, longest)
        place = functools.partial(canvas, longest=longest, multiple=self.stride)
        images = tf.TensorSpec([batch_size, None, None, 3], tf.uint8)
        means = [tf.TensorSpec([batch_size, 1, 1, count]) for count in functions.averaged]

        def ready(function: Callable[..., Any], *signature: tf.TensorSpec) -> Run:
            """What runs a function of images."""
            plain = functools.cache(lambda: runner(function, signature, precision))
            if not compiled:
                return plain()

            def alone(*inputs: Any) -> Any:
                *given, part = inputs
                return function(*given, change=of_part(given[0], part))

            whole = [*signature, tf.TensorSpec([2], tf.int32)]
            return on_canvas(
                tf.function(alone, whole, autograph=False, jit_compile=True),
                lambda *inputs: plain()(*inputs),
                place,
            )

        def score(*inputs: Any, **changes: Any) -> list[Any]:
            scores = functions.scores(*inputs, **changes)
            # The scores of the coarse cells tell it as well as the logits of all pixels, which are
            # sums of them.
            return [scores, tf.reduce_all(tf.math.is_finite(scores), axis=[1, 2, 3])]

        scores = tf.TensorSpec([batch_size, None, None, functions.channels])
        classify = classifier(network, scores, engine, place)
        score_whole = ready(score, images)

        def whole(images: Any) -> tuple[Any, Any]:
            found, finite = score_whole(images)
            return classify(found)[0], finite

        self._whole = self._filled(whole)
        if tile is not None:
            self._tiling = Tiling(
                self._filled(ready(functions.features, images)) if means else None,
                self._filled(ready(score, images, *means)),
                self._filled(classify),
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

    def _filled(self, function: Callable[..., Sequence[Any]]) -> Callable[..., list[np.ndarray]]:
        """What calls a function of whole batches with batches that may be smaller."""

        def call(*arrays: np.ndarray) -> list[np.ndarray]:
            count = len(arrays[0])
            short = self.batch_size - count
            if short:
                arrays = tuple(np.concatenate([x, np.repeat(x[:1], short, axis=0)]) for x in arrays)
            return [np.asarray(found)[:count] for found in function(*map(tf.constant, arrays))]

        return call


def classifier(
    network: Network,
    spec: tf.TensorSpec,
    engine: str,
    place: Callable[[tuple[int, int]], tuple[int, int] | None],
) -> Run:
    """What finds classes: scores → uint8 ``[n, h, w]``, as its only output.

    In graph mode those of an interpolation are found by cells
    (:mod:`pipeline.network.sparse_argmax`). All others are those of the largest logit, compiled for
    canvases.

    Args:
        spec: of the scores.
        place: of an image's size, the canvas.
    """
    description, functions = network
    stride, shift = description.scores.stride, description.scores.shift

    def classes(scores: Any) -> list[Any]:
        # Its sums decide between classes: they stay float32.
        classes = tf.argmax(functions.logits(scores), axis=-1, output_type=tf.int32)
        return [tf.cast(classes, tf.uint8)]

    @functools.cache
    def in_graph() -> Run:
        if shift is None:
            return runner(classes, [spec], FLOAT32)
        return sparse_argmax_of(axis(stride, shift), spec)

    if engine != "xla" and shift is not None:
        return in_graph()
    compiled = tf.function(classes, [spec], autograph=False, jit_compile=True)

    def place_cells(size: tuple[int, int]) -> tuple[int, int] | None:
        found = place((size[0] * stride, size[1] * stride))
        return None if found is None else (found[0] // stride, found[1] // stride)

    return on_canvas(
        lambda scores, part: compiled(scores), lambda scores: in_graph()(scores), place_cells
    )


def runner(function: Callable, signature: Sequence[tf.TensorSpec], precision: str) -> Run:
    """What runs a function that gives a list, optimized for a precision.

    The operation behind every call takes the optimizer's settings as an attribute, so they are this
    function's own. ``tf.config.optimizer`` would set them for all functions that the same thread
    calls, other programs' too, and for those alone.
    """
    settings = optimizer(precision).SerializeToString(deterministic=True)
    # tf.function would also make operations that may have state wait for each other.
    traced = tf.compat.v1.wrap_function(function, signature)
    types = [tensor.dtype for tensor in traced.outputs]

    def run(*inputs: Any) -> Sequence[Any]:
        return tf.raw_ops.PartitionedCall(
            args=[*inputs, *traced.captured_inputs], Tout=types, f=traced, config_proto=settings
        )

    return run
