"""Amazon S3 and its relatives, by s3fs."""

from __future__ import annotations

import contextlib
import os

from pipeline.storage.faults import BadName
from pipeline.storage.listed import File
from pipeline.storage.stores.object_store import NOT_LITERAL, ObjectStore


class Amazon(ObjectStore):
    """``s3://``; with ``AWS_ENDPOINT_URL`` on another server."""

    scheme, package, extra = "s3", "s3fs", "aws"
    login = (
        "run `aws configure` or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public "
        "bucket add --storage-option s3.anon=true"
    )
    versions = ("ETag", "LastModified")
    transient_errors = (  # botocore's
        ("HTTPClientError", "EndpointConnectionError", "ConnectTimeoutError")
        + ("IncompleteReadError", "ProxyError")
    )
    # botocore's, and codes of answers, whose status is 400 or 403 as for other refusals
    credential_errors = (
        ("NoCredentialsError", "CredentialRetrievalError", "PartialCredentialsError")
        + ("TokenRetrievalError", "UnauthorizedSSOTokenError", "SSOTokenLoadError")
        + ("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired")
        + ("InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "AuthFailure")
    )

    def connect(self, options):
        if os.environ.get("AWS_ENDPOINT_URL") and not self._has_credentials():
            options.setdefault("anon", True)
        # Otherwise each read asks for the size first: twice the requests, and an answer without a
        # body does not say why the store refuses.
        options.setdefault("max_concurrency", 1)
        return super().connect(options)

    def missing_credentials(self):
        if "key" in self.options or self.options.get("anon", "").lower() == "true":
            return ""
        # A server of the user's own may need none.
        needed = not (os.environ.get("AWS_ENDPOINT_URL") or self._has_credentials())
        return "found no keys, profile or role" if needed else ""

    def _has_credentials(self) -> bool:
        import botocore.session

        with contextlib.suppress(Exception):
            session = botocore.session.Session(profile=self.options.get("profile"))
            return session.get_credentials() is not None
        return False

    def key(self, uri):
        # s3fs takes it for the beginning of a version.
        if "?versionid=" in uri.lower():
            raise BadName(f"{uri}: its name contains ?versionId=, {NOT_LITERAL}")
        return super().key(uri)

    def page(self, bucket, prefix, after, token, limit):
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
        start = {"ContinuationToken": token} if token else {"StartAfter": after} if after else {}
        where = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": limit}
        page = self.client.call_s3("list_objects_v2", **where, **start)
        found = [
            File(o["Key"], o["Size"], self.version_of(o), True, o["LastModified"].timestamp())
            for o in page.get("Contents", ())
        ]
        return found, page.get("NextContinuationToken")

    def status_of(self, error):
        answer = getattr(error, "response", None)
        if isinstance(answer, dict):
            return answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return super().status_of(error)

    def error_names(self, error):
        answer = getattr(error, "response", None)
        code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None
        return super().error_names(error) | {code}
