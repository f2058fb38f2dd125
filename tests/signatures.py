"""Beam's jobs in this process, without asking for the same signatures thousands of times.

To build and run a small graph Beam inspects each method of each of its steps again and again, which
takes nearly half of the time of a job of tests. Signatures of functions do not change.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from apache_beam.transforms import core
from apache_beam.typehints import decorators

_known: dict[type, WeakKeyDictionary[Callable, inspect.Signature]] = {
    types.FunctionType: WeakKeyDictionary(),
    types.MethodType: WeakKeyDictionary(),
}


def remember_signatures() -> None:
    """Lets Beam inspect each function once a process."""
    core.get_signature = _get_signature


def _get_signature(function: Any) -> inspect.Signature:
    """Returns the result of Beam's own function of this name."""
    known = _known.get(type(function))
    key = getattr(function, "__func__", function)
    if known is None or not isinstance(key, types.FunctionType):
        return decorators.get_signature(function)
    if key not in known:
        known[key] = decorators.get_signature(function)
    return known[key]
