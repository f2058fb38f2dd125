"""Listing a store page by page.

fsspec's own ``find`` and ``ls`` hold a whole listing, so the stores are asked here in the terms of
their own interfaces, through the calls that fsspec's file systems offer for that. This is the only
module that knows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from pipeline.storage.retries import with_retries

PAGE = 1000  # objects, the most that stores give at once


class Object(NamedTuple):
    """An object of a store: its key in the bucket, bytes, and the rest of :class:`File`."""

    key: str
    size: int
    version: str
    written: float


def objects(scheme: str, client: Any, bucket: str, prefix: str) -> Iterator[Object]:
    """Every object whose key starts with a prefix; at most one page of them is held.

    Args:
        client: the scheme's, from :mod:`pipeline.storage.stores`.
        prefix: literal; ``""`` for the whole bucket.

    Raises:
        Exception: the client's.
    """
    return {"gs": _google, "s3": _amazon, "az": _azure, "memory": _memory}[scheme](
        client, bucket, prefix
    )


def _google(client: Any, bucket: str, prefix: str) -> Iterator[Object]:
    # https://cloud.google.com/storage/docs/json_api/v1/objects/list
    token = None
    while True:
        page = _call(
            client.call,
            "GET",
            "b/{}/o",
            bucket,
            prefix=prefix,
            maxResults=PAGE,
            pageToken=token,
            fields="nextPageToken,items(name,size,generation,updated)",
            json_out=True,
        )
        for item in page.get("items", ()):
            written = datetime.fromisoformat(item["updated"].replace("Z", "+00:00")).timestamp()
            yield Object(item["name"], int(item["size"]), str(item["generation"]), written)
        token = page.get("nextPageToken")
        if not token:
            return


def _amazon(client: Any, bucket: str, prefix: str) -> Iterator[Object]:
    # https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
    token: dict[str, str] = {}
    while True:
        page = _call(client.call_s3, "list_objects_v2", Bucket=bucket, Prefix=prefix, **token)
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


def _memory(client: Any, bucket: str, prefix: str) -> Iterator[Object]:
    start = f"/{bucket}/"
    for path in sorted(client.store):
        if path.startswith(start + prefix):
            info = client.info(path)
            key, created = path[len(start) :], info["created"]
            yield Object(key, info["size"], created.isoformat(), created.timestamp())


def _call(function: Callable, *arguments: Any, **options: Any) -> Any:
    return with_retries(lambda: function(*arguments, **options))
