"""The command ``fcn-beam segment``."""

from __future__ import annotations

from typing import Any

import click

from model_build.common.console import complain, say
from model_build.common.quiet_imports import gc_paused
from pipeline.cli.main import interrupt_message
from pipeline.cli.options import (
    PassThroughCommand,
    given_options,
    input_path,
    log_level,
    mask_options,
    path,
    require_option,
    set_up_logging,
    storage_options,
    workers,
)


def _max_rejected(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    from pipeline.outputs.summary import allowed_rejects

    try:
        allowed_rejects(value, 0)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor a percentage") from None
    return value


@click.command(
    cls=PassThroughCommand,
    context_settings={"ignore_unknown_options": True},
    epilog="Apache Beam's own options are passed on: --runner DataflowRunner --project P …",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="INPUT…")
@click.option(
    "--output", metavar="DIR", callback=path, help="Folder or URI for the results.  [required]"
)
@click.option(
    "--model",
    metavar="DIR",
    callback=path,
    help="Saved-model folder.  [default: the included model]",
)
@click.option(
    "--overlays", is_flag=True, help="Also write each photo blended with its mask, as JPEG."
)
@click.option("--all-files", is_flag=True, help="Also try files without a known image extension.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Only the first N images by name."
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Redo masks that were made with another model or other options; edited ones are kept.",
)
@click.option(
    "--discard-edits",
    is_flag=True,
    help="Redo masks that were edited by hand, after printing their number.",
)
@click.option("--verify", is_flag=True, help="Check every existing mask and redo damaged ones.")
@click.option(
    "--moved", is_flag=True, help="INPUT is the same archive as before, in another place."
)
@click.option("--dry-run", is_flag=True, help="List what would be done, and stop.")
@click.option(
    "--max-rejected",
    metavar="N|N%",
    callback=_max_rejected,
    help="Exit with status 3 if more images are rejected.",
)
@click.option(
    "--shared-disk",
    is_flag=True,
    help="With --runner: all workers see this machine's disk, at the same paths.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="With --runner FlinkRunner or DataflowRunner: hand the job over, and do not wait for it.",
)
@mask_options
@workers
@storage_options
@log_level
@click.pass_context
def segment(
    context: click.Context,
    arguments: tuple[str, ...],
    dry_run: bool,
    detach: bool,
    max_rejected: str | None,
    log_level: str,
    **options: Any,
) -> int:
    """Segment every image of INPUT.

    INPUT is a folder (searched recursively), a glob, an image, or @FILE, a list of paths or URIs
    (@- for standard input); any of them local or remote (gs://, s3://, az://). Run the same command
    again to continue where it stopped.
    """
    set_up_logging(log_level)
    with gc_paused():
        from pipeline.cli.arguments import own_options, split_arguments
        from pipeline.segmentation import dry_run as preview
        from pipeline.segmentation import plan, run

    inputs, beam_options = split_arguments(arguments, own_options(context.command))
    require_option(options, "output")  # after unknown options are reported
    request = plan.Request(
        inputs=[*map(input_path, inputs)], beam_options=beam_options, **given_options(options)
    )
    if dry_run:
        preview.dry_run(plan.plan(request), say)
        return 0
    try:
        if detach:
            job = run.submit(request, say)
            say(f"{job} continues on the cluster: {job.page()}")
            say(f"it is done when {request.output}/summary.json exists")
            return 0
        summary = run.segment(request, say)
    except KeyboardInterrupt as interrupt:
        what, status = interrupt_message(interrupt)
        return complain(f"{what}; run the same command again to continue", status)
    text, status, reason = run.report(summary, max_rejected)
    say(text)
    return complain(reason, status) if status else 0
