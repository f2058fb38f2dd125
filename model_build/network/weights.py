"""Saves a network's weights in Keras' format, optionally with kernels as float16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np


def save_weights(path: Path, model: keras.Model, *, half: bool = False) -> None:
    """Writes the weights of a network as Keras does; equal networks give equal bytes.

    Args:
        path: its name ends in ``.weights.h5``.
        model: any Keras model.
        half: store kernels as float16; Keras converts them back when it loads them.
    """
    model.save_weights(path)
    if not half:
        return
    with h5py.File(path) as file, h5py.File(f"{path}.half", "w") as small:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                value = item[()]
                is_kernel = value.ndim > 1 and value.dtype == np.float32
                small.create_dataset(name, data=value.astype(np.float16) if is_kernel else value)
            else:
                small.create_group(name).attrs.update(item.attrs)

        small.attrs.update(file.attrs)
        file.visititems(copy)
    Path(f"{path}.half").replace(path)
