"""Imports large packages quietly and fast: no banners, no Keras, garbage collection paused."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
import threading
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from typing import Any

from model_build.common.limits import check_address_space

ADDRESS_SPACE = 1_800_000_000  # bytes that TensorFlow needs to load the default model


def import_tensorflow() -> None:
    """Imports TensorFlow while stderr is closed to its C++ libraries.

    Whatever the log level, they report missing GPU libraries and CPU instructions there. Errors are
    still raised as exceptions.

    Keras is not imported until it is needed, as in training: saved models run without it, and it
    takes a third of the import time. TensorFlow works without Keras.

    Raises:
        JobError: this process may not take the address space that TensorFlow needs.
    """
    if "tensorflow" in sys.modules:
        return
    check_address_space(ADDRESS_SPACE, "TensorFlow with a network")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    without_keras = _WithoutKeras()
    sys.meta_path.insert(0, without_keras)
    with gc_paused(), _stderr_closed():
        try:
            import tensorflow  # noqa: F401
        finally:
            sys.meta_path.remove(without_keras)


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    try:
        stderr = os.dup(2)
    except OSError:  # it is already closed
        yield
        return
    with open(os.devnull, "wb") as no_progress:
        os.dup2(no_progress.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


_process_claimed = threading.Event()


def claim_process() -> None:
    """Declares that this process runs only a command of fcn-beam.

    Imported objects are then excluded from garbage collection for good, also at exit, where it
    would take a second. In a user's own program that could keep their garbage alive.
    """
    _process_claimed.set()
    atexit.register(gc.freeze)


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pauses the collection of cyclic garbage while its block imports packages.

    Beam and TensorFlow create half a million permanent objects, and scanning them again and again
    would take a quarter of the import time.
    """
    enabled, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if _process_claimed.is_set() and len(sys.modules) > known:
            gc.freeze()
        if enabled:
            gc.enable()


class _WithoutKeras(MetaPathFinder):
    """Hides Keras from the thread that created it; other threads still find it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "keras.src" and threading.get_ident() == self.thread:
            raise ModuleNotFoundError("left until something asks for it", name=name)
