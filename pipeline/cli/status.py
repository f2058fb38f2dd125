"""The command ``fcn-beam status``."""

from __future__ import annotations

import click

from model_build.common.console import say
from pipeline.cli.options import log_level, path, set_up_logging, storage_options


@click.command()
@click.argument("output", metavar="OUT", callback=path)
@storage_options
@log_level
def status(output: str, storage_options: dict[str, str], log_level: str) -> None:
    """Show the progress of the job that writes to OUT, on whatever machine it runs."""
    set_up_logging(log_level)
    from pipeline.segmentation.status import status

    say(status(output, storage_options).text())
