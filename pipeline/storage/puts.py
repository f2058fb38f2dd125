"""Putting a whole file into a store, and the version that the store gives it.

As in :mod:`pipeline.storage.paging` the stores are asked in their own terms where fsspec's literal
calls do not tell what a put has returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ONE_REQUEST = 50 << 20  # bytes; larger files go to gs:// in several
_VERSIONS = ("generation", "ETag", "etag", "LastModified", "Last-Modified", "mtime", "created")


def put(scheme: str, client: Any, key: str, data: bytes, exclusive: bool) -> str | None:
    """Writes a file whole.

    Args:
        client: the scheme's, from :mod:`pipeline.storage.stores`.
        key: what the client calls the file.
        exclusive: raise FileExistsError instead of replacing.

    Returns:
        Its version, see :class:`pipeline.storage.listed.File`; None where the client does not tell.

    Raises:
        Exception: the client's.
    """
    if scheme == "gs" and len(data) < ONE_REQUEST:
        return _google(client, key, data, exclusive)
    found = client.pipe_file(key, data, mode="create" if exclusive else "overwrite")
    if scheme == "memory":
        found = client.info(key)
    return version_of(found) if isinstance(found, Mapping) else None


def _google(client: Any, key: str, data: bytes, exclusive: bool) -> str:
    # https://cloud.google.com/storage/docs/json_api/v1/objects/insert
    bucket, _, name = key.partition("/")
    found = client.call(
        "POST",
        client.base.replace("/storage/v1/", "/upload/storage/v1/") + "b/{}/o",
        bucket,
        uploadType="media",
        name=name,
        data=data,
        headers={"Content-Type": "application/octet-stream"},
        json_out=True,
        **({"ifGenerationMatch": "0"} if exclusive else {}),
    )
    return str(found["generation"])


def version_of(info: Mapping[str, Any]) -> str | None:
    """The version in what a client tells of a file."""
    for name in _VERSIONS:
        if value := info.get(name):
            text = value.isoformat() if hasattr(value, "isoformat") else str(value)
            return text.strip('"')
    return None
