"""A store that generates names: any number of objects, without storing any.

It speaks the one request of Google's that lists objects
(https://cloud.google.com/storage/docs/json_api/v1/objects/list), so that a listing too large to be
made is read by the real client.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from http.server import ThreadingHTTPServer
from itertools import accumulate
from pathlib import Path

from tests.servers.answers import JsonHandler
from tests.servers.process import running
from tools.flink_cluster import reserved_port

_LAST = "\U0010ffff"


class Names(Sequence):
    """Generates keys in order without storing them: ``FOLDER/000000000.jpg`` and so on.

    Args:
        counts: how many keys each folder has.
    """

    def __init__(self, counts: Mapping[str, int]):
        self.folders = sorted(counts)
        self.starts = [0, *accumulate(counts[folder] for folder in self.folders)]

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        folder = bisect.bisect_right(self.starts, index) - 1
        return f"{self.folders[folder]}/{index - self.starts[folder]:09}.jpg"

    def page(self, prefix: str, start: str, token: str, most: int) -> tuple[list[str], str]:
        """Keys of one page, and what asks for the next one: ``""`` if it is the last."""
        first = int(token) if token else bisect.bisect_left(self, max(prefix, start))
        behind = bisect.bisect_right(self, prefix + _LAST)
        end = min(first + most, behind)
        keys = [self[index] for index in range(first, end)]
        return keys, str(end) if end < behind else ""


class _Handler(JsonHandler):
    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        asked = dict(urllib.parse.parse_qsl(query))
        if not path.endswith("/o"):
            self.send_error(404)
            return
        prefix, most = asked.get("prefix", ""), int(asked.get("maxResults", 1000))
        self.server.asked.append((prefix, most))
        keys, token = self.server.names.page(
            prefix, asked.get("startOffset", ""), asked.get("pageToken", ""), most
        )
        rest = {"size": "1", "generation": "1", "updated": "2026-01-01T00:00:00Z"}
        items = [{"name": key} | rest for key in keys]
        self.send_json({"items": items} | ({"nextPageToken": token} if token else {}))


def server(port: int, counts: Mapping[str, int]) -> ThreadingHTTPServer:
    """The server, not running yet; ``asked`` holds (prefix, keys at most) of each request."""
    made = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    made.daemon_threads = True
    made.names, made.asked = Names(counts), []
    return made


@contextlib.contextmanager
def here(counts: Mapping[str, int]) -> Iterator[ThreadingHTTPServer]:
    """Runs it in a thread of this process while its block runs."""
    with server(0, counts) as made:
        thread = threading.Thread(target=made.serve_forever, args=[0.02], daemon=True)
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


@contextlib.contextmanager
def beside(folder: Path, counts: Mapping[str, int]) -> Iterator[str]:
    """Runs it as a process of its own while its block runs; yields its address."""
    with reserved_port() as port:
        command = [sys.executable, "-m", "tests.servers.invented", str(port), json.dumps(counts)]
        with running(command, port, folder / "invented.log"):
            yield f"http://127.0.0.1:{port}"


if __name__ == "__main__":
    server(int(sys.argv[1]), json.loads(sys.argv[2])).serve_forever()
