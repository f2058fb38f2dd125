"""The command ``fcn-beam info``."""

from __future__ import annotations

from typing import Any

import click

from model_build.common.console import say, visible
from pipeline.cli.options import log_level, path, set_up_logging, storage_options


@click.command()
@click.argument("model", callback=path)
@storage_options
@log_level
def info(model: str, storage_options: dict[str, str], log_level: str) -> None:
    """Load and check MODEL, a saved-model folder, and describe it."""
    set_up_logging(log_level)
    from model_build.common.quiet_imports import import_tensorflow
    from pipeline.network.models import load
    from pipeline.storage import Files, parse_options

    import_tensorflow()
    description = load(model, Files(parse_options(storage_options))).description
    rows: dict[str, Any] = {
        "network": description.kind.replace("_", " "),
        "backbone": description.backbone,
        "architecture": _shown(description.architecture) or "unknown",
        "stride": description.stride,
        "long side": f"{description.long_side} pixels",
        "parameters": f"{description.parameters:,}",
        "normalisation": _normalised(description.normalisation),
        "labels": f"{len(description.labels)}: " + ", ".join(description.labels.names),
        **{key.replace("_", " "): _shown(value) for key, value in description.training.items()},
        "fingerprint": description.fingerprint,
    }
    for key, value in rows.items():
        say(visible(f"{key:<20}{value}"))


def _normalised(value: dict[str, Any]) -> str:
    if not value:  # a network that was not trained here
        return "unknown"
    return f"{value['channels']} × {_short(value['scale'])} + {_short(value['offset'])}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_shown(v)}" for key, v in value.items())
    return " × ".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
