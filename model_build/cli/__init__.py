"""The commands of the network: one module each. Nothing heavy is imported before one runs."""

from __future__ import annotations

import click


def local_folder(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """A folder as an argument or option: on this machine, as TensorFlow and Pillow read it there.

    Raises:
        BadParameter: it is a URI.
    """
    if "://" not in value:
        return value
    command = "training" if context.info_name == "train" else f"data {context.info_name}"
    remedy = "copy it here first" if parameter.human_readable_name != "output" else "copy it later"
    raise click.BadParameter(f"{value}: {command} works on local folders only; {remedy}")
