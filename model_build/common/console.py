"""The console: standard streams that are open and take any character, and text that is harmless.

A name may hold any character. One that moves the cursor, or ends the line, would let a file's name
rewrite what a terminal shows, so it is printed as an escape: ``\\x1b``.
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

# Control characters (C0, DEL, C1), separators of lines and paragraphs, what turns the direction of
# writing (https://www.unicode.org/reports/tr9/), and bytes of a name that is not UTF-8.
_CONTROLS = "\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_HIDDEN = re.compile(f"[{_CONTROLS}]")
_HIDDEN_IN_LINES = re.compile(f"(?!\n)[{_CONTROLS}]")


def use_utf8() -> None:
    """Starts this program anew in Python's UTF-8 mode where its locale is ASCII.

    Else names with other characters would not be text
    (https://docs.python.org/3/library/os.html#utf8-mode).
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def open_streams() -> None:
    """Opens the standard streams that are closed, and lets them write any character.

    A closed one (``2>&-``) reads and writes the null device from now on: else the next file to be
    opened would take its place, and get what libraries write to standard error. A character that
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
    """The text as one line: control characters are escapes, as in ``"a\\\\x1b[2J"``."""
    return _HIDDEN.sub(_escape, text)


def visible_lines(text: str) -> str:
    """The same of several lines, which stay apart."""
    return _HIDDEN_IN_LINES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def say(text: str) -> None:
    """Prints lines to standard output.

    Raises:
        Exit: nobody reads it any more, as behind ``| head``: the command ends in silence, with the
            status of a program that the signal has ended.
        JobError: it cannot be written.
    """
    try:
        print(visible_lines(text), flush=True)
    except OSError as error:
        # What could not be written is tried again when Python ends, and must not fail then.
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
