"""Exports a trained network as an inference program: one flat graph with named tensors.

:mod:`model_build.folding` writes it, with batch norms folded into convolutions, and
:mod:`model_build.program` runs it in a job. The graph has these tensors:

=================  ==========================================================================
``images``         uint8 RGB ``[n, h, w, 3]``, sides multiples of 32
``features0`` …    features averaged over whole images, float32 ``[n, h/s, w/s, c]`` ``mean0`` …
the averages, ``[n, 1, 1, c]`` ``scores``         float32 ``[n, h/s, w/s, classes]`` ``logits``
float32 ``[n, h, w, classes]`` =================
==========================================================================
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from model_build.common.errors import JobError
from model_build.folding import Writer
from model_build.network.fcn import LOGITS
from model_build.network.upsampling import Interpolation
from model_build.program import IMAGES, Program
from model_build.saved_model import ancestors, node_of

PROBE_SIZE = (256, 288)  # (height, width): an even and an odd multiple of 32, which pad differently
TRIAL_SIZES = ((64, 96), (160, 128))  # (height, width) of the images to check a program with
BLOCK = 8  # pixels per side of the single-coloured blocks in these images
MAX_SCORE_DIFFERENCE = 1e-4  # of the largest score
MIN_AGREEMENT = 0.9999  # fraction of the pixels
MAX_TIE_DIFFERENCE = 1e-6  # of the largest logit: below this, rounding decides between classes


class Exported(NamedTuple):
    """A program and the grid of its scores on an image.

    Attributes:
        program: the functions.
        stride: width and height of a score's cell in pixels.
        shift: offset, in pixels down and right, of the grid of scores from the centres of cells of
            that size; None if logits are not a bilinear interpolation of scores.
    """

    program: Program
    stride: int
    shift: float | None


def export(model: keras.Model, *, half: bool = False) -> Exported:
    """Exports a network as a program.

    Args:
        model: from :func:`model_build.network.fcn.fcn`.
        half: store the kernels as float16, for half the size; they must be exact in float16, or the
            program differs from the network.

    Raises:
        JobError: the program does not compute the same as the network.
    """
    weights = {id(weight): keras.ops.convert_to_numpy(weight) for weight in model.weights}
    same_padded: set[int] = set()
    for size in (PROBE_SIZE, (None, None)):
        writer = Writer(weights, half, same_padded)
        images = tf.TensorSpec([None, *size, 3], tf.uint8, IMAGES)
        whole = tf.compat.v1.wrap_function(functools.partial(writer.network, model), [images])
        same_padded = writer.same_padded
    whole = whole.graph.as_graph_def(add_shapes=True)
    needed = ancestors({node.name: node for node in whole.node}, [LOGITS])
    nodes = _numbered([node for node in whole.node if node.name in needed])
    definition = tf.compat.v1.GraphDef(node=nodes, versions=whole.versions)
    head = model.get_layer(LOGITS)
    shift = head.shift if isinstance(head, Interpolation) else None
    program = Program(definition, writer.averages)
    check(program, model)
    return Exported(program, head.stride, shift)


def _numbered(nodes: list[Any]) -> list[Any]:
    """Renumbers the nodes of layers, so that equal networks give equal programs.

    Keras numbers layers consecutively over all networks that a process builds.
    """
    names = {
        node.name: f"layers/{index}/{node.op}" if node.name.startswith("layers/") else node.name
        for index, node in enumerate(nodes)
    }
    for node in nodes:
        node.name = names[node.name]
        for index, tensor in enumerate(node.input):
            source = node_of(tensor)
            node.input[index] = tensor.replace(source, names[source], 1)
    return nodes


def check(program: Program, model: keras.Model) -> None:
    """Compares a program with its network on images of random blocks, of two sizes.

    Raises:
        JobError: scores differ by more than 1e-4 of the largest one, or classes, except ties, at
            more than one pixel in 10,000.
    """
    network = keras.Model(model.input, [model.get_layer(LOGITS).input, model.output])

    def both(images: Any) -> Any:
        scores = program.scores(images)
        return scores, program.logits(scores)

    run = tf.compat.v1.wrap_function(both, [tf.TensorSpec([1, None, None, 3], tf.uint8)])
    rng = np.random.default_rng(0)
    for size in TRIAL_SIZES:
        # Not noise, which is unlike photos: its rounding errors would grow from layer to layer.
        coarse = rng.integers(0, 256, (1, size[0] // BLOCK, size[1] // BLOCK, 3), np.uint8)
        images = tf.constant(np.kron(coarse, np.ones((1, BLOCK, BLOCK, 1), np.uint8)))
        (scores, logits), (own_scores, own_logits) = (
            [np.asarray(tensor) for tensor in tensors]
            for tensors in (network(images, training=False), run(images))
        )
        difference = np.abs(scores - own_scores).max() / np.abs(scores).max()
        classes = own_logits.argmax(-1)[..., None]
        behind = logits.max(-1) - np.take_along_axis(logits, classes, -1)[..., 0]
        agreement = np.mean(behind <= MAX_TIE_DIFFERENCE * np.abs(logits).max())
        if not (difference <= MAX_SCORE_DIFFERENCE and agreement >= MIN_AGREEMENT):
            raise JobError(
                f"{model.name}: its inference program computes something else: scores differ by "
                f"{difference:.1e} of the largest, classes at {1 - agreement:.2%} of the pixels; "
                "report this together with the options of `fcn-beam train`"
            )
