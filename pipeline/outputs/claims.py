"""Whose masks an output folder holds: ``run.json``."""

from __future__ import annotations

from typing import Any

from model_build.errors import UserError, first_line
from pipeline.outputs.folder import MASKS, RUN, OutputFolder


def standing_since(out: OutputFolder, options: dict[str, Any], overwrite: bool) -> float | None:
    """Since when OUT has been holding masks made with these options.

    Args:
        options: every option that decides what a mask is.
        overwrite: whatever it holds is to be done again.

    Returns:
        Seconds since 1970: older masks hold no longer. None: no mask holds.

    Raises:
        UserError: it holds masks made with other options, or files of another origin; or it cannot
            be looked at.
    """
    if overwrite:
        return None
    try:
        noted = _noted(out.read_json(RUN))
        strangers = noted is None and out.has_masks()
    except OSError as error:
        raise UserError(
            f"{out.path}: cannot be looked at: {first_line(error)}; check the path and your "
            "permissions"
        ) from None
    if strangers:
        raise UserError(
            f"{out.path}/{MASKS}: holds files that no run has written; choose another --output, "
            "or add --overwrite to write among them"
        )
    if noted is None:
        return None
    earlier, since = noted
    for key, value in options.items():
        if (found := earlier.get(key)) != value:
            raise UserError(
                f"{out.path}: holds masks made with {key} {found}, not {value}; "
                "add --overwrite to do them again, or choose another --output"
            )
    return since


def _noted(run: Any) -> tuple[dict[str, Any], float] | None:
    """The options and the beginning that a ``run.json`` tells; None if it is of another form."""
    try:
        return dict(run["options"]), float(run["started"])
    except (KeyError, TypeError, ValueError):
        return None


def claim(out: OutputFolder, options: dict[str, Any], started: float) -> None:
    """Notes in OUT what its masks are made with from now on.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        out.write_json(RUN, {"options": options, "started": started})
    except OSError as error:
        cause = first_line(error)
        raise UserError(
            f"{out.path}: cannot be written: {cause}; choose another --output"
        ) from None
