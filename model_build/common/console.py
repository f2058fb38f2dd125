"""Console output: standard streams that accept any character, and text safe to print.

File names may contain any character. One that moves the cursor or ends the line could rewrite what
a terminal shows, so it is printed as an escape: ``\\x1b``.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Sequence

import click

from model_build.common.errors import JobError, cause

# Control characters (C0, DEL, C1), separators of lines and paragraphs, characters that change the
# writing direction (https://www.unicode.org/reports/tr9/), and bytes of names that are not UTF-8.
_CONTROLS = "\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_HIDDEN = re.compile(f"[{_CONTROLS}]")
_HIDDEN_IN_LINES = re.compile(f"(?!\n)[{_CONTROLS}]")


def use_utf8() -> None:
    """Restarts this program in Python's UTF-8 mode if its locale is ASCII.

    Otherwise names with other characters could not be decoded
    (https://docs.python.org/3/library/os.html#utf8-mode).
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def open_streams() -> None:
    """Opens closed standard streams, and lets all of them write any character.

    A closed stream (``2>&-``) is connected to the null device: otherwise the next opened file would
    get its number, and with it what libraries write to standard error. A character that
    the encoding of standard output lacks is written as an escape.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def visible(text: str) -> str:
    """Returns the text as one line, control characters escaped, as in ``"a\\\\x1b[2J"``."""
    return _HIDDEN.sub(_escape, text)


def visible_lines(text: str) -> str:
    """Escapes control characters as :func:`visible`, but keeps line breaks."""
    return _HIDDEN_IN_LINES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def say(text: str) -> None:
    """Prints lines to standard output.

    Raises:
        Exit: the reader has closed the pipe, as in ``| head``: the command ends silently, with the
            status of a program ended by SIGPIPE.
        JobError: it cannot be written.
    """
    try:
        print(visible_lines(text), flush=True)
    except OSError as error:
        # Python retries the unwritten data when it exits; that must not fail.
        with contextlib.suppress(OSError), open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise click.exceptions.Exit(128 + signal.SIGPIPE) from None
        raise JobError(f"cannot write to standard output: {cause(error)}") from error


def complain(message: str, status: int, details: Sequence[str] = ()) -> int:
    """Prints an error as one line and its details as further ones; returns the exit status."""
    lines = [f"fcn-beam: {message}", *details]
    print("\n".join(map(visible, lines)), file=sys.stderr, flush=True)
    return status
