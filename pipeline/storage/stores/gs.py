"""Google Cloud Storage, by gcsfs."""

from __future__ import annotations

import functools
import logging
import os
import re
from datetime import datetime
from typing import Any

from model_build.common.errors import first_line
from pipeline.storage.listed import File
from pipeline.storage.stores.object_store import UNSHARED, ObjectStore

MAX_SINGLE_REQUEST = 50 << 20  # bytes; gcsfs sends larger files in several requests
_SCOPES = "https://www.googleapis.com/auth/"


class Google(ObjectStore):
    """``gs://``."""

    package, extra = "gcsfs", "gcp"
    login = (
        "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS; for a "
        "public bucket add --storage-option gs.token=anon"
    )
    not_secret = ("anon", "cloud", "google_default")  # ways to find a token
    versions = ("generation",)
    transient_errors = ("TransportError", "ProxyError")
    credential_errors = ("RefreshError", "DefaultCredentialsError")

    def connect(self, options):
        # It logs, with a traceback, what it raises anyway.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        # Its newer class first asks Google, by another protocol, for the kind of each bucket. The
        # variable avoids importing that class; where others have imported it, it is not used.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        from gcsfs.core import GCSFileSystem

        token = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else "google_default"
        return GCSFileSystem(**{"token": token} | options | UNSHARED)

    def missing_credentials(self):
        if "token" not in self.options and not os.environ.get("STORAGE_EMULATOR_HOST"):
            import google.auth

            google.auth.default(scopes=[f"{_SCOPES}devstorage.read_write"])
        return ""

    def page(self, bucket, prefix, after, token, limit):
        # https://cloud.google.com/storage/docs/json_api/v1/objects/list
        query = {"prefix": prefix, "startOffset": after or None, "maxResults": limit}
        fields = "nextPageToken,items(name,size,generation,updated)"
        page = self.client.call(
            "GET", "b/{}/o", bucket, pageToken=token, fields=fields, json_out=True, **query
        )
        found = [
            File(one["name"], int(one["size"]), self.version_of(one), True, seconds(one["updated"]))
            for one in page.get("items", ())
        ]
        return found, page.get("nextPageToken")

    def put(self, key, data, exclusive):
        # gcsfs's own call does not return the generation.
        if len(data) >= MAX_SINGLE_REQUEST:
            return super().put(key, data, exclusive)
        # https://cloud.google.com/storage/docs/json_api/v1/objects/insert
        bucket, _, name = key.partition("/")
        url = self.client.base.replace("/storage/v1/", "/upload/storage/v1/") + "b/{}/o"
        query = {"uploadType": "media", "name": name}
        if exclusive:
            query["ifGenerationMatch"] = "0"
        headers = {"Content-Type": "application/octet-stream"}
        found = self.client.call(
            "POST", url, bucket, data=data, headers=headers, json_out=True, **query
        )
        return self.version_of(found)

    def status_of(self, error):
        # gcsfs raises an OSError without the status.
        return 403 if str(error).startswith("Forbidden: ") else super().status_of(error)


def seconds(text: str) -> float:
    """Parses a time of RFC 3339, as Google writes it, into seconds since 1970.

    Python 3.10 reads only fractions of three or six digits.
    """
    fraction = re.search(r"\.\d+", text)
    whole = text.replace(fraction[0] if fraction else "", "").replace("Z", "+00:00")
    return datetime.fromisoformat(whole).timestamp() + float(fraction[0] if fraction else 0)


def google_token() -> str:
    """Returns an access token for Google's services, by the credentials of this environment.

    Raises:
        OSError: there are no credentials, or Google refuses them.
    """
    import google.auth.exceptions
    import google.auth.transport.requests

    try:
        credentials = _credentials()
        if not credentials.valid:
            credentials.refresh(google.auth.transport.requests.Request())
        return credentials.token
    except google.auth.exceptions.GoogleAuthError as error:
        raise OSError(f"no credentials for Google Cloud: {first_line(error)}") from error


@functools.lru_cache(maxsize=1)
def _credentials() -> Any:
    import google.auth

    return google.auth.default(scopes=[f"{_SCOPES}cloud-platform"])[0]
