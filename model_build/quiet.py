"""Importing TensorFlow without its greetings, and without Keras."""

from __future__ import annotations

import os
import sys
import threading
from importlib.abc import MetaPathFinder
from typing import Any


def import_tensorflow() -> None:
    """Imports TensorFlow while stderr is closed to its C++ libraries.

    They write there directly, whatever the log level, that some GPU library is missing and which
    CPU instructions they use. What goes wrong still comes as an exception.

    Keras is left until something asks for it, as training does: saved models run without it, and
    it takes a third of the import. TensorFlow gets on where Keras is missing.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    without_keras = _WithoutKeras()
    sys.meta_path.insert(0, without_keras)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            sys.meta_path.remove(without_keras)


class _WithoutKeras(MetaPathFinder):
    """Tells the thread that made it that there is no Keras; others find it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "keras.src" and threading.get_ident() == self.thread:
            raise ModuleNotFoundError("left until something asks for it", name=name)
