"""Resolves the defaults of a training: start, recipe and padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from model_build.artifact import DEFAULT_MODEL
from model_build.network.fcn import Architecture
from model_build.training.options import Options
from model_build.training.recipes import RECIPES, Recipe
from model_build.training.start import resolve_start


def resolve(given: Mapping[str, Any], start: str | None = None) -> dict[str, Any]:
    """Returns the arguments of :func:`model_build.training.train.train` for the options given.

    Training starts from the included model, by the recipe ``start`` and with small images padded.
    An option of the architecture, or the recipe ``d2l``, without a start means a new network.

    Args:
        given: ``recipe``, a name of :data:`RECIPES`, and fields of :class:`Recipe`,
            :class:`Architecture` and :class:`Options`; None is "not given".
        start: see :func:`model_build.training.start.resolve_start`.

    Raises:
        UserError: see :func:`model_build.training.start.resolve_start` and :class:`Options`.
    """
    name = given.get("recipe") or "default"
    architecture, options = _fields(Architecture, given), _fields(Options, given)
    if start is None and not architecture and name != "d2l":
        start = DEFAULT_MODEL
    begun = resolve_start(start, architecture) if start else None
    if begun:
        name = "start" if name == "default" else name
        options = {"pad_small": True} | options
    return {
        "recipe": dataclasses.replace(RECIPES[name], **_fields(Recipe, given)),
        "architecture": Architecture(**{"backbone_weights": "imagenet"} | architecture),
        "start": begun,
        "options": Options(**options),
    }


def _fields(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    named = {field.name: given.get(field.name) for field in dataclasses.fields(kind)}
    return {name: value for name, value in named.items() if value is not None}
