"""The one exception a user can cause."""


class UserError(Exception):
    """Something the user can mend: one line that names the file, the cause and the remedy.

    Commands print it without a traceback and exit with status 2.
    """
