"""The ``fcn-beam`` command. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from model_build.errors import SuggestingGroup, UserError

if TYPE_CHECKING:
    from model_build.artifact import Description

# Where each command lives. The network's own commands are only named here, not imported.
COMMANDS = {
    "segment": "pipeline.cli",
    "evaluate": "pipeline.evaluate_cli",
    "train": "model_build.cli",
    "info": "model_build.cli",
    "data": "model_build.data_cli",
}
JOBS = ("segment", "evaluate")
DEFAULT_MODEL = str(Path(__file__).resolve().parent.parent / "models" / "default")
ENGINES = ("auto", "xla", "graph")
LOG_LEVELS = ("debug", "info", "warning", "error")
MAX_PIXELS = 178_000_000  # twice what Pillow warns of


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


def _long_side(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    if value is None or value == "native":
        return value
    try:
        side = int(value)
    except ValueError:
        side = 0
    if side < 1:
        raise click.BadParameter(f"{value!r} is neither a number of pixels nor 'native'")
    return side


def network_side(long_side: int | str | None, model: Description) -> int | None:
    """What ``--long-side`` means: the longest side in pixels that a model sees, None for any.

    Args:
        long_side: the option: pixels, ``"native"``, or None for the side it was trained at.
    """
    if long_side is None:
        return model.long_side
    return None if long_side == "native" else int(long_side)


def _max_rejected(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    from pipeline.rejects import allowed_rejects

    try:
        allowed_rejects(value, 0)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor a percentage") from None
    return value


def set_up_logging(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(levelname)s: %(message)s")
    if level == "warning":  # what engine was picked is worth a line in any run
        logging.getLogger("pipeline").setLevel(logging.INFO)
    if level != "debug":  # what ends a job is told in one line, not by a worker's traceback
        for name in ("common", "worker"):
            logging.getLogger(f"apache_beam.runners.{name}").setLevel(logging.CRITICAL)
    # Beam warns that a run replaces the shards of the run before it: that is what it is for.
    logging.getLogger("apache_beam.io.filebasedsink").setLevel(logging.ERROR)
    # Beam says so wherever an optional package of its own is missing; nothing here needs it.
    noise = "Resource module is not available"
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: noise not in str(record.msg))


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Apache Beam's own options pass through: --runner DataflowRunner --project P …",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="INPUT…")
@click.option("--output", required=True, metavar="DIR", help="Folder or URI for the results.")
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    metavar="DIR",
    help="Saved model; default: the demonstration model.",
)
@click.option("--overlays", is_flag=True, help="Also write photo and mask blended, as JPEG.")
@click.option(
    "--long-side",
    metavar="N|native",
    callback=_long_side,
    help="Scale larger images down to N pixels; default: as the model was trained.",
)
@click.option("--all-files", is_flag=True, help="Try files without a known image extension, too.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Only the first N images by name."
)
@click.option("--overwrite", is_flag=True, help="Do again what an earlier run has done.")
@click.option("--dry-run", is_flag=True, help="List what would be done.")
@click.option(
    "--max-rejected",
    metavar="N|N%",
    callback=_max_rejected,
    help="Exit with status 3 if more images are rejected.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=MAX_PIXELS,
    show_default=True,
    metavar="N",
    help="Reject larger images.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="auto",
    show_default=True,
    help="How the network is run.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    metavar="N",
    help="Images a batch; default: 8 on an accelerator, 1 on a CPU.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Threads of a local run.",
)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="warning", show_default=True)
@click.pass_context
def segment(
    context: click.Context,
    arguments: tuple[str, ...],
    output: str,
    model: str,
    long_side: int | str | None,
    overwrite: bool,
    dry_run: bool,
    max_rejected: str | None,
    workers: int,
    log_level: str,
    **options: Any,
) -> int:
    """Segment every image of INPUT.

    INPUT is a folder (searched recursively), a glob, an image, or @FILE, a list of paths or URIs;
    any of them local or remote (gs://, s3://). The same command again goes on where it stopped.
    """
    set_up_logging(log_level)
    from apache_beam.io.filesystems import FileSystems

    from model_build.artifact import describe, load
    from model_build.quiet import import_tensorflow
    from pipeline import job, outputs, preview
    from pipeline.beam_options import choose_runner, split_arguments
    from pipeline.listing import common_folder, parse_source
    from pipeline.rejects import allowed_rejects
    from pipeline.summary import table

    own = [name for parameter in context.command.params for name in parameter.opts]
    inputs, beam_options = split_arguments(arguments, own)
    if not inputs:
        raise click.UsageError("no INPUT; name a folder, a glob, an image or @LIST")
    local = choose_runner(beam_options, workers)
    FileSystems.set_options(beam_options)  # credentials and endpoints count before the job, too
    description = describe(model)
    sources = [parse_source(text) for text in inputs]
    settings = job.Settings(
        out=outputs.parse_output(output),
        root=common_folder(source.folder for source in sources),
        model=model,
        long_side=network_side(long_side, description),
        started=time.time(),
        **options,
    )
    preview.check_input(sources, settings)
    deciding = settings.deciding(description.fingerprint)
    since = outputs.standing_since(settings.out, deciding, overwrite)
    if dry_run:
        since = math.inf if since is None else since
        preview.dry_run(sources, dataclasses.replace(settings, since=since), click.echo)
        return 0
    if since is None:
        since = settings.started
        outputs.claim(settings.out, deciding, since)
    # Workers elsewhere cannot read this machine's disk: what they need goes to where they write.
    name = f"model-{description.fingerprint[:12]}"
    model = outputs.stage_for_workers(model, settings.out, name)
    settings = dataclasses.replace(settings, since=since, model=model)
    for index, source in enumerate(sources):
        if source.kind == "list":
            where = outputs.stage_for_workers(source.where, settings.out, f"input-{index}.txt")
            sources[index] = source._replace(where=where)
    if local:
        # A damaged model is to be told in one line, not by a worker in thirty.
        import_tensorflow()
        load(model)
    try:
        with telling_interrupts():
            summary, stages = job.run(sources, settings, description, beam_options)
    except KeyboardInterrupt:
        return complain(
            "interrupted; every mask written is whole: the same command goes on from there", 130
        )
    click.echo(table(summary, stages))
    if 0 < summary["masks"] == summary["kept"]:
        click.echo("nothing to do: every mask was there already")
    click.echo(f"results: {output}")
    if not summary["masks"]:
        return complain(f"no image got a mask; {settings.out}/rejected-*.jsonl tells why", 3)
    if summary["rejected"] > allowed_rejects(max_rejected, summary["images"]):
        return complain(f"more than {max_rejected} images were rejected", 3)
    return 0


@contextlib.contextmanager
def telling_interrupts() -> Iterator[None]:
    """Ends by a KeyboardInterrupt on Ctrl-C: Beam may pass it on as an error of the job."""
    interrupted = threading.Event()

    def note(number: int, frame: Any) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    except BaseException:
        if interrupted.is_set():
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> None:
    """Runs a command; what a user can mend is one line and status 2, what fails is status 1."""
    # Libraries address these to developers: an old Python, a renamed argument.
    warnings.simplefilter("ignore", FutureWarning)
    try:
        status = fcn_beam.main(standalone_mode=False)
    except click.ClickException as error:
        status = complain(error.format_message(), 2)
    except UserError as error:
        status = complain(str(error), 2)
    except (click.Abort, KeyboardInterrupt):
        status = complain("interrupted", 130)
    except Exception as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        # Beam passes on what a worker raised as text: its traceback, then the cause.
        cause = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        message = f"the job failed: {cause[0].strip()}"
        if sys.argv[1] in JOBS:
            message += " (--log-level debug tells where)"
        status = complain(message, 1)
    sys.exit(status)


def complain(message: str, status: int) -> int:
    click.echo(f"fcn-beam: {message}", err=True)
    return status
