"""The one exception a user can cause, and how others are told."""


class UserError(Exception):
    """Something the user can mend: one line that names the file, the cause and the remedy.

    Commands print it without a traceback and exit with status 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its class if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
