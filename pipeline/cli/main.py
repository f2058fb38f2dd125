"""The group ``fcn-beam``. Nothing heavy is imported before a command runs."""

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
from model_build.common.limits import memory_limit_hint, stay_within
from model_build.common.quiet_imports import claim_process

# Where each command lives. The network's own commands are only named here, not imported.
COMMANDS = {
    "segment": "pipeline.cli.segment",
    "status": "pipeline.cli.status",
    "evaluate": "pipeline.cli.evaluate",
    "info": "pipeline.cli.info",
    "train": "model_build.cli.train",
    "data": "model_build.cli.data",
}


class Commands(SuggestingGroup):
    """Commands that are imported when they run."""

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
    """Runs a command; what a user can fix is one line and status 2, what fails is status 1."""
    use_utf8()
    open_streams()
    stay_within()
    # Libraries address these to developers: an old Python, a renamed argument.
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
    """What an interrupt is called, with what has become of its job, and the status to exit with.

    That is 128 and the signal's number.
    """
    what, status = (
        ("terminated", 143) if isinstance(interrupt, Terminated) else ("interrupted", 130)
    )
    return f"{what}; {interrupt}" if interrupt.args else what, status
