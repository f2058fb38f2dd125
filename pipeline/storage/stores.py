"""The clients of the stores, one a scheme, with credentials as their own libraries find them.

fsspec's file systems are used by their literal calls alone (``cat_file``, ``pipe_file``,
``rm_file``): ``cat``, ``rm`` and ``expand_path`` take names for patterns.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from model_build.common.errors import UserError, did_you_mean, first_line, require
from pipeline.storage.names import SCHEMES, scheme_of

CREDENTIALS_DEADLINE = 8.0  # seconds
_CLIENTS = {"gs": ("gcsfs", "gcp"), "s3": ("s3fs", "aws"), "az": ("adlfs", "azure")}
# Nothing is remembered of a listing, and no instance is shared with other users of fsspec.
_COMMON = {"use_listings_cache": False, "skip_instance_cache": True}

Options = Mapping[str, str]
_SECRET = re.compile(r"key|secret|token|passw|credential|connection_string|sas", re.IGNORECASE)
_NO_SECRETS = ("anon", "cloud", "google_default")  # ways to find a token of gs, not tokens


def parse_options(options: Mapping[str, str]) -> tuple[tuple[str, str, str], ...]:
    """``{"s3.endpoint_url": "http://…"}`` → (scheme, key, value) each.

    Raises:
        UserError: an option that names no scheme of a store.
    """
    parsed = []
    for name, value in options.items():
        scheme, dot, key = name.partition(".")
        if not (dot and key) or scheme not in SCHEMES:
            known = ", ".join(f"{scheme}.KEY" for scheme in SCHEMES)
            raise UserError(f"--storage-option {name}: must be one of {known}")
        parsed.append((scheme, key, value))
    return tuple(parsed)


def secrets(options: Mapping[str, str]) -> list[str]:
    """The names of options whose values are secrets, or may be."""
    return [
        name
        for name, value in options.items()
        if _SECRET.search(name.partition(".")[2]) and value not in _NO_SECRETS
    ]


def unsupported_key(scheme: str, key: str) -> str | None:
    """Why a client would take a name for another one, or None: the few that are not literal.

    s3fs and adlfs take ``?versionId=`` for the beginning of a version, adlfs a last ``#`` for an
    empty fragment of a URL.
    """
    if scheme in ("s3", "az") and "?versionid=" in key.lower():
        return "contains ?versionId=, which the store's client does not take literally"
    if scheme == "az" and key.endswith("#"):
        return "ends with #, which the store's client does not take literally"
    return None


def check_scheme(uri: str) -> None:
    """Tells a scheme that is unknown, or whose client is not installed, before anything is opened.

    Raises:
        UserError: either.
    """
    scheme = scheme_of(uri)
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise UserError(
            f"{uri}: unknown scheme {scheme}://{did_you_mean(scheme, SCHEMES)}; use {known} "
            "or a local path"
        )
    if scheme in _CLIENTS:
        module, extra = _CLIENTS[scheme]
        require(extra, module, purpose=f"{scheme}://")


def client(scheme: str, options: Options) -> Any:
    """The fsspec file system of a scheme, one a process and set of options.

    Args:
        options: of ``--storage-option``, passed to the client's constructor.
    """
    return _client(scheme, tuple(sorted(options.items())), os.getpid())


@functools.cache
def _client(scheme: str, options: tuple[tuple[str, str], ...], process: int) -> Any:
    # Event loop and connections do not survive a fork: the process is part of the key.
    import fsspec

    chosen: dict[str, Any] = {key: _parsed(value) for key, value in options}
    return {"gs": _google, "s3": _amazon, "az": _azure, "memory": _memory}.get(scheme, _web)(
        fsspec, chosen
    )


def _google(fsspec: Any, options: dict[str, Any]) -> Any:
    # It logs, with a traceback, what it raises anyway.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # Its newer class first asks of each bucket, by another protocol, what kind it is. The variable
    # keeps that from being imported; where others have imported it, it is not taken all the same.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    from gcsfs.core import GCSFileSystem

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        options.setdefault("token", "anon")
    options.setdefault("token", "google_default")
    return GCSFileSystem(**options, **_COMMON)


def _amazon(fsspec: Any, options: dict[str, Any]) -> Any:
    if "anon" not in options and _anonymous_endpoint(options):
        options["anon"] = True
    # Else each reading asks for the size first: twice the requests, and to those that ask for no
    # body a store does not tell why it refuses.
    options.setdefault("max_concurrency", 1)
    return fsspec.filesystem("s3", **options, **_COMMON)


def _azure(fsspec: Any, options: dict[str, Any]) -> Any:
    return fsspec.filesystem("az", **options, **_COMMON)


def _memory(fsspec: Any, options: dict[str, Any]) -> Any:
    return fsspec.filesystem("memory")


def _web(fsspec: Any, options: dict[str, Any]) -> Any:
    return fsspec.filesystem("https", encoded=True, **options, **_COMMON)


def _parsed(value: str) -> Any:
    """``true``, ``false`` and whole numbers as what they say; anything else is text."""
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    return int(value) if value.isdecimal() else value


def check_credentials(uri: str, options: Options) -> None:
    """Looks for credentials, so that their lack is told in seconds and not after many attempts.

    Raises:
        UserError: there are none, or finding out takes longer than :data:`CREDENTIALS_DEADLINE`.
    """
    scheme = scheme_of(uri)
    find, remedy = _FINDERS.get(scheme, (None, ""))
    if find is None:
        return
    problem: list[str] = [f"no answer within {CREDENTIALS_DEADLINE:g} s"]

    def look() -> None:
        try:
            problem[0] = find(options)
        except Exception as error:
            problem[0] = first_line(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(CREDENTIALS_DEADLINE)
    if problem[0]:
        raise UserError(f"{uri}: no credentials for {scheme}:// ({problem[0]}); {remedy}")


def _find_google(options: Options) -> str:
    if "token" in options or os.environ.get("STORAGE_EMULATOR_HOST"):
        return ""
    import google.auth

    google.auth.default(scopes=["https://www.googleapis.com/auth/devstorage.read_write"])
    return ""


def google_token() -> str:
    """An access token for Google's services, of whoever runs this.

    Raises:
        OSError: there are no credentials, or Google refuses them.
    """
    import google.auth.exceptions
    import google.auth.transport.requests

    try:
        credentials = _google_credentials()
        if not credentials.valid:
            credentials.refresh(google.auth.transport.requests.Request())
        return credentials.token
    except google.auth.exceptions.GoogleAuthError as error:
        raise OSError(f"no credentials for Google Cloud: {first_line(error)}") from error


@functools.lru_cache(maxsize=1)
def _google_credentials() -> Any:
    import google.auth

    return google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])[0]


def _find_amazon(options: Options) -> str:
    if "key" in options or str(options.get("anon", "")).lower() == "true":
        return ""
    # A server of one's own may be asked without any.
    if os.environ.get("AWS_ENDPOINT_URL") or _aws_credentials(options):
        return ""
    return "found no keys, profile or role"


def _find_azure(options: Options) -> str:
    names = ("account_name", "connection_string")
    if any(name in options or f"AZURE_STORAGE_{name.upper()}" in os.environ for name in names):
        return ""
    return "no storage account given"


_FINDERS: dict[str, tuple[Callable[[Options], str], str]] = {
    "gs": (
        _find_google,
        "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS; for a "
        "public bucket add --storage-option gs.token=anon",
    ),
    "s3": (
        _find_amazon,
        "run `aws configure` or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public "
        "bucket add --storage-option s3.anon=true",
    ),
    "az": (
        _find_azure,
        "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and a key",
    ),
}


def _anonymous_endpoint(options: Options) -> bool:
    """Whether s3:// is a server of one's own, asked without credentials as there are none."""
    return bool(os.environ.get("AWS_ENDPOINT_URL")) and not _aws_credentials(options)


def _aws_credentials(options: Options) -> bool:
    import botocore.session

    with contextlib.suppress(Exception):
        session = botocore.session.Session(profile=options.get("profile"))
        return session.get_credentials() is not None
    return False
