import contextlib
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.storage import Files, retries
from pipeline.storage.retries import is_transient, with_retries
from pipeline.storage.stores import table
from pipeline.storage.stores.memory import Memory
from pipeline.storage.stores.s3 import Amazon

MEMORY = Memory({})


class Answered(Exception):
    """An exception with a status, as the stores' clients raise."""

    def __init__(self, code):
        super().__init__(f"status {code}")
        self.code = code


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_what_a_store_cannot_do_now_is_tried_again(code):
    attempts = []

    def operation():
        attempts.append(1)
        if len(attempts) < 4:
            raise Answered(code)
        return "done"

    assert with_retries(operation, MEMORY) == "done"
    assert len(attempts) == 4


@pytest.mark.parametrize(
    "error",
    [Answered(400), Answered(401), Answered(403), Answered(404), FileNotFoundError("a")]
    + [PermissionError("a"), FileExistsError("a"), ValueError("a")],
)
def test_what_is_permanent_is_not(error):
    attempts = []

    def operation():
        attempts.append(1)
        raise error

    with pytest.raises(type(error)):
        with_retries(operation, MEMORY)
    assert len(attempts) == 1


def test_the_deadline_ends_it(monkeypatch):
    clock = types.SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr(retries, "time", clock)
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.5)
    monkeypatch.setattr(retries, "DEADLINE", 10)
    monkeypatch.setattr(retries.random, "uniform", lambda low, high: high)
    attempts = []

    def operation():
        attempts.append(clock.now)
        raise ConnectionResetError("reset")

    with pytest.raises(ConnectionResetError):
        with_retries(operation, MEMORY)
    assert attempts == [0, 0.5, 1.5, 3.5, 7.5]


def test_pauses_grow_and_are_drawn_at_random(monkeypatch):
    longest, slept = [], []
    monkeypatch.setattr(retries.random, "uniform", lambda low, high: longest.append(high) or 0.0)
    monkeypatch.setattr(retries.time, "sleep", slept.append)
    outcomes = iter([TimeoutError()] * 7)

    def operation():
        with contextlib.suppress(StopIteration):
            raise next(outcomes)

    with_retries(operation, MEMORY)
    assert longest == [0.001 * 2**n for n in range(7)]
    assert len(slept) == 7


def test_the_cause_counts():
    error = OSError("wrapped")
    error.__cause__ = Answered(503)
    assert is_transient(error, MEMORY)
    error.__cause__ = Answered(403)
    assert not is_transient(error, MEMORY)


def test_the_status_of_a_botocore_error():
    error = Exception()
    error.response = {"ResponseMetadata": {"HTTPStatusCode": 503}}
    store = Amazon({})
    assert store.status_of(error) == 503
    assert store.status_of(Exception()) is None
    assert store.status_of(OSError(28, "full")) is None


@pytest.fixture
def flaky(moto_address):
    """A server before moto that answers 503 to the first of equal requests; notes them all."""
    import urllib.error
    import urllib.request

    seen = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # a client may wait to be told to go on

        def _pass_on(self):
            first = (self.command, self.path) not in seen
            seen.append((self.command, self.path))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if first:
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            headers = {"Content-Type": "application/octet-stream", **self.headers}
            headers.pop("Expect", None)
            request = urllib.request.Request(
                moto_address + self.path, body or None, headers, method=self.command
            )
            try:
                answer = urllib.request.urlopen(request)
            except urllib.error.HTTPError as error:
                answer = error
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            size = answer.headers.get("Content-Length") if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()


@pytest.mark.slow
def test_nothing_is_lost_to_a_server_that_fails_each_request_once(s3, flaky, monkeypatch):
    address, seen = flaky
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    # Checksums in trailers of chunks are more than this small server understands.
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    table._open.cache_clear()
    files = Files()
    for index in range(5):
        files.write(f"{s3}/{index}", str(index).encode())
    assert [files.read(f"{s3}/{index}") for index in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert len(list(files.list(s3))) == 5
    assert len(seen) >= 2 * 11
