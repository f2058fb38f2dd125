"""Shared by benchmarks: networks as a job loads them, their class maps, and streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.images.sizes import crop, pad, padded_size
from pipeline.network.threads import usable_cores


def loaded(model: str) -> Any:
    """The network of a saved-model folder, as a job loads it."""
    from model_build.common.quiet_imports import import_tensorflow

    import_tensorflow()
    from pipeline.network.models import load
    from pipeline.storage import Files

    return load(model, Files())


def class_map_of(pixels: np.ndarray, segmenter: Any) -> np.ndarray:
    """The classes of an image, uint8 [height, width], in one piece and a batch of its own."""
    class_maps, _ = segmenter(pad(pixels, padded_size(pixels, segmenter.stride))[None])
    return crop(class_maps[0], pixels)


def in_streams(work: Callable[[int], None], numbers: Sequence[int]) -> tuple[float, float]:
    """Does a piece of work for each number, in as many threads as there are cores.

    Returns:
        Seconds that passed, and seconds of all cores.
    """
    left, lock = iter(numbers), threading.Lock()

    def stream() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            work(number)

    threads = [threading.Thread(target=stream) for _ in range(usable_cores())]
    start = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start[0], time.process_time() - start[1]
