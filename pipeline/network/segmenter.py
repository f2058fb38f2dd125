"""The compiled network: uint8 images → uint8 class maps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# TensorFlow has no public way to freeze a function for use in this process: converters to TFLite
# and tf.saved_model each make files of their own. Of its private one, the first part is enough, and
# takes a fifth of the time.
from tensorflow.python.framework import convert_to_constants

from model_build.artifact import Network
from pipeline.network.canvases import canvas, on_canvas
from pipeline.network.cells import axes_of, by_cells
from pipeline.network.context import of_part, split
from pipeline.network.folding import fold
from pipeline.network.precision import FLOAT32, check, optimizer
from pipeline.network.tiling import Tiling


class Segmenter:
    """Runs same-sized images through a network, always at one batch size.

    A smaller batch is filled up: which bits a convolution yields may depend on the size of the
    batch, but not on what its other images hold, so a mask never depends on its batch mates.

    Args:
        network: from :func:`pipeline.network.models.load`.
        engine: ``"graph"`` runs the network in TensorFlow's graph mode, ``"xla"`` compiles all of
            it, ``"xla-head"`` what comes after its scores, see :func:`classifier`. What is compiled
            as a whole runs on canvases (:mod:`pipeline.network.canvases`); what no canvas holds is
            run in graph mode.
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
        self.stride = network.description.stride
        self.batch_size = batch_size
        self.tile = tile
        images = tf.TensorSpec([batch_size, None, None, 3], tf.uint8)
        body = fold(freeze(scores_of(network), images), self.stride)
        # Beyond that the logits of a canvas, which XLA holds all at once, take much memory.
        longest = tile or 2 * network.description.long_side
        longest = min(long_side or longest, longest)
        place = functools.partial(canvas, longest=longest, multiple=self.stride)

        def ready(function: Any) -> Callable[..., Sequence[Any]]:
            """What runs a function of images."""
            run = runner(function, precision)
            if engine != "xla":
                return run
            signature = [*map(_spec, function.inputs), tf.TensorSpec([2], tf.int32)]
            compiled = tf.function(of_part(function), signature, jit_compile=True)
            return on_canvas(compiled, run, place)

        score = ready(body)
        # The head has its own graph, as its sums decide between classes: they stay float32.
        head = freeze(classes_of(network), _spec(body.outputs[0]))
        classify = classifier(head, engine, place, lambda: side_of_cells(body, self.stride))

        def whole(images: Any) -> tuple[Any, Any]:
            scores, finite = score(images)
            return classify(scores)[0], finite

        self._whole = self._filled(whole)
        if tile is not None:
            average, rest = split(body)
            self._tiling = Tiling(
                None if average is None else self._filled(ready(average)),
                self._filled(ready(rest)),
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
    head: Any,
    engine: str,
    place: Callable[[tuple[int, int]], tuple[int, int] | None],
    side: Callable[[], int],
) -> Callable[[Any], Sequence[Any]]:
    """What runs a frozen head: scores → classes, ``[n, h, w]``, as its only output.

    An interpolation goes by cells (:mod:`pipeline.network.cells`), of which ``"xla-head"`` has
    compiled what computes their logits. Any other head it has compiled as a whole, for canvases, as
    ``"xla"`` has all heads.

    Args:
        place: of an image's size, the canvas.
        side: gives the side of a cell of scores, in pixels; canvases alone need it, and finding it
            may run the body.
    """
    spec = _spec(head.inputs[0])
    axes = None if engine == "xla" else axes_of(head)
    if axes is not None:
        return by_cells(axes, spec, compiled=engine == "xla-head")
    folded = fold(head)
    if engine == "graph":
        return runner(folded, FLOAT32)

    @functools.cache  # made when an image wants it that no canvas holds
    def in_graph() -> Callable[[Any], Sequence[Any]]:
        axes = axes_of(head)
        return runner(folded, FLOAT32) if axes is None else by_cells(axes, spec, compiled=False)

    compiled = tf.function(folded, [spec], jit_compile=True)
    pixels = side()

    def place_cells(size: tuple[int, int]) -> tuple[int, int] | None:
        found = place((size[0] * pixels, size[1] * pixels))
        return None if found is None else (found[0] // pixels, found[1] // pixels)

    return on_canvas(
        lambda scores, part: compiled(scores), lambda scores: in_graph()(scores), place_cells
    )


def side_of_cells(body: Any, stride: int) -> int:
    """How many pixels a cell of a body's scores is wide and high.

    Args:
        body: a concrete function, images → scores and more.
        stride: sides of images are multiples of it.
    """
    side = 4 * stride
    (images,), scores = body.inputs, body.outputs[0]
    with tf.Graph().as_default():
        given = tf.compat.v1.placeholder(images.dtype, [images.shape[0], side, side, 3])
        (found,) = tf.graph_util.import_graph_def(
            body.graph.as_graph_def(), {images.name: given}, [scores.name], name=""
        )
    height = found.shape.dims[1].value if found.shape.rank else None
    if height is None:  # the graph computes its sizes
        height = body(tf.zeros([images.shape[0], side, side, 3], images.dtype))[0].shape[1]
    return side // height


def scores_of(network: Network) -> Callable:
    """The network up to its scores: uint8 ``[n, h, w, 3]`` → float32 scores, bool ``[n]``."""

    def scores_and_finite(images: Any) -> tuple[Any, Any]:
        scores = network.body(images)
        # The scores of the coarse cells tell it as well as the logits of all pixels, which are
        # sums of them.
        return scores, tf.reduce_all(tf.math.is_finite(scores), axis=[1, 2, 3])

    return scores_and_finite


def classes_of(network: Network) -> Callable:
    """The network from its scores on: float32 scores → uint8 ``[n, h, w]``."""

    def classes(scores: Any) -> Any:
        logits = network.head(scores)
        return tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.uint8)

    return classes


