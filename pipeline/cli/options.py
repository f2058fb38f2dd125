"""Options that several commands share, and their callbacks."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import click

from model_build.common.console import visible_lines
from pipeline.network import ENGINES, PRECISIONS

# Beam logs these warnings whenever it starts or stops a job server.
_JOB_SERVER_MESSAGES = ("Really starting service", "Waiting for grpc channel", "Really destroying")

LOG_LEVELS = ("debug", "info", "warning", "error")


def path(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Callback for a path or URI: expands a leading ``~`` to the home folder.

    Shells do not expand it in ``--output=~/masks``.
    """
    return value and os.path.expanduser(value)


def input_path(text: str) -> str:
    """Expands a leading ``~`` in an INPUT, also after the ``@`` of a list."""
    at = "@" * text.startswith("@")
    return at + os.path.expanduser(text.removeprefix("@"))


class PassThroughCommand(click.Command):
    """A command that passes on unknown options; arguments after ``--`` are always paths."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        if "--" in arguments:
            end = arguments.index("--")
            names = (f"./{a}" if a.startswith("-") else a for a in arguments[end + 1 :])
            arguments = [*arguments[: end + 1], *names]
        return super().parse_args(context, arguments)


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


def _storage_options(
    context: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> dict[str, str]:
    options = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{name!r} is not SCHEME.KEY=VALUE, such as s3.anon=true")
        options[name] = value
    return options


# These decide a model's masks, so `segment` and `evaluate` share them.
_MASK_OPTIONS = (
    click.option(
        "--long-side",
        metavar="N|native",
        callback=_long_side,
        help="Longest side that the network sees; larger images are scaled down.  [default: "
        "the side that the model was trained at]",
    ),
    click.option(
        "--tile",
        is_flag=True,
        default=None,
        help="Process large images in overlapping tiles; scale them down only if --long-side says "
        "so.",
    ),
    click.option(
        "--max-pixels",
        type=click.IntRange(1),
        metavar="N",
        help="Reject images with more pixels.  [default: 178 million]",
    ),
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        help="Compile the whole network (xla), or only its last step (graph).  "
        "[default: xla on a GPU, graph on a CPU]",
    ),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        help="Number format.  [default: bfloat16 in a local run on a CPU that supports it, else "
        "float32]",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        metavar="N",
        help="Images per batch.  [default: 8 on a GPU, 1 on a CPU]",
    ),
)
workers = click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Parallel streams of a local run.  [default: one per core; on a GPU one]",
)
storage_options = click.option(
    "--storage-option",
    "storage_options",
    multiple=True,
    callback=_storage_options,
    metavar="SCHEME.KEY=VALUE",
    help="Option for the client of a store, such as s3.anon=true; repeatable.",
)
log_level = click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS),
    default="warning",
    show_default=True,
    help="How much to log.",
)


def mask_options(command: Callable) -> Callable:
    """Adds to a command the options that decide a model's masks."""
    for option in reversed(_MASK_OPTIONS):
        command = option(command)
    return command


def given_options(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options that were given, so that others keep their function's default."""
    return {name: value for name, value in options.items() if value is not None}


def require_option(options: dict[str, Any], name: str) -> None:
    """Checks that a required option was given.

    Click itself would check this before unknown options are reported, of which one may be a
    misspelling of this one.

    Raises:
        click.UsageError: it is missing.
    """
    if options[name] is None:
        raise click.UsageError(f"missing option --{name}")


class _VisibleFormatter(logging.Formatter):
    """Escapes control characters, as file names in the log may contain any."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


def set_up_logging(level: str) -> None:
    """Sends the log to standard error, without messages that only developers need."""
    logging.basicConfig(level=level.upper())
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_VisibleFormatter("%(levelname)s: %(message)s"))
    if level != "debug":  # a failure is reported in one line, without a worker's traceback
        for name in ("common", "worker"):
            logging.getLogger(f"apache_beam.runners.{name}").setLevel(logging.CRITICAL)
    if level not in ("debug", "info"):  # nor Dataflow's messages, or retried requests
        for name in ("runners.dataflow", "utils.retry", "internal.gcp.auth"):
            logging.getLogger(f"apache_beam.{name}").setLevel(logging.CRITICAL)
    # Beam logs which of its optional packages are missing; they are not needed here.
    noise = ("Resource module is not available", "apitools not found", *_JOB_SERVER_MESSAGES)
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: not str(record.msg).startswith(noise))
