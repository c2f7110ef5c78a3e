"""HTTP for programs of the device: the Open Inference Protocol on loopback or a Unix socket.

A thread for each connection, and few connections: the callers are programs of the same device.
Requests are decoded, checked and answered by the server's own code; see `device`.
"""

from __future__ import annotations

import socket
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
_HINT = "listen on 127.0.0.1:PORT or unix:PATH"


class HttpServer(ThreadingMixIn, TCPServer):
    """Answers until it is closed, on threads of its own."""

    allow_reuse_address = daemon_threads = True
    block_on_close = False

    def __init__(self, device: Device, address: str) -> None:
        """Listen on `HOST:PORT` of loopback, or `unix:PATH`; port 0 for any that is free.

        Raises:
            Invalid: The address is not of this device alone, or is taken.
        """
        self.device = device
        self._room = BoundedSemaphore(_MAX_CONNECTIONS)
        host, _, port = address.rpartition(":")
        if host != "unix" and not is_loopback(host):
            raise Invalid(f"{address} can be reached from elsewhere", hint=_HINT)
        try:
            place: Any = (host, int(port)) if host != "unix" else port
            if host == "unix":
                self.address_family = socket.AF_UNIX
                Path(port).unlink(missing_ok=True)
            super().__init__(place, _Handler)
        except (OSError, ValueError, OverflowError) as problem:
            raise Invalid(f"{address} cannot be listened on: {problem}", hint=_HINT) from None
        at: Any = self.server_address
        self.address = f"unix:{at}" if isinstance(at, str) else f"{at[0]}:{at[1]}"
        Thread(target=self.serve_forever, args=(0.1,), name="http", daemon=True).start()

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


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer
    protocol_version = "HTTP/1.1"
    timeout = 30.0

    def do_GET(self) -> None:
        self._reply()

    def do_POST(self) -> None:
        self._reply()

    def log_message(self, *_: Any) -> None:
        """Requests are counted, not logged."""

    def _reply(self) -> None:
        status, kind, json_bytes = 200, "application/json", -1
        try:
            self._check_host()
            if self.command == "GET":
                body = msgspec.json.encode(self._read())
            else:
                body, json_bytes = self._infer()
        except BasculeError as problem:
            status, body = status_of(problem), msgspec.json.encode({"error": error_text(problem)})
        self.send_response(status)
        if json_bytes >= 0:
            kind = "application/octet-stream"
            self.send_header(_LENGTH, str(json_bytes))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _check_host(self) -> None:
        names = [[value.encode("latin-1") for value in self.headers.get_all(name, [])]
                 for name in ("Host", "Origin")]  # fmt: skip
        refusal = HostPolicy((), any_address=False).refusal(*names)
        if refusal is not None and self.server.address_family != socket.AF_UNIX:
            raise refusal

    def _read(self) -> dict[str, Any]:
        if self.path == "/v2":
            return {"name": "bascule-edge", "version": VERSION}
        if self.path == "/v2/health/live":
            return {"live": True}
        opened = self.server.device.opened
        path = f"/v2/models/{opened.bundle.name}"
        if self.path in ("/v2/health/ready", f"{path}/ready"):
            return {"ready": True}
        if self.path != path:
            raise NotFound("no such path", hint=f"GET {path} describes the model")
        inputs, outputs = (
            [{"name": field.name, "datatype": field.dtype.value, "shape": [-1, *field.shape]}
             for field in fields]
            for fields in (opened.signature.inputs, opened.signature.outputs)
        )  # fmt: skip
        about = {"digest": opened.bundle.digest, "program": opened.by.program}
        return {
            "name": opened.bundle.name, "versions": [opened.offer.version], "platform": "bascule",
            "inputs": inputs, "outputs": outputs, "parameters": about,
        }  # fmt: skip

    def _infer(self) -> tuple[bytes, int]:
        length, json_length = self.headers["Content-Length"] or "", self.headers[_LENGTH]
        is_last, self.close_connection = self.close_connection, True  # unless the body is read
        if not (length.isdigit() and (json_length or "0").isdigit()):
            raise Invalid(f"header Content-Length or {_LENGTH} is not a whole number of bytes")
        if int(length) > MAX_BODY_BYTES:
            raise TooLarge(f"a request is over {MAX_BODY_BYTES:,} bytes", limit=MAX_BODY_BYTES)
        body, self.close_connection = self.rfile.read(int(length)), is_last
        opened = self.server.device.opened
        path = f"/v2/models/{opened.bundle.name}"
        if self.path not in (f"{path}/infer", f"{path}/versions/{opened.offer.version}/infer"):
            raise NotFound("no such path", hint=f"POST {path}/infer")
        return self.server.device.answer(body, -1 if json_length is None else int(json_length))
