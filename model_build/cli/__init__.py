"""The commands of the network: one module each. Nothing heavy is imported before one runs."""

from __future__ import annotations

import click


def local_folder(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The callback of an argument or option that names a folder on this machine.

    Raises:
        BadParameter: it is a URI.
    """
    if "://" not in value:
        return value
    command = "training" if context.info_name == "train" else f"data {context.info_name}"
    written = parameter.name in ("output", "dest")
    remedy = "copy it there afterwards" if written else "copy it here first"
    raise click.BadParameter(f"{value}: {command} works on local folders only; {remedy}")
