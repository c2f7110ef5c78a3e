"""HTTP for programs of the device: the Open Inference Protocol on loopback or a Unix socket.

A thread for each connection, and few connections: the callers are programs of the same device.
Requests are decoded, checked and answered by the server's own code; see `device`. Python's own
`http.server` would take 1.5 MB of memory.
"""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from pathlib import Path
from socketserver import StreamRequestHandler, TCPServer, ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import Any

import msgspec

from bascule.core import VERSION, BasculeError, Field, Invalid, NotFound, TooLarge
from bascule.edge.device import Device
from bascule.serving.transports import HostPolicy, error_text, is_loopback, status_of

MAX_BODY_BYTES = 16 << 20
_MAX_CONNECTIONS, _MAX_HEAD_BYTES = 32, 8192
_HINT = "listen on 127.0.0.1:PORT or unix:PATH"
_HEAD = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.1\r\n((?:[^\s:]+:[^\r\n]*\r\n)*)\r\n")
"""RFC 9112, 3 and 5: no space before a colon, and no folded lines."""

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
            if not (head := self._head()):
                return False
            if (parts := _HEAD.fullmatch(head)) is None:
                raise Invalid("the request is no HTTP/1.1", hint="use a client of HTTP")
            headers = self._headers(parts[3])
            content = self._content(headers)
            may_follow = headers.get(b"connection", b"").lower() != b"close"
            body, json_bytes = self._answer(parts[1], parts[2].decode("latin-1"), content, headers)
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

    def _head(self) -> bytes:
        """To the empty line; nothing where the client has closed the connection."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline(_MAX_HEAD_BYTES - len(head))
            if not line:
                break
            head += line
            if len(head) == _MAX_HEAD_BYTES:
                raise TooLarge("the head of the request is too large", hint="send fewer headers")
        return head

    def _headers(self, lines: bytes) -> Headers:
        fields = [line.partition(b":") for line in lines.splitlines()]
        pairs = [(name.lower(), value.strip()) for name, _, value in fields]
        hosts, origins = (
            [value for name, value in pairs if name == header] for header in (b"host", b"origin")
        )
        refusal = HostPolicy((), any_address=False).refusal(hosts, origins)
        if refusal is not None and self.server.address_family != socket.AF_UNIX:
            raise refusal
        return dict(pairs)

    def _content(self, headers: Headers) -> bytes:
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or b"transfer-encoding" in headers:
            raise Invalid("the body has no Content-Length", hint="do not send it in chunks")
        if int(length) > MAX_BODY_BYTES:
            raise TooLarge(f"the body is over {MAX_BODY_BYTES:,} bytes", hint="send fewer rows")
        if headers.get(b"expect", b"").lower() == b"100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return self.rfile.read(int(length))

    def _answer(
        self, method: bytes, path: str, content: bytes, headers: Headers
    ) -> tuple[bytes, int]:
        """The body, and how much of it is JSON; -1 for all."""
        if method == b"GET":
            return msgspec.json.encode(self._described(path)), -1
        json_length = headers.get(b"inference-header-content-length", b"-1")
        if json_length != b"-1" and not json_length.isdigit():
            raise Invalid("header Inference-Header-Content-Length is not a whole number of bytes")
        by = self.server.device.opened.by
        own = f"/v2/models/{by.model}"
        if method != b"POST" or path not in (f"{own}/infer", f"{own}/versions/{by.version}/infer"):
            raise NotFound("no such path", hint=f"POST {own}/infer")
        return self.server.device.answer(content, int(json_length))

    def _described(self, path: str) -> dict[str, Any]:
        if path in ("/v2", "/v2/health/live"):
            return {"name": "bascule-edge", "version": VERSION, "live": True}
        opened = self.server.device.opened
        by, own = opened.by, f"/v2/models/{opened.by.model}"
        if path in ("/v2/health/ready", f"{own}/ready"):
            return {"ready": True}
        if path != own:
            raise NotFound("no such path", hint=f"GET {own} describes the model")
        return {
            "name": by.model, "versions": [by.version], "platform": "bascule",
            "inputs": [_metadata(field) for field in opened.signature.inputs],
            "outputs": [_metadata(field) for field in opened.signature.outputs],
            "parameters": {"digest": opened.bundle.digest, "program": by.program},
        }  # fmt: skip


def _metadata(field: Field) -> dict[str, Any]:
    return {"name": field.name, "datatype": field.dtype.value, "shape": [-1, *field.shape]}
