"""Receivers of notifications for tests: a webhook that can be away, and a real mail server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hook:
    """What a webhook was sent and has taken; what it answers next: (status, headers), or 200."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.taken: list[Any] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.came = threading.Condition()
        self.url = ""

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, body in self.requests]

    def wait(self, condition: Any, timeout_s: float = 20.0) -> None:
        with self.came:
            assert self.came.wait_for(lambda: condition(self), timeout_s), self.bodies


@contextmanager
def hook(port: int = 0) -> Iterator[Hook]:
    """A webhook on the loopback address; ends with the block."""
    made = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers = made.answers.pop(0) if made.answers else (200, {})
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with made.came:
                made.requests.append((dict(self.headers), body))
                if status == 200:
                    made.taken.append(json.loads(body))
                made.came.notify_all()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
