"""Azure Blob Storage, by adlfs."""

from __future__ import annotations

import os

from pipeline.storage.faults import BadName
from pipeline.storage.listed import File
from pipeline.storage.stores.object_store import NOT_LITERAL, ObjectStore


class Azure(ObjectStore):
    """``az://``."""

    scheme, package, extra = "az", "adlfs", "azure"
    login = "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and a key"
    versions = ("etag",)
    lists_after = False
    transient_errors = ("ServiceRequestError", "ServiceResponseError", "IncompleteReadError")
    credential_errors = ("ClientAuthenticationError",)

    def missing_credentials(self):
        names = ("account_name", "connection_string")
        found = any(
            name in self.options or f"AZURE_STORAGE_{name.upper()}" in os.environ for name in names
        )
        return "" if found else "no storage account given"

    def key(self, uri):
        # adlfs takes the one for the beginning of a version, the other for an empty fragment.
        if "?versionid=" in uri.lower():
            raise BadName(f"{uri}: its name contains ?versionId=, {NOT_LITERAL}")
        if uri.endswith("#"):
            raise BadName(f"{uri}: its name ends with #, {NOT_LITERAL}")
        return super().key(uri)

    def page(self, bucket, prefix, after, token, limit):
        # https://learn.microsoft.com/en-us/rest/api/storageservices/list-blobs
        from fsspec.asyn import sync

        container = self.client.service_client.get_container_client(bucket)
        pages = container.list_blobs(name_starts_with=prefix).by_page(token)

        async def first_page() -> list[File]:
            return [
                File(one.name, one.size, one.etag.strip('"'), True, one.last_modified.timestamp())
                async for one in await anext(pages)
            ]

        return sync(self.client.loop, first_page), pages.continuation_token
