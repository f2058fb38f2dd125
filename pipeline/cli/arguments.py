"""Separates Beam's own options from INPUTs, and refuses unknown options.

Beam silently drops options it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

# Beam has no public list of its options; this is how it collects them itself.
from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

from model_build.common.errors import did_you_mean


class _Parser(_BeamArgumentParser):
    def error(self, message: str):
        raise click.UsageError(message)


def split_arguments(
    arguments: Sequence[str], own_options: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Splits the arguments that are not the command's own options.

    Args:
        arguments: the command line without the command's own options.
        own_options: the names of those, for suggestions.

    Returns:
        The INPUTs, and Beam's options with their values.

    Raises:
        click.UsageError: an unknown option, or a bad value.
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
    return inputs, flags


def own_options(command: click.Command) -> list[str]:
    """Returns the names of a command's own options."""
    return [name for parameter in command.params for name in parameter.opts]
