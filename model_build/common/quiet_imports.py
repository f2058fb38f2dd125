"""Large imports: without TensorFlow's greetings, without Keras, without the garbage collector."""

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

ADDRESS_SPACE = 1_800_000_000  # bytes that TensorFlow takes to load the default model


def import_tensorflow() -> None:
    """Imports TensorFlow while stderr is closed to its C++ libraries.

    They write there directly, whatever the log level, that some GPU library is missing and which
    CPU instructions they use. What goes wrong still comes as an exception.

    Keras is left until something asks for it, as training does: saved models run without it, and
    it takes a third of the import. TensorFlow gets on where Keras is missing.

    Raises:
        JobError: this process may not take the address space that it needs.
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
    except OSError:  # it is closed already
        yield
        return
    with open(os.devnull, "wb") as no_progress:
        os.dup2(no_progress.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


_ours = threading.Event()


def claim_process() -> None:
    """Says that this process runs a command of ours and nothing else.

    What is imported is then set aside for good: the collector looks at it neither later nor at the
    end, which would take a second. In other people's programs that might keep garbage of theirs.
    """
    _ours.set()
    atexit.register(gc.freeze)


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Imports without the collector of cyclic garbage while its block runs.

    Beam and TensorFlow make half a million objects that stay, and the collector looks through them
    again and again while they come, for a quarter of the time.
    """
    enabled, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if _ours.is_set() and len(sys.modules) > known:
            gc.freeze()
        if enabled:
            gc.enable()


class _WithoutKeras(MetaPathFinder):
    """Tells the thread that made it that there is no Keras; others find it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "keras.src" and threading.get_ident() == self.thread:
            raise ModuleNotFoundError("left until something asks for it", name=name)
