"""Emulators of object stores, written by others: moto for s3://, fake-gcs-server for gs://."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.servers.process import program, running
from tools.flink_cluster import reserved_port

FAKE_GCS = "fake-gcs-server"
NO_FAKE_GCS = f"no {FAKE_GCS}: `make servers` installs it, which needs Go"


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[str]:
    """An S3 server; yields its address."""
    with reserved_port() as port:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with running(command, port, folder / "moto.log"):
            yield f"http://127.0.0.1:{port}"


def moto_environment(address: str) -> dict[str, str]:
    """Options that direct s3:// to this server."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def make_moto_bucket(address: str, bucket: str) -> None:
    """Makes a bucket, by a plain request: moto asks for no signature."""
    request = urllib.request.Request(f"{address}/{bucket}", method="PUT")
    urllib.request.urlopen(request).close()


def fake_gcs_program() -> str | None:
    """The server's program; None where there is none."""
    return program(FAKE_GCS)


@contextlib.contextmanager
def fake_gcs(folder: Path, program: str) -> Iterator[str]:
    """A Google Cloud Storage server; yields its address."""
    with reserved_port() as port:
        address = f"http://127.0.0.1:{port}"
        command = [program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
        command += ["-backend", "memory"]
        command += ["-public-host", f"127.0.0.1:{port}", "-external-url", address]
        with running(command, port, folder / "gcs.log"):
            yield address


def fake_gcs_environment(address: str) -> dict[str, str]:
    """Options that direct gs:// to this server."""
    return {"STORAGE_EMULATOR_HOST": address}


def make_gcs_bucket(address: str, bucket: str) -> None:
    """Makes a bucket, by the JSON interface."""
    request = urllib.request.Request(
        f"{address}/storage/v1/b?project=test",
        json.dumps({"name": bucket}).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).close()


def required() -> bool:
    """Whether a missing server is a failure and no reason to skip, as in continuous integration."""
    return bool(os.environ.get("FCN_BEAM_REQUIRE_SERVERS"))
