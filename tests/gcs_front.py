"""Stands before the emulator of Google Cloud Storage, as the network and Google's own checks do.

It keeps to `ifGenerationMatch`, which the emulator does not look at, and fails where a test says.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Front:
    """Trouble is by a part of the request's path: a status, "cut" or "stall", one for each request.

    A body that is cut ends in its middle; one that stalls goes on when `go_on` is set.
    """

    def __init__(self, behind: str) -> None:
        self.behind = behind
        self.trouble: dict[str, list[int | str]] = {}
        self.go_on = threading.Event()
        self.stalled = threading.Event()
        self.ranges: list[str] = []
        self.authorizations: set[str | None] = set()
        self.url = ""

    def next_trouble(self, path: str) -> int | str | None:
        for part, left in self.trouble.items():
            if part in unquote(path) and left:
                return left.pop(0)
        return None


@contextmanager
def fronting(behind: str) -> Iterator[Front]:
    front = Front(behind)
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: _Handler(front, *given))
    front.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield front
    finally:
        front.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, front: Front, *given: Any) -> None:
        self.front = front
        super().__init__(*given)

    def do_POST(self) -> None:
        """Give a token for a service account."""
        self.rfile.read(int(self.headers["Content-Length"]))
        trouble = self.front.next_trouble(self.path)
        if isinstance(trouble, int):
            self._answer(trouble, {"error": "invalid_grant"})
        else:
            self._answer(200, {"access_token": "t0k", "expires_in": 3600, "token_type": "Bearer"})

    def do_GET(self) -> None:
        self.front.authorizations.add(self.headers["Authorization"])
        trouble = self.front.next_trouble(self.path)
        if isinstance(trouble, int):
            self._refuse(trouble)
        elif self._is_changed():
            self._refuse(412)
        else:
            self._forward(trouble)

    def _is_changed(self) -> bool:
        asked = urlsplit(self.path)
        wanted = parse_qs(asked.query).get("ifGenerationMatch")
        if wanted is None:
            return False
        path = asked.path.removeprefix("/download")
        try:
            with urllib.request.urlopen(self.front.behind + path, timeout=10) as answer:
                return bool(json.load(answer)["generation"] != wanted[0])
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def _forward(self, trouble: int | str | None) -> None:
        headers = {"Range": self.headers["Range"]} if self.headers["Range"] else {}
        self.front.ranges += headers.values()
        request = urllib.request.Request(self.front.behind + self.path, headers=headers)
        try:
            answer = urllib.request.urlopen(request, timeout=10)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        if trouble == "cut":
            return
        if trouble == "stall":
            self.wfile.flush()
            self.front.stalled.set()
            self.front.go_on.wait()
            return
        self.wfile.write(body[len(body) // 2 :])

    def _refuse(self, status: int) -> None:
        self._answer(status, {"error": {"code": status, "message": "no"}})

    def _answer(self, status: int, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass
