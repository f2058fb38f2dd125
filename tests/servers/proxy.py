"""A server in front of another one, which refuses from some request on: what stores do at times."""

from __future__ import annotations

import contextlib
import http.client
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.waiting import DEADLINE

_OF_THE_CONNECTION = frozenset(("connection", "transfer-encoding", "content-length", "keep-alive"))


@dataclass
class Proxy:
    """The behaviour of a proxy; its fields may be changed while it runs.

    Attributes:
        address: its own, as ``http://HOST:PORT``.
        behind: the server's that it passes requests on to.
        requests: how many have come.
        refuse_from: number of the first request that is refused, from 1; None refuses none.
        status: what it refuses with.
        code: Amazon's word for that, such as ``"ExpiredToken"``.
    """

    address: str
    behind: str
    requests: int = 0
    refuse_from: int | None = None
    status: int = 503
    code: str = "SlowDown"
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refuses(self) -> bool:
        """Counts a request, and returns whether it is refused."""
        with self.lock:
            self.requests += 1
            return self.refuse_from is not None and self.requests >= self.refuse_from


@contextlib.contextmanager
def proxy(behind: str) -> Iterator[Proxy]:
    """Runs a proxy in a thread of this process while its block runs.

    Args:
        behind: the server's address, as ``http://HOST:PORT``.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.proxy = Proxy(f"http://127.0.0.1:{server.server_port}", behind)
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    try:
        yield server.proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy = self.server.proxy
        if proxy.refuses():
            text = f"<Error><Code>{proxy.code}</Code><Message>{proxy.code}</Message></Error>"
            self._answer(proxy.status, [("Content-Type", "application/xml")], text.encode())
            return
        host = urllib.parse.urlsplit(proxy.behind).netloc
        with contextlib.closing(http.client.HTTPConnection(host, timeout=DEADLINE)) as connection:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            length = answer.headers.get("Content-Length")
            self._answer(answer.status, answer.getheaders(), answer.read(), length)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def _answer(self, status, headers, data, length=None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _OF_THE_CONNECTION:
                self.send_header(name, value)
        # A HEAD response has the length of a body that does not follow.
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments) -> None:
        pass
