"""Listing a store page by page.

fsspec's own ``find`` and ``ls`` hold a whole listing, so the stores are asked here in the terms of
their own interfaces, through the calls that fsspec's file systems offer for that. This is the only
module that knows them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from pipeline.storage.retries import with_retries

PAGE = 1000  # objects, the most that stores give at once
# Characters up to this one may follow in a key: no store allows one beyond.
_LAST = "\U0010ffff"


class Object(NamedTuple):
    """An object of a store: its key in the bucket, bytes, and the rest of :class:`File`."""

    key: str
    size: int
    version: str
    written: float


def objects(scheme: str, client: Any, bucket: str, prefix: str) -> Iterator[Object]:
    """Every object whose key starts with a prefix, by key; at most one page of them is held.

    Args:
        client: the scheme's, from :mod:`pipeline.storage.stores`.
        prefix: literal; ``""`` for the whole bucket.

    Raises:
        Exception: the client's.
    """
    if scheme == "az":
        return _azure(client, bucket, prefix)
    return _LISTED[scheme](client, bucket, prefix, "", PAGE)


def can_split(scheme: str) -> bool:
    """Whether :func:`blocks_beyond` knows a store: it must list from a key on."""
    return scheme in _LISTED


def blocks_beyond(scheme: str, client: Any, bucket: str, prefix: str, last: str) -> Iterator[str]:
    """Longer prefixes that hold the objects beyond a key; costs a request each, and one.

    Args:
        last: the key; it starts with the prefix.
    """

    def key_beyond(after: str) -> str | None:
        found = _LISTED[scheme](client, bucket, prefix, after, 1)
        return next((item.key for item in found), None)

    return blocks(key_beyond, last)


def blocks(key_beyond: Callable[[str], str | None], last: str) -> Iterator[str]:
    """Prefixes that hold all keys beyond ``last``, and none other; each key has just one of them.

    They grow by a character where keys differ: beyond ``a/0099`` these are ``a/01``, ``a/02`` and
    so on, then ``a/1``, then ``b``.

    Args:
        key_beyond: the first key beyond a text, None if there is none.
    """
    block = after = last
    while (key := key_beyond(after)) is not None:
        pairs = zip(block, key, strict=False)
        same = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
        if same == len(block) and after != last:  # in this block still
            after = key
            continue
        block = key[: same + 1]
        yield block
        after = block + _LAST


def seconds(text: str) -> float:
    """A time as Google writes it (RFC 3339), in seconds since 1970.

    Python 3.10 reads only fractions of three or six digits.
    """
    fraction = re.search(r"\.\d+", text)
    whole = text.replace(fraction[0] if fraction else "", "").replace("Z", "+00:00")
    return datetime.fromisoformat(whole).timestamp() + float(fraction[0] if fraction else 0)


def _google(client: Any, bucket: str, prefix: str, after: str, most: int) -> Iterator[Object]:
    # https://cloud.google.com/storage/docs/json_api/v1/objects/list
    token = None
    while True:
        page = _call(
            client.call,
            "GET",
            "b/{}/o",
            bucket,
            prefix=prefix,
            maxResults=most,
            pageToken=token,
            startOffset=after or None,
            fields="nextPageToken,items(name,size,generation,updated)",
            json_out=True,
        )
        for item in page.get("items", ()):
            if item["name"] != after:
                version, written = str(item["generation"]), seconds(item["updated"])
                yield Object(item["name"], int(item["size"]), version, written)
        token = page.get("nextPageToken")
        if not token:
            return


def _amazon(client: Any, bucket: str, prefix: str, after: str, most: int) -> Iterator[Object]:
    # https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
    where = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": most}
    token = {"StartAfter": after} if after else {}
    while True:
        page = _call(client.call_s3, "list_objects_v2", **where, **token)
        for item in page.get("Contents", ()):
            written = item["LastModified"].timestamp()
            yield Object(item["Key"], item["Size"], item["ETag"].strip('"'), written)
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def _azure(client: Any, bucket: str, prefix: str) -> Iterator[Object]:
    # https://learn.microsoft.com/en-us/rest/api/storageservices/list-blobs
    from fsspec.asyn import sync

    container = client.service_client.get_container_client(bucket)
    pages = container.list_blobs(name_starts_with=prefix).by_page()

    async def next_page() -> list[Object] | None:
        try:
            page = await pages.__anext__()
        except StopAsyncIteration:
            return None
        return [
            Object(blob.name, blob.size, blob.etag.strip('"'), blob.last_modified.timestamp())
            async for blob in page
        ]

    while (page := sync(client.loop, next_page)) is not None:
        yield from page


def _memory(client: Any, bucket: str, prefix: str, after: str, most: int) -> Iterator[Object]:
    start = f"/{bucket}/"
    for path in sorted(client.store):
        if path.startswith(start + prefix) and path > start + after:
            info = client.info(path)
            key, created = path[len(start) :], info["created"]
            yield Object(key, info["size"], created.isoformat(), created.timestamp())


# Stores that can list from a key on.
_LISTED = {"gs": _google, "s3": _amazon, "memory": _memory}


def _call(function: Callable, *arguments: Any, **options: Any) -> Any:
    return with_retries(lambda: function(*arguments, **options))
