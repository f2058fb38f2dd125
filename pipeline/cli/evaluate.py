"""The command ``fcn-beam evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from model_build.common.console import complain, say
from model_build.common.errors import UserError
from model_build.common.quiet_imports import gc_paused
from pipeline.cli.options import (
    PassThroughCommand,
    given_options,
    log_level,
    mask_options,
    path,
    require_option,
    set_up_logging,
    storage_options,
    workers,
)


@click.command(
    cls=PassThroughCommand,
    context_settings={"ignore_unknown_options": True},
    epilog="Apache Beam's own options are passed on, except --runner: evaluate runs locally.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.option(
    "--model", metavar="DIR", callback=path, help="Score the masks that this saved model makes."
)
@click.option(
    "--masks",
    metavar="DIR",
    callback=path,
    help="Score the masks in this folder, for example OUT/masks.",
)
@click.option(
    "--data", metavar="DIR", callback=path, help="Folder with photos and true masks.  [required]"
)
@click.option(
    "--split",
    default="val",
    show_default=True,
    metavar="NAME",
    help="Split of the data to score on.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    metavar="FILE",
    callback=path,
    help="Also write the scores to FILE; - prints them as JSON instead of the table.",
)
@click.option("--skip-missing", is_flag=True, help="Leave out images whose mask is missing.")
@mask_options
@workers
@storage_options
@log_level
@click.pass_context
def evaluate(
    context: click.Context,
    arguments: tuple[str, ...],
    json_file: str | None,
    log_level: str,
    **options: Any,
) -> int:
    """Score masks against the true masks of a data set.

    Scores either the masks that --model makes, as `segment` would with the same options, or those
    in the folder --masks. The data folder is in PASCAL VOC layout or has the subfolders images and
    masks. All of them may be local or remote (gs://, s3://, az://).
    """
    set_up_logging(log_level)
    if json_file not in (None, "-") and not Path(json_file).absolute().parent.is_dir():
        raise click.UsageError(f"--json {json_file}: its folder does not exist")
    with gc_paused():
        from pipeline.cli.arguments import own_options, split_arguments
        from pipeline.evaluation import run

    unexpected, beam_options = split_arguments(arguments, own_options(context.command))
    if unexpected:
        raise click.UsageError(
            f"unexpected argument {unexpected[0]!r}; inputs are named by options"
        )
    require_option(options, "data")
    result = run.evaluate(run.Request(beam_options=beam_options, **given_options(options)))
    text = json.dumps(result.report, indent=1)
    if json_file not in (None, "-"):
        try:
            Path(json_file).write_text(text + "\n")
        except OSError as error:
            raise UserError(f"{json_file}: cannot be written: {error.strerror}") from None
    if json_file == "-":
        say(text)
    elif result.scores:
        say(result.table())
    if result.scores:
        return 0
    first, *faults = result.complaint()
    return complain(f"{first}:" if faults else first, 1, [f"  {fault}" for fault in faults])
