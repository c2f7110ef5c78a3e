"""Requests to bytes, and bytes to replies. No I/O; llhttp parses."""

from __future__ import annotations

from typing import NamedTuple

import httptools

MAX_HEAD_BYTES = 64 << 10


class Request(NamedTuple):
    """What is asked.

    Attributes:
        method: `GET` or `POST`.
        path: Below the address of the server, percent-encoded.
        body: Of a `POST`.
        headers: Beside those of every request.
    """

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Reply(NamedTuple):
    """What came back. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Lost(NamedTuple):
    """That nothing came back, and why.

    Attributes:
        reason: In words.
        reached: Whether the server may have read the request.
        late: Whether the time was over.
    """

    reason: str
    reached: bool = True
    late: bool = False


Outcome = Reply | Lost
"""How a request ended."""


def head_of(request: Request, prefix: str, common: str) -> bytes:
    """The request line and the headers.

    Args:
        request: What is asked.
        prefix: The path of the server itself.
        common: The headers of every request, each with its line end.
    """
    lines = [f"{request.method} {prefix}{request.path} HTTP/1.1\r\n{common}"]
    lines += [f"{name}: {value}\r\n" for name, value in request.headers]
    if request.method == "POST":
        lines.append(f"Content-Length: {len(request.body)}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1")


class ReplyReader:
    """Makes one reply of the bytes that a connection brings."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._parts: list[bytes] = []
        self._head_done = False
        self.reply: Reply | None = None
        self.keeps = False
        """Whether the connection can carry another request."""

    def feed(self, data: bytes) -> Reply | None:
        """Take what arrived; empty is the end of the connection.

        Raises:
            ValueError: It is no HTTP, or ended in the middle.
        """
        if not data:
            return self._end()
        if self.reply is not None:
            raise ValueError("bytes after the end of a reply")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as problem:
            raise ValueError(f"what came back is no HTTP ({problem})") from None
        return self.reply

    def _end(self) -> Reply:
        by_its_end = self._head_done and not (
            "content-length" in self._headers or "transfer-encoding" in self._headers
        )
        if self.reply is None and by_its_end:
            self._finish()
        if self.reply is None:
            raise ValueError("the connection ended in the middle of a reply")
        self.keeps = False
        return self.reply

    def _finish(self) -> None:
        self.reply = Reply(self._parser.get_status_code(), self._headers, b"".join(self._parts))

    # -- called by the parser --

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("headers too long")
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._head_done = True

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            # An early hint; the reply proper follows.
            self._headers, self._parts, self._head_done = {}, [], False
            return
        self.keeps = self._parser.should_keep_alive()
        self._finish()
