"""Exceptions that are reported in one line, and helpers for error messages."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable

import click

GONE = "the current folder has been removed; change to another one (cd)"


class UserError(Exception):
    """Something the user can fix: one line that names the file, the cause and the remedy.

    Commands print it without a traceback and exit with status 2.
    """


class JobError(Exception):
    """A job failed: one line with the cause. Commands exit with status 1."""


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, like KeyboardInterrupt on Ctrl-C."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, or its class if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def cause(error: OSError) -> str:
    """Returns the operating system's or store's reason, without the file's name."""
    return error.strerror or first_line(error)


def require(extra: str, *modules: str, purpose: str) -> None:
    """Checks that modules can be imported, without importing them.

    Args:
        extra: installs them: ``pip install 'fcn-beam[EXTRA]'``.
        modules: their names.
        purpose: the subject of the message: ``"training"``, ``"gs://"``.

    Raises:
        UserError: one or more are not installed.
    """
    missing = [module for module in modules if not _installed(module)]
    if missing:
        raise UserError(
            f"{purpose} needs {' and '.join(missing)}, which {'are' if missing[1:] else 'is'} not "
            f"installed; pip install 'fcn-beam[{extra}]'"
        )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the module's package is missing
        return False


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns the end of a message on an unknown word: ``"; did you mean train?"``, or ""."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class SuggestingGroup(click.Group):
    """A command group that suggests commands for mistyped names."""

    def resolve_command(self, context, args):
        known = self.list_commands(context)
        if args and args[0] not in known:
            name = f"{context.info_name} {args[0]}" if context.parent else args[0]
            raise click.UsageError(f"no such command {name!r}{did_you_mean(args[0], known)}")
        return super().resolve_command(context, args)
