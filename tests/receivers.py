"""Receivers of notifications for tests: a webhook that can be away, and a real mail server."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseRequestHandler, ThreadingTCPServer
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
            # Kept before the answer leaves: a sender that has its answer reads what was kept.
            with made.came:
                made.requests.append((dict(self.headers), body))
                if status == 200:
                    made.taken.append(json.loads(body))
                made.came.notify_all()
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with answered_by(Handler, port) as port:
        made.url = f"http://127.0.0.1:{port}/hook"
        yield made


@contextmanager
def answered_by(handler: type[BaseRequestHandler], port: int = 0) -> Iterator[int]:
    """The port of a server whose connections have this handler; ends with the block."""
    kind = (
        ThreadingHTTPServer if issubclass(handler, BaseHTTPRequestHandler) else ThreadingTCPServer
    )
    server = kind(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


DRIPS = {
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "status": (b"HTTP/1.1 2", b"0"),
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" "),
    "chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "refusal": (b"HTTP/1.1 500 no\r\nContent-Length: 1000000\r\n\r\n", b"x"),
    "greeting": (b"", b"220-one moment\r\n"),
    "silence": (b"", b""),
}
"""What a server begins with, and then sends again and again without an end."""


@contextmanager
def dripping(drip: str, every_s: float = 0.02) -> Iterator[int]:
    """The port of a server that never finishes an answer; `drip` is a key of `DRIPS`."""
    begins, again = DRIPS[drip]
    ended = threading.Event()

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # the caller left
                self.request.sendall(begins)
                while not ended.wait(every_s):
                    self.request.sendall(again)

    with answered_by(Handler) as port:
        try:
            yield port
        finally:
            ended.set()


@contextmanager
def behind_a_prefix(port: int, prefix: str) -> Iterator[str]:
    """A reverse proxy that passes on what is below `prefix`, without it, and refuses the rest."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404)
                return
            with closing(http.client.HTTPConnection("127.0.0.1", port)) as server:
                path = self.path.removeprefix(prefix)
                server.request(self.command, path, body, dict(self.headers))
                answer = server.getresponse()
                content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type", ""))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815 -- the names that the library calls

        def log_message(self, *_: object) -> None:
            pass

    with answered_by(Handler) as own_port:
        yield f"http://127.0.0.1:{own_port}{prefix}"
