"""Saved models on any disk or store."""

from __future__ import annotations

import tempfile
from pathlib import Path

from model_build import artifact
from model_build.artifact import DESCRIPTION, NETWORK, Description, Network
from model_build.errors import UserError, first_line
from pipeline.storage import Files, is_remote, join


def describe(model: str, files: Files) -> Description:
    """Reads a model's ``model.json``.

    Raises:
        UserError: there is none, or it is of another form.
    """
    if not is_remote(model):
        return artifact.describe(model)
    files.check(model)
    where = join(model, DESCRIPTION)
    try:
        data = files.read(where)
    except OSError as error:
        raise UserError(
            f"{model}: is no saved model: {DESCRIPTION} cannot be read ({first_line(error)}); "
            "name a folder that `fcn-beam train` wrote"
        ) from None
    return artifact.parse_description(data, where)


def load(model: str, files: Files) -> Network:
    """Loads a saved model; a remote one from a local copy, which is checked and then removed.

    Raises:
        UserError: as :func:`model_build.artifact.load`, or it cannot be copied here.
    """
    if not is_remote(model):
        return artifact.load(model)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            Path(scratch, DESCRIPTION).write_bytes(files.read(join(model, DESCRIPTION)))
            files.copy_here(join(model, NETWORK), f"{scratch}/{NETWORK}")
        except OSError as error:
            raise UserError(f"{model}: cannot be copied here: {first_line(error)}") from None
        return artifact.load(scratch, name=model)
