"""Options that several commands share, and what they mean."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import click

from model_build.common.console import visible_lines
from pipeline.network import ENGINES, PRECISIONS

# What Beam warns of where it starts and ends a job server, which is no cause for worry.
_OF_JOB_SERVERS = ("Really starting service", "Waiting for grpc channel", "Really destroying")

LOG_LEVELS = ("debug", "info", "warning", "error")


def path(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The callback of a path or URI: a leading ``~`` is the home folder.

    Shells leave it in ``--output=~/masks`` and in ``@~/list.txt``.
    """
    return value and os.path.expanduser(value)


def input_path(text: str) -> str:
    """The same of an INPUT, which may be a list."""
    at = "@" * text.startswith("@")
    return at + os.path.expanduser(text.removeprefix("@"))


class WithNames(click.Command):
    """A command that passes on options it does not know, but takes all behind ``--`` for names."""

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


# What decides a model's masks: said to `evaluate` as to `segment`, and meaning the same.
_MASK_OPTIONS = (
    click.option(
        "--long-side",
        metavar="N|native",
        callback=_long_side,
        help="Longest side that the network sees; larger images are scaled down.  [default: "
        "what the model was trained at]",
    ),
    click.option(
        "--tile",
        is_flag=True,
        default=None,
        help="Do not scale large images down, unless --long-side says so; take them in overlapping "
        "tiles.",
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
    """Gives a command the options that decide what a model's masks are."""
    for option in reversed(_MASK_OPTIONS):
        command = option(command)
    return command


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given; the others keep the default of the function they go to."""
    return {name: value for name, value in options.items() if value is not None}


def require(options: dict[str, Any], name: str) -> None:
    """Checks that an option was given, once the unknown ones have been told.

    Raises:
        click.UsageError: it was not.
    """
    if options[name] is None:
        raise click.UsageError(f"missing option --{name}")


class _Visible(logging.Formatter):
    """Names in the log may hold any character."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


def set_up_logging(level: str) -> None:
    """Sends the log to standard error, less what libraries address to developers."""
    logging.basicConfig(level=level.upper())
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Visible("%(levelname)s: %(message)s"))
    if level != "debug":  # what ends a job is told in one line, not by a worker's traceback
        for name in ("common", "worker"):
            logging.getLogger(f"apache_beam.runners.{name}").setLevel(logging.CRITICAL)
    if level not in ("debug", "info"):  # nor by what Dataflow tells, or by each attempt to ask it
        for name in ("runners.dataflow", "utils.retry", "internal.gcp.auth"):
            logging.getLogger(f"apache_beam.{name}").setLevel(logging.CRITICAL)
    # Beam says so where optional packages of its own are missing; nothing here needs them.
    noise = ("Resource module is not available", "apitools not found", *_OF_JOB_SERVERS)
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: not str(record.msg).startswith(noise))
