"""The commands for training, one module each; heavy imports happen when one runs."""

from __future__ import annotations

import os

import click

from model_build.common.errors import UserError


def local_folder(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Callback for an argument or option that names a folder on this machine.

    Expands a leading ``~`` to the home folder, as shells do not expand it in ``--output=~/model``.

    Raises:
        UserError: the folder is to be read but does not exist; checked before heavy imports.
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