def freeze(function: Callable, *signature: Any) -> Any:
    """A function with its weights as constants, as a concrete function that gives a list."""

    def listed(*inputs: Any) -> list[Any]:
        found = function(*inputs)
        return list(found) if isinstance(found, list | tuple) else [found]

    traced = tf.function(listed, autograph=False).get_concrete_function(*signature)
    if not traced.captured_inputs and not traced.graph.as_graph_def().library.function:
        return traced
    definition, _ = convert_to_constants._replace_variables_by_constants(
        convert_to_constants._FunctionConverterDataInEager(
            traced, lower_control_flow=True, aggressive_inlining=False
        )
    )
    if definition.library.function:  # is called by name, and known to nobody yet
        return convert_to_constants.convert_variables_to_constants_v2(traced)
    names = [tensor.name for tensor in traced.inputs[: len(signature)]]
    outputs = [tensor.name for tensor in traced.outputs]

    def frozen(*inputs: Any) -> list[Any]:
        given = dict(zip(names, inputs, strict=True))
        return tf.graph_util.import_graph_def(definition, given, outputs, name="")

    return tf.function(frozen, autograph=False).get_concrete_function(*signature)


def runner(function: Any, precision: str) -> Callable[[Any], Sequence[Any]]:
    """What runs a concrete function, optimized for a precision.

    The operation behind every call takes the optimizer's settings as an attribute, so they are this
    function's own. ``tf.config.optimizer`` would set them for all functions that the same thread
    calls, other programs' too, and for those alone.
    """
    settings = optimizer(precision).SerializeToString(deterministic=True)
    types = [tensor.dtype for tensor in function.outputs]

    def run(*inputs: Any) -> Sequence[Any]:
        return tf.raw_ops.PartitionedCall(
            args=inputs, Tout=types, f=function, config_proto=settings
        )

    return run


def _spec(tensor: Any) -> tf.TensorSpec:
    return tf.TensorSpec(tensor.shape, tensor.dtype)
