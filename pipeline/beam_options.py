"""Beam's own options, told apart from INPUTs and from mistakes.

Beam drops options it does not know, silently; here they are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    StandardOptions,
    _BeamArgumentParser,
)
from apache_beam.runners.runner import create_runner

from model_build.errors import did_you_mean

LOCAL_RUNNER = "FnApiRunner"


class _Parser(_BeamArgumentParser):
    def error(self, message: str):
        raise click.UsageError(message)


def split_arguments(
    arguments: Sequence[str], own_options: Iterable[str]
) -> tuple[list[str], PipelineOptions]:
    """Splits what the command itself does not know.

    Args:
        arguments: of the command line, less the command's own options.
        own_options: their names, for suggestions.

    Returns:
        The INPUTs, and Beam's options.

    Raises:
        click.UsageError: an option that nobody knows, or a bad value.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    for options in {cls.__name__: cls for cls in PipelineOptions.__subclasses__()}.values():
        options._add_argparse_args(parser)
    known = {name: action for action in parser._actions for name in action.option_strings}
    inputs, flags, rest = [], [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-") or argument == "-":
            inputs.append(argument)
            continue
        option, equals, _ = argument.partition("=")
        if option not in known:
            hint = did_you_mean(option, [*own_options, *known])
            raise click.UsageError(f"no such option {option}{hint}")
        flags.append(argument)
        if not equals and known[option].nargs != 0 and rest:
            flags.append(rest.pop(0))
    parser.parse_known_args(flags)  # complains of bad values
    return inputs, PipelineOptions(flags)


def choose_runner(options: PipelineOptions, workers: int) -> bool:
    """Makes local runs run in this process, on ``workers`` threads.

    Beam's ``DirectRunner`` would first try to download another runner's binary; it is taken to mean
    the in-process one.

    Returns:
        Whether the run is local.

    Raises:
        click.UsageError: Beam has no such runner.
    """
    standard = options.view_as(StandardOptions)
    if (standard.runner or "DirectRunner").lower() not in ("direct", "directrunner", "fnapirunner"):
        try:
            create_runner(standard.runner)
        except (ImportError, ValueError) as error:
            raise click.UsageError(f"--runner {standard.runner}: {error}") from None
        return False
    standard.runner = LOCAL_RUNNER
    if workers > 1:
        direct = options.view_as(DirectOptions)
        direct.direct_num_workers = workers
        direct.direct_running_mode = "multi_threading"
    return True
