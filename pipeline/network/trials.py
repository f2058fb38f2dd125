"""Convolutions that may stand for others, tried: this machine's kernels may not know them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pipeline.network.graphs import Graph

# Multiples of a dilation, one more and one less: (height, width) as such a multiple and a rest.
SIZES = (((3, 0), (4, 1)), ((4, -1), (3, 0)))
TOLERANCE = 1e-5  # of the largest value


class Trial(NamedTuple):
    """A convolution of a tensor, ``candidate.input[0]``, from which another is computed so far.

    Attributes:
        tensor: name of the node that computes it so far.
        candidate: the convolution, as a node.
    """

    tensor: str
    candidate: Any


def equal_ones(graph: Graph, trials: Sequence[Trial]) -> list[Trial]:
    """Those whose candidates compute what their tensors are, as far as this machine shows.

    All are tried together where that can be, as what a trial costs is mostly to build its graph.

    Args:
        graph: what the tensors are computed in. Where that takes more than the candidate's input
            and constants, the two are not equal.
    """
    pure = [one for one in trials if _is_pure(graph, one)]
    if not pure:
        return []
    alone = len(pure) == 1
    if alone or not {one.tensor for one in pure} & {one.candidate.input[0] for one in pure}:
        try:
            return _compared(graph, pure)
        except (tf.errors.OpError, ValueError):  # this machine has no such kernel
            if alone:
                return []
    return [one for one in pure if equal_ones(graph, [one])]


def _is_pure(graph: Graph, trial: Trial) -> bool:
    above = graph.above([trial.tensor], trial.candidate.input[:1])
    return all(graph.nodes[name].op != "Placeholder" for name in above)


def _compared(graph: Graph, trials: Sequence[Trial]) -> list[Trial]:
    rng = np.random.default_rng(0)
    equal = list(trials)
    for one in trials:
        one.candidate.name = f"{one.tensor}/trial"
        graph.nodes[one.candidate.name] = one.candidate
    names = [name for one in trials for name in (one.tensor, one.candidate.name)]
    try:
        for size in SIZES:
            given = {one.candidate.input[0]: _noise(graph, one, size, rng) for one in trials}
            found = graph.run(names, given)
            values = zip(trials, found[::2], found[1::2], strict=True)
            close = [one for one, plain, other in values if _are_close(plain, other)]
            equal = [one for one in equal if one in close]
    finally:
        for one in trials:
            del graph.nodes[one.candidate.name]
    return equal


def _noise(graph: Graph, trial: Trial, size: Any, rng: np.random.Generator) -> np.ndarray:
    kernel = graph.constant(trial.candidate.input[1])
    assert kernel is not None
    spread = max(trial.candidate.attr["dilations"].list.i) + kernel.shape[0]
    height, width = (count * spread + rest for count, rest in size)
    return rng.standard_normal((1, height, width, kernel.shape[2])).astype(kernel.dtype)


def _are_close(plain: np.ndarray, other: np.ndarray) -> bool:
    if plain.shape != other.shape:
        return False
    return bool(np.abs(plain - other).max(initial=0) <= TOLERANCE * np.abs(plain).max(initial=1))
