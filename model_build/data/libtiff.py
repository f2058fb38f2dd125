"""Silences libtiff.

It prints errors of a file directly to standard error, without the file's name and in the middle of
the progress bar; Pillow reports damaged files anyway. Pillow gives no access to libtiff's handlers,
so they are unset in the library that it has loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
from pathlib import Path

import PIL

HANDLERS = (
    "TIFFSetErrorHandler",
    "TIFFSetErrorHandlerExt",
    "TIFFSetWarningHandler",
    "TIFFSetWarningHandlerExt",
)


def silence() -> bool:
    """Unsets the handlers for this process; returns False if the library is not found.

    See https://libtiff.gitlab.io/libtiff/functions/TIFFError.html.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(_library())
        for name in HANDLERS:
            function = getattr(library, name)
            function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
            function(None)
        return True
    return False


def _library() -> str | None:
    """Returns the file of the library: next to Pillow in a wheel, else the system's."""
    package = Path(PIL.__file__).parent
    for folder in (package.parent / "pillow.libs", package / ".dylibs"):
        for path in folder.glob("libtiff*"):
            return str(path)
    return ctypes.util.find_library("tiff")
