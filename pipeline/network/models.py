"""Saved models on any disk or store."""

from __future__ import annotations

from pathlib import Path

from model_build import artifact
from model_build.artifact import DESCRIPTION, NETWORK, Description, Network
from pipeline.storage import (
    Files,
    is_remote,
    join,
    on_temporary_disk,
    temporary_folder,
    users_fault,
)


def describe(model: str, files: Files) -> Description:
    """Reads a model's ``model.json``.

    Raises:
        UserError: there is none, or it is of another form.
    """
    if not is_remote(model):
        return artifact.describe(model)
    files.check(model)
    where = join(model, DESCRIPTION)
    what = f"not a saved model: cannot read {DESCRIPTION}"
    with users_fault(model, what, "name a folder that `fcn-beam train` wrote"):
        data = files.read(where)
    return artifact.parse_description(data, where)


def load(model: str, files: Files) -> Network:
    """Loads a saved model; a remote one from a local copy, which is checked and then removed.

    Raises:
        UserError: as :func:`model_build.artifact.load`, or it cannot be copied here.
    """
    from pipeline.network.frozen import functions  # TensorFlow

    if not is_remote(model):
        return artifact.load(model, functions=functions)
    with temporary_folder() as scratch:
        with users_fault(model, "cannot be copied here", "check the path and your permissions"):
            description = files.read(join(model, DESCRIPTION))
            with on_temporary_disk():
                Path(scratch, DESCRIPTION).write_bytes(description)
            files.copy_here(join(model, NETWORK), f"{scratch}/{NETWORK}")
        return artifact.load(scratch, name=model, functions=functions)
