"""Importing TensorFlow without its greetings."""

from __future__ import annotations

import os


def import_tensorflow() -> None:
    """Imports TensorFlow while stderr is closed to its C++ libraries.

    They write there directly, whatever the log level, that some GPU library is missing and which
    CPU instructions they use. What goes wrong still comes as an exception.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
