"""The commands of the network: one module each. Nothing heavy is imported before one runs."""

from __future__ import annotations

import os

import click

from model_build.common.errors import UserError


def local_folder(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The callback of an argument or option that names a folder on this machine.

    A leading ``~`` is the home folder, also where the shell has left it.

    Raises:
        UserError: it is to be read, and there is none: told before anything heavy is imported.
        BadParameter: it is a URI.
    """
    value = os.path.expanduser(value)
    if "://" not in value:
        if parameter.name in ("data", "folder") and not os.path.isdir(value):
            raise UserError(f"{value}: no such folder; check the path")
        return value
    command = "training" if context.info_name == "train" else f"data {context.info_name}"
    written = parameter.name in ("output", "dest")
    remedy = "copy it there afterwards" if written else "copy it here first"
    raise click.BadParameter(f"{value}: {command} works on local folders only; {remedy}")
