"""HTTP for programs of the device: the Open Inference Protocol on loopback or a Unix socket.

A thread for each connection, and few connections: the callers are programs of the same device.
Requests are decoded, checked and answered by the server's own code; see `device`. Python's own
`http.server` would take 1.5 MB of memory.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from socketserver import StreamRequestHandler, TCPServer, ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import Any

import msgspec

from bascule.core import VERSION, BasculeError, Invalid, NotFound, TooLarge
from bascule.edge.device import Device
from bascule.serving.transports import HostPolicy, error_text, is_loopback, status_of

MAX_BODY_BYTES = 16 << 20
_MAX_CONNECTIONS, _MAX_LINES, _MAX_LINE_BYTES = 32, 100, 8192
_HINT = "listen on 127.0.0.1:PORT or unix:PATH"

Headers = dict[bytes, bytes]


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
            super().__init__(place, _Connection)
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


class _Connection(StreamRequestHandler):
    """Requests, one after another (RFC 9112, without chunked bodies)."""

    server: HttpServer
    timeout = 30.0

    def handle(self) -> None:
        with suppress(OSError):  # the client has gone, or was silent for too long
            while self._converse():
                pass

    def _converse(self) -> bool:
        """Answer a request; whether another may follow."""
        status, json_bytes, may_follow = 200, -1, False
        try:
            if (head := self._head()) is None:
                return False
            method, path, headers = head
            content = self._content(headers)
            may_follow = headers.get(b"connection", b"").lower() != b"close"
            if method == b"GET":
                body = msgspec.json.encode(self._described(path))
            else:
                body, json_bytes = self._inferred(method, path, content, headers)
        except BasculeError as problem:
            status, body = status_of(problem), msgspec.json.encode({"error": error_text(problem)})
        kind = b"application/json" if json_bytes < 0 else b"application/octet-stream"
        self.wfile.write(
            b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b%b\r\n%b"
            % (
                status, b"OK" if status == 200 else b"Error", kind, len(body),
                b"Inference-Header-Content-Length: %d\r\n" % json_bytes if json_bytes >= 0 else b"",
                b"" if may_follow else b"Connection: close\r\n", body,
            )
        )  # fmt: skip
        return may_follow

    def _head(self) -> tuple[bytes, str, Headers] | None:
        """Method, path and headers; None where the client has closed the connection."""
        lines: list[bytes] = []
        while (line := self.rfile.readline(_MAX_LINE_BYTES)) not in (b"\r\n", b"\n", b""):
            lines.append(line)
            if not line.endswith(b"\n") or len(lines) > _MAX_LINES:
                raise TooLarge("the head of the request is too large", hint="send fewer headers")
        if not line:
            return None
        first, *rest = lines or [b""]
        parts, fields = first.split(), [field.partition(b":") for field in rest]
        if len(parts) != 3 or not all(
            name and colon and b" " not in name for name, colon, _ in fields
        ):
            raise Invalid("the request is no HTTP/1.1", hint="use a client of HTTP")
        hosts, origins = (
            [value.strip() for name, _, value in fields if name.lower() == header]
            for header in (b"host", b"origin")
        )
        refusal = HostPolicy((), any_address=False).refusal(hosts, origins)
        if refusal is not None and self.server.address_family != socket.AF_UNIX:
            raise refusal
        headers = {name.lower(): value.strip() for name, _, value in fields}
        return parts[0], parts[1].decode("latin-1"), headers

    def _content(self, headers: Headers) -> bytes:
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or b"transfer-encoding" in headers:
            raise Invalid("the body has no Content-Length", hint="do not send it in chunks")
        if int(length) > MAX_BODY_BYTES:
            raise TooLarge(f"the body is over {MAX_BODY_BYTES:,} bytes", hint="send fewer rows")
        if headers.get(b"expect", b"").lower() == b"100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return self.rfile.read(int(length))

    def _described(self, path: str) -> dict[str, Any]:
        if path == "/v2":
            return {"name": "bascule-edge", "version": VERSION}
        if path == "/v2/health/live":
            return {"live": True}
        opened = self.server.device.opened
        own = f"/v2/models/{opened.by.model}"
        if path in ("/v2/health/ready", f"{own}/ready"):
            return {"ready": True}
        if path != own:
            raise NotFound("no such path", hint=f"GET {own} describes the model")
        inputs, outputs = (
            [
                {"name": field.name, "datatype": field.dtype.value, "shape": [-1, *field.shape]}
                for field in fields
            ]
            for fields in (opened.signature.inputs, opened.signature.outputs)
        )
        about = {"digest": opened.bundle.digest, "program": opened.by.program}
        return {
            "name": opened.by.model, "versions": [opened.by.version], "platform": "bascule",
            "inputs": inputs, "outputs": outputs, "parameters": about,
        }  # fmt: skip

    def _inferred(
        self, method: bytes, path: str, content: bytes, headers: Headers
    ) -> tuple[bytes, int]:
        json_length = headers.get(b"inference-header-content-length")
        if json_length is not None and not json_length.isdigit():
            raise Invalid("header Inference-Header-Content-Length is not a whole number of bytes")
        opened = self.server.device.opened
        own = f"/v2/models/{opened.by.model}"
        is_known = path in (f"{own}/infer", f"{own}/versions/{opened.by.version}/infer")
        if method != b"POST" or not is_known:
            raise NotFound("no such path", hint=f"POST {own}/infer")
        return self.server.device.answer(content, -1 if json_length is None else int(json_length))
