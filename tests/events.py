"""Reads server-sent events as they come, from an answer of HTTP/1.1."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from typing import Any


class Events:
    """The answer to one request: iterate over the name and the data of each event.

    Raises `http.client.IncompleteRead` where the answer ends within a chunk or without the last.
    """

    def __init__(
        self,
        port: int,
        path: str,
        body: Any,
        headers: dict[str, str] | None = None,
        receive_buffer_bytes: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.connection.sock = socket.socket()
        if receive_buffer_bytes:
            self.connection.sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes
            )
        self.connection.sock.settimeout(30)
        self.connection.sock.connect(("127.0.0.1", port))
        if tls is not None:
            self.connection.sock = tls.wrap_socket(
                self.connection.sock, server_hostname="localhost"
            )
        self.connection.request("POST", path, json.dumps(body), headers or {})
        self.answer = self.connection.getresponse()
        self.status = self.answer.status
        self.headers = {name.lower(): value for name, value in self.answer.getheaders()}

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.close()
        self.connection.close()

    def json(self) -> Any:
        """The whole body."""
        return json.loads(self.answer.read())

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self

    def __next__(self) -> tuple[str, Any]:
        name, data = "message", ""
        while line := self.answer.readline().decode():
            key, _, value = line.rstrip("\n").partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                data += value
            elif not key and data:
                return name, json.loads(data)
        raise StopIteration
