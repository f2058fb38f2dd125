"""The command group ``fcn-beam``, which imports a command only when it runs."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import warnings
from typing import Any

import click

from model_build.common.console import complain, open_streams, use_utf8
from model_build.common.errors import GONE, JobError, SuggestingGroup, Terminated, UserError
from model_build.common.limits import adapt_to_limits, memory_limit_hint
from model_build.common.quiet_imports import claim_process

# The module of each command, imported when the command runs.
COMMANDS = {
    "segment": "pipeline.cli.segment",
    "status": "pipeline.cli.status",
    "evaluate": "pipeline.cli.evaluate",
    "info": "pipeline.cli.info",
    "train": "model_build.cli.train",
    "data": "model_build.cli.data",
}


class Commands(SuggestingGroup):
    """A group that imports its commands when they run."""

    def list_commands(self, context):
        return list(COMMANDS)

    def get_command(self, context, name):
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(COMMANDS[name]), name)


@click.group(cls=Commands)
@click.version_option(package_name="fcn-beam")
def fcn_beam() -> None:
    """Photos in, semantic segmentation masks and class histograms out."""


def main() -> None:
    """Runs a command; errors are one line, with status 2 for a user's mistake, else 1."""
    use_utf8()
    open_streams()
    adapt_to_limits()
    # These are for developers: an old Python version, a renamed argument.
    warnings.simplefilter("ignore", FutureWarning)
    signal.signal(signal.SIGTERM, _terminate)
    claim_process()
    try:
        status = fcn_beam.main(standalone_mode=False)
    except click.ClickException as error:
        status = complain(error.format_message(), 2)
    except UserError as error:
        status = complain(str(error), 2)
    except (click.Abort, KeyboardInterrupt) as interrupt:
        status = complain(*interrupt_message(interrupt))
    except Exception as error:
        if isinstance(error, FileNotFoundError) and not os.path.isdir(os.curdir):
            sys.exit(complain(GONE, 2))
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        if isinstance(error, JobError):
            status = complain(f"{error} (--log-level info shows where)", 1)
        else:
            last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            remedy = memory_limit_hint(error) or "please report it"
            status = complain(f"unexpected error: {last[0].strip()}; {remedy}", 1)
    sys.exit(status)


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


def interrupt_message(interrupt: BaseException) -> tuple[str, int]:
    """Returns the message for an interrupt, with the state of its job, and the exit status.

    The status is 128 plus the signal's number.
    """
    what, status = (
        ("terminated", 143) if isinstance(interrupt, Terminated) else ("interrupted", 130)
    )
    return f"{what}; {interrupt}" if interrupt.args else what, status
