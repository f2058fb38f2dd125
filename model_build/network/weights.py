"""A network's weights as a file of Keras, with its kernels at half the size where that is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np


def save_weights(path: Path, model: keras.Model, *, half: bool = False) -> None:
    """Writes the weights of a network as Keras does, with checksums; equal ones give equal bytes.

    Args:
        path: its name ends in ``.weights.h5``.
        model: any.
        half: kernels as float16; Keras reads them as what the network has.
    """
    model.save_weights(path)
    with h5py.File(path) as file, h5py.File(f"{path}.checked", "w", libver="latest") as checked:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                value = item[()]
                if half and value.ndim > 1 and value.dtype == np.float32:
                    value = value.astype(np.float16)
                whole = {"chunks": value.shape, "fletcher32": True} if value.size > 1 else {}
                checked.create_dataset(name, data=value, **whole)
            else:
                checked.create_group(name).attrs.update(item.attrs)

        checked.attrs.update(file.attrs)
        file.visititems(copy)
    Path(f"{path}.checked").replace(path)
