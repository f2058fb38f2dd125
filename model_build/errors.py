"""The one exception a user can cause, and how mistakes are told."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import click


class UserError(Exception):
    """Something the user can mend: one line that names the file, the cause and the remedy.

    Commands print it without a traceback and exit with status 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its class if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown word: ``"; did you mean train?"``, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class SuggestingGroup(click.Group):
    """Commands that are suggested when they are mistyped."""

    def resolve_command(self, context, args):
        known = self.list_commands(context)
        if args and args[0] not in known:
            name = f"{context.info_name} {args[0]}" if context.parent else args[0]
            raise click.UsageError(f"no such command {name!r}{did_you_mean(args[0], known)}")
        return super().resolve_command(context, args)
