"""The default model's weights for ``torch_loop.py``: batch norms folded, laid out as PyTorch does.

python benchmarks/peers/weights.py FILE.npz
"""

from __future__ import annotations

import itertools
import sys

import numpy as np
from shared import DESCRIPTION, SAVED_MODEL

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
    import tensorflow as tf

    if DESCRIPTION["architecture"] != KNOWN:
        sys.exit("the default model is of another architecture than torch_loop.py; change it there")
    reader = tf.train.load_checkpoint(f"{SAVED_MODEL}/variables/variables")
    count = sum(key.startswith("body_weights/") for key in reader.get_variable_to_shape_map())
    keys = [f"body_weights/{index}/.ATTRIBUTES/VARIABLE_VALUE" for index in range(count)]
    np.savez(file, *folded([reader.get_tensor(key).astype(np.float32) for key in keys]))


if __name__ == "__main__":
    main(*sys.argv[1:])
