"""Which stores there are, by their schemes."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

from model_build.common.errors import UserError, did_you_mean, require
from pipeline.storage import local
from pipeline.storage.names import is_remote, scheme_of
from pipeline.storage.stores import az, gs, memory, s3, web
from pipeline.storage.stores.object_store import SECRET, ObjectStore
from pipeline.storage.stores.store import Store

STORES: dict[str, type[ObjectStore]] = {
    "gs": gs.Google,
    "s3": s3.Amazon,
    "az": az.Azure,
    "https": web.Web,
    "http": web.Web,
    "memory": memory.Memory,
}

Options = tuple[tuple[str, str, str], ...]


def store_of(path: str, options: Options = ()) -> Store:
    """Returns the store of a path: one object for each process, scheme and set of options.

    Args:
        options: (scheme, key, value) each, see :func:`parse_options`.

    Raises:
        UserError: the scheme is unknown, or its client is not installed.
    """
    if not is_remote(path):
        return local
    scheme = scheme_of(path)
    if scheme not in STORES:
        known = ", ".join(f"{name}://" for name in STORES)
        raise UserError(
            f"{path}: unknown scheme {scheme}://{did_you_mean(scheme, STORES)}; use {known} "
            "or a local path"
        )
    own = tuple(sorted((key, value) for of, key, value in options if of == scheme))
    return _open(scheme, own, os.getpid())


@functools.cache
def _open(scheme: str, options: tuple[tuple[str, str], ...], process: int) -> ObjectStore:
    # A client's event loop and connections do not survive a fork: the process is part of the key.
    kind = STORES[scheme]
    if kind.package:
        require(kind.extra, kind.package, purpose=f"{scheme}://")
    return kind(dict(options))


def is_read_only(path: str) -> bool:
    """Returns whether a path is on a web server, which can be neither listed nor written to."""
    kind = STORES.get(scheme_of(path))
    return kind is not None and kind.read_only


def parse_options(options: Mapping[str, str]) -> Options:
    """Parses ``{"s3.endpoint_url": "http://…"}`` into (scheme, key, value) each.

    Raises:
        UserError: an option does not begin with the scheme of a store.
    """
    parsed = []
    for name, value in options.items():
        scheme, dot, key = name.partition(".")
        if not (dot and key) or scheme not in STORES:
            known = ", ".join(f"{scheme}.KEY" for scheme in STORES)
            raise UserError(f"--storage-option {name}: must be one of {known}")
        parsed.append((scheme, key, value))
    return tuple(parsed)


def secrets(options: Mapping[str, str]) -> list[str]:
    """Returns the names of options whose values may be secrets."""
    return [
        f"{scheme}.{key}"
        for scheme, key, value in parse_options(options)
        if SECRET.search(key) and value not in STORES[scheme].not_secret
    ]
