"""Schemes, extras, credentials and options, told before a job starts."""

import os
import subprocess
import sys
import time

import pytest

from model_build.common.errors import UserError
from pipeline.storage import Files, parse_options, secrets
from pipeline.storage.stores import object_store, table
from pipeline.storage.stores.gs import Google


def test_an_unknown_scheme_is_told_with_a_guess():
    with pytest.raises(UserError, match=r"gcs://b/x: unknown scheme gcs://; did you mean gs\?"):
        Files().check("gcs://b/x")
    with pytest.raises(UserError, match="no bucket given"):
        Files().check("gs:///x")


@pytest.mark.parametrize(
    ("uri", "module", "extra"),
    [("gs://b/x", "gcsfs", "gcp"), ("s3://b/x", "s3fs", "aws"), ("az://b/x", "adlfs", "azure")],
)
def test_a_missing_extra_is_named(uri, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    table._open.cache_clear()
    message = (
        rf"{uri[:5]} needs {module}, which is not installed; pip install 'fcn-beam\[{extra}\]'"
    )
    with pytest.raises(UserError, match=message):
        Files().check(uri)


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("gs://bucket/photos", "gcloud auth application-default login"),
        ("s3://bucket/photos", "aws configure"),
        ("az://bucket/photos", "AZURE_STORAGE_CONNECTION_STRING"),
    ],
)
def test_no_credentials_is_one_line_and_status_2_in_under_ten_seconds(uri, remedy, tmp_path):
    kept = ("PATH", "PYTHONPATH", "LANG")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-m", "pipeline", "segment", uri, "--output", f"{tmp_path}/out"]
    start = time.monotonic()
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert f"{uri}: no credentials for {uri[:5]}" in done.stderr
    assert remedy in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert time.monotonic() - start < 10 + 10  # a loaded machine takes its time to start Python


def test_a_search_for_credentials_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(object_store, "CREDENTIALS_DEADLINE", 0.05)
    monkeypatch.setattr(Google, "missing_credentials", lambda store: time.sleep(5) or "")
    with pytest.raises(UserError, match=r"no credentials for gs:// \(no answer within 0.05 s\)"):
        Files().check("gs://bucket/x")


@pytest.mark.parametrize(
    ("uri", "option"), [("gs://b/x", ("gs", "token", "anon")), ("s3://b/x", ("s3", "anon", "true"))]
)
def test_a_public_bucket_needs_none(uri, option, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "STORAGE_")):
            monkeypatch.delenv(name)
    Files((option,)).check(uri)


def test_an_emulator_needs_none(monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    Files().check("gs://b/x")


@pytest.fixture
def forbidding(monkeypatch):
    """A server of s3:// and gs:// that answers 403 to all; notes what it is asked."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    asked = []

    class Handler(BaseHTTPRequestHandler):
        def _refuse(self):
            asked.append(self.path)
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_PUT = do_POST = _refuse

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    table._open.cache_clear()
    yield asked
    server.shutdown()
    table._open.cache_clear()


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_no_permission_is_told_at_once_and_not_tried_again(forbidding, scheme):
    files = Files()
    for operation in (
        lambda: files.read(f"{scheme}://b/a"),
        lambda: list(files.list(f"{scheme}://b/p")),
    ):
        forbidding.clear()
        with pytest.raises(PermissionError, match=rf"{scheme}://b.*: permission denied"):
            operation()
        assert len(forbidding) == 1


def test_options_are_parsed_by_scheme():
    assert parse_options({"s3.anon": "true", "gs.token": "anon"}) == (
        ("s3", "anon", "true"),
        ("gs", "token", "anon"),
    )
    for name in ("anon", "s4.anon", "s3.", ".anon"):
        with pytest.raises(UserError, match="--storage-option"):
            parse_options({name: "x"})


def test_options_reach_the_client(s3, moto_address, monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    table._open.cache_clear()
    options = {"s3.endpoint_url": moto_address, "s3.key": "k", "s3.secret": "s"}
    files = Files(parse_options(options))
    files.write(f"{s3}/a", b"1")
    assert files.read(f"{s3}/a") == b"1"


def test_secrets_are_known_by_their_names():
    options = {
        "s3.secret": "x",
        "s3.endpoint_url": "http://h",
        "gs.token": "anon",
        "gs.project": "p",
    }
    assert secrets(options) == ["s3.secret"]
    assert secrets({"az.connection_string": "x", "gs.token": "/key.json"}) == [
        "az.connection_string",
        "gs.token",
    ]


def test_a_bucket_is_not_asked_what_kind_it_is_even_where_others_have_imported_gcsfs():
    """gcsfs decides that when it is imported; the question goes to Google, past any emulator."""
    code = """
import gcsfs
from pipeline.storage.stores.table import store_of
client = store_of("gs://b/x", (("gs", "token", "anon"),)).client
print(type(client) is gcsfs.GCSFileSystem, type(client).__module__)
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GCSFS")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False gcsfs.core\n"
