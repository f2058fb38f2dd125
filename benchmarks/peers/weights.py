"""The default model's weights for ``torch_loop.py``: batch norms folded, laid out as PyTorch does.

python benchmarks/peers/weights.py FILE.npz
"""

from __future__ import annotations

import itertools
import sys

import numpy as np
from shared import DESCRIPTION, MODEL

KNOWN = {  # what torch_loop.py builds
    "backbone_name": "mobilenet_v2",
    "skips": 32,
    "output_stride": 16,
    "learn_upsampling": False,
    "context": True,
}
EPSILON = 1e-3  # of the batch norms


def folded(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Kernels and biases in turn.

    Args:
        arrays: of the network in the order of its layers: a kernel, and after it what goes with
            it, which is scale, offset, mean and variance of a batch norm, or a bias, or nothing.
    """
    starts = [index for index, array in enumerate(arrays) if array.ndim == 4] + [len(arrays)]
    found = []
    for start, end in itertools.pairwise(starts):
        kernel, *rest = arrays[start:end]
        depthwise = kernel.shape[0] == 3 and kernel.shape[3] == 1
        kernel = kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        bias = rest[0] if len(rest) == 1 else np.zeros(len(kernel), np.float32)
        if len(rest) == 4:
            scale, offset, mean, variance = rest
            factor = scale / np.sqrt(variance + EPSILON)
            kernel, bias = kernel * factor[:, None, None, None], offset - mean * factor
        found += [np.ascontiguousarray(kernel), bias]
    return found


def main(file: str) -> None:
    import keras

    from model_build.network.fcn import LOGITS, fcn
    from model_build.training.variables import load_saved_weights

    if DESCRIPTION["architecture"] != KNOWN:
        sys.exit("the default model is of another architecture than torch_loop.py; change it there")
    model, _ = fcn(len(DESCRIPTION["labels"]), **KNOWN)
    load_saved_weights(str(MODEL), model)
    body = keras.Model(model.input, model.get_layer(LOGITS).input)
    np.savez(file, *folded([keras.ops.convert_to_numpy(weight) for weight in body.weights]))


if __name__ == "__main__":
    main(*sys.argv[1:])
