"""HTTP for programs of the device: the Open Inference Protocol on loopback or a Unix socket.

A thread for each connection, and few connections: the callers are programs of the same device.
Requests are decoded, checked and answered by the server's own code; see `device`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import Any

import msgspec

from bascule.core import VERSION, BasculeError, Invalid, NotFound, TooLarge
from bascule.edge.device import Device
from bascule.serving.transports import HostPolicy, error_text, is_loopback, status_of

MAX_BODY_BYTES = 16 << 20
_MAX_CONNECTIONS = 32
_LENGTH = "Inference-Header-Content-Length"


class HttpServer(ThreadingMixIn, TCPServer):
    """Answers until it is closed, on threads of its own."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, device: Device, address: str) -> None:
        """Listen on `HOST:PORT` of loopback, or `unix:PATH`; port 0 for any that is free.

        Raises:
            Invalid: The address is not of this device alone, or is taken.
        """
        self.device = device
        self._room = BoundedSemaphore(_MAX_CONNECTIONS)
        host, _, port = address.rpartition(":")
        place: Any = port
        try:
            if host == "unix":
                self.address_family = socket.AF_UNIX
                Path(place).unlink(missing_ok=True)
            else:
                if not is_loopback(host):
                    raise Invalid(f"{address} can be reached from elsewhere", hint=_HINT)
                place = host, int(port)
            super().__init__(place, _Handler)
        except (OSError, ValueError, OverflowError) as problem:
            raise Invalid(f"{address} cannot be listened on: {problem}", hint=_HINT) from None
        Thread(target=self.serve_forever, args=(0.1,), name="http", daemon=True).start()

    @property
    def address(self) -> str:
        """Where it listens, as `__init__` takes it."""
        at: Any = self.server_address
        return f"unix:{at}" if isinstance(at, str) else f"{at[0]}:{at[1]}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._room.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()


_HINT = "listen on 127.0.0.1:PORT or unix:PATH"


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer
    protocol_version = "HTTP/1.1"
    timeout = 30.0

    def do_GET(self) -> None:
        self._reply(self._read)

    def do_POST(self) -> None:
        self._reply(self._infer)

    def log_message(self, *_: Any) -> None:
        """Requests are counted, not logged."""

    def _reply(self, answer: Callable[[], tuple[bytes, int]]) -> None:
        status, json_bytes = 200, -1
        try:
            self._check_host()
            body, json_bytes = answer()
        except BasculeError as problem:
            status, body = status_of(problem), msgspec.json.encode({"error": error_text(problem)})
        self.send_response(status)
        kind = "application/json" if json_bytes < 0 else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if json_bytes >= 0:
            self.send_header(_LENGTH, str(json_bytes))
        self.end_headers()
        self.wfile.write(body)

    def _check_host(self) -> None:
        if self.server.address_family == socket.AF_UNIX:
            return
        hosts, origins = (
            [value.encode("latin-1") for value in self.headers.get_all(name, [])]
            for name in ("Host", "Origin")
        )
        if (refusal := HostPolicy((), any_address=False).refusal(hosts, origins)) is not None:
            raise refusal

    def _read(self) -> tuple[bytes, int]:
        device = self.server.device
        if self.path == "/v2":
            return msgspec.json.encode({"name": "bascule-edge", "version": VERSION}), -1
        if self.path == "/v2/health/live":
            return msgspec.json.encode({"live": True}), -1
        described = device.metadata()
        path = f"/v2/models/{described['name']}"
        if self.path in ("/v2/health/ready", f"{path}/ready"):
            return msgspec.json.encode({"ready": True}), -1
        if self.path == path:
            return msgspec.json.encode(described), -1
        raise NotFound("no such path", hint=f"GET {path} describes the model")

    def _infer(self) -> tuple[bytes, int]:
        length, json_length = self.headers["Content-Length"] or "", self.headers[_LENGTH]
        self.close_connection = True  # unless the body is read
        if not length.isdigit():
            raise Invalid("header Content-Length is missing, or not a whole number of bytes")
        if int(length) > MAX_BODY_BYTES:
            raise TooLarge(f"a request is over {MAX_BODY_BYTES:,} bytes", limit=MAX_BODY_BYTES)
        if json_length is not None and not json_length.isdigit():
            raise Invalid(f"header {_LENGTH} is not a whole number of bytes")
        body = self.rfile.read(int(length))
        self.close_connection = self.headers.get("Connection", "").lower() == "close"
        described = self.server.device.metadata()
        path = f"/v2/models/{described['name']}"
        if self.path not in (f"{path}/infer", f"{path}/versions/{described['versions'][0]}/infer"):
            raise NotFound("no such path", hint=f"POST {path}/infer")
        return self.server.device.answer(body, -1 if json_length is None else int(json_length))
