"""Loads saved models from any disk or store."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from model_build import artifact
from model_build.artifact import DESCRIPTION, NETWORK, PROGRAM, Description
from model_build.common.errors import UserError, first_line
from pipeline.storage import (
    Files,
    as_user_error,
    is_remote,
    join,
    on_temporary_disk,
    temporary_folder,
)


class Network(NamedTuple):
    """A loaded network.

    Attributes:
        description: its ``model.json``.
        functions: a :class:`model_build.program.Program`, or a
            :class:`pipeline.network.foreign.ForeignNetwork` with the same functions.
    """

    description: Description
    functions: Any


def describe(model: str, files: Files) -> Description:
    """Reads a model's ``model.json``.

    Raises:
        UserError: the file is missing or invalid.
    """
    if not is_remote(model):
        return artifact.describe(model)
    files.check(model)
    where = join(model, DESCRIPTION)
    what = f"not a saved model: cannot read {DESCRIPTION}"
    with as_user_error(model, what, "name a folder that `fcn-beam train` wrote"):
        data = files.read(where)
    return artifact.parse_description(data, where)


_loaded_ahead: dict[str, Network] = {}


def load_ahead(model: str, files: Files) -> None:
    """Loads a saved model before a job in this process starts, so that errors end the command.

    The job's own :func:`load` returns this network, so the model is copied and read only once.

    Raises:
        UserError: as :func:`load`.
    """
    _loaded_ahead[model] = load(model, files)


def load(model: str, files: Files) -> Network:
    """Loads a saved model; a remote one from a local copy, which is removed afterwards.

    Raises:
        UserError: no model there, a file changed or cut short since it was saved, a network that
            contains forbidden operations or does not fit its description, or a failed copy.
    """
    ahead = _loaded_ahead.pop(model, None)
    if ahead is not None and ahead.description == describe(model, files):
        return ahead
    if not is_remote(model):
        return load_local(model, model)
    with temporary_folder() as scratch:
        with as_user_error(model, "cannot be copied here", "check the path and your permissions"):
            description = files.read(join(model, DESCRIPTION))
            with on_temporary_disk():
                Path(scratch, DESCRIPTION).write_bytes(description)
            files.copy_here(join(model, NETWORK), f"{scratch}/{NETWORK}")
        return load_local(scratch, model)


def load_local(folder: str, name: str) -> Network:
    """Loads a saved model from a local folder.

    Args:
        folder: the saved-model folder.
        name: its name in messages, such as the URI it was copied from.

    Raises:
        UserError: as :func:`load`.
    """
    from model_build.program import Program  # TensorFlow
    from model_build.saved_model import UnusableModel, read
    from pipeline.network.foreign import ForeignNetwork

    description = artifact.describe(folder, name=name)
    artifact.check_files(folder, description, name=name)
    where = str(Path(folder, NETWORK))
    try:
        graph = read(where).graph_def
        if description.kind == PROGRAM:
            functions: Any = Program(graph, description.scores.averages)
        else:
            functions = ForeignNetwork(where, description)
    except UnusableModel as error:
        raise UserError(f"{join(name, NETWORK)}: is not run: {error}") from None
    except Exception as error:
        raise UserError(
            f"{join(name, NETWORK)}: TensorFlow cannot load it: {first_line(error)}"
        ) from None
    if functions.channels != len(description.labels):
        raise UserError(
            f"{join(name, DESCRIPTION)}: has {len(description.labels)} labels, but the network "
            f"has {functions.channels} output channels; use the model.json it was saved with"
        )
    return Network(description, functions)
