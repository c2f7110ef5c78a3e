"""Requests to bytes, and bytes to replies. No I/O.

The parser of replies is this module's own: `http.client` reads from blocking sockets alone, which
asyncio has not, and llhttp is a package to install. It refuses what servers and proxies could read
differently: two lengths, a length beside chunks, folded lines, spaces before a colon.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_HEAD_BYTES = 64 << 10
"""The most bytes of a status line with its headers, and of a chunk's size or its trailers."""

MAX_BODY_BYTES = 2 << 30
"""The most bytes of a body."""

_START = b"HTTP/1."
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
_LENGTH = re.compile("[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_NO_BODY = (204, 304)
_SWITCHING = 101


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
    """Makes one reply of the bytes that a connection brings, in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._step = self._read_head
        self._status = 0
        self._headers: dict[str, str] = {}
        self._left_bytes = 0
        self._body_bytes = 0
        self._chunks: list[bytes] = []
        self._stays_open = False
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
        if self._is_over():
            raise ValueError("bytes after the end of a reply")
        self._buffer += data
        while not self._is_over() and self._step():
            pass
        if self._is_over() and self._buffer:
            raise ValueError("bytes after the end of a reply")
        return self.reply

    def _is_over(self) -> bool:
        return self.reply is not None

    def _end(self) -> Reply:
        if self.reply is None and self._step == self._read_until_the_end:
            self._finish(bytes(self._buffer))
        if self.reply is None:
            raise ValueError("the connection ended in the middle of a reply")
        self.keeps = False
        return self.reply

    def _finish(self, body: bytes) -> bool:
        self.reply = Reply(self._status, self._headers, body)
        self.keeps = self._stays_open
        return True

    # -- steps: each takes its part off the buffer, and returns whether all of it was there --

    def _read_head(self) -> bool:
        if not _START.startswith(self._buffer[: len(_START)]):
            raise _no_http("it does not begin with HTTP/1")
        head = self._cut(b"\r\n\r\n", "headers too long")
        if head is None:
            return False
        status_line, *lines = head.split(b"\r\n")
        status = _STATUS.fullmatch(status_line)
        if status is None:
            raise _no_http("malformed status line")
        self._status = int(status[2])
        self._headers = _headers_of(lines)
        if self._status == _SWITCHING:
            raise _no_http("a change of protocol that was not asked for")
        if self._status < 200:
            return True  # an early hint; the reply proper follows
        said = self._headers.get("connection", "").lower().replace(" ", "").split(",")
        is_old = status[1] == b"0"
        self._stays_open = "keep-alive" in said if is_old else "close" not in said
        if is_old and "transfer-encoding" in self._headers:
            self._stays_open = False  # RFC 9112, 6.1: chunks are not of HTTP/1.0
        return self._begin_body()

    def _begin_body(self) -> bool:
        coding, length = map(self._headers.get, ("transfer-encoding", "content-length"))
        if coding is not None and (length is not None or coding.lower() != "chunked"):
            raise _no_http("a length beside chunks, or a coding that was not asked for")
        size = 0 if length is None else length_of(length)
        if self._status in _NO_BODY:
            # RFC 9112, 6.3: it ends here. A server that says otherwise may send a body after it.
            self._stays_open &= coding is None and size == 0
            return self._finish(b"")
        if self._headers.get("content-encoding", "identity").lower() != "identity":
            raise ValueError("the body is compressed, which was not asked for")
        self._count_body(size)
        if coding is not None:
            self._step = self._read_chunk_size
        elif length is not None:
            self._left_bytes = size
            self._step = self._read_body
        else:
            self._stays_open = False
            self._step = self._read_until_the_end
        return True

    def _read_body(self) -> bool:
        body = self._taken(self._left_bytes)
        return body is not None and self._finish(body)

    def _read_until_the_end(self) -> bool:
        self._count_body(len(self._buffer) - self._body_bytes)
        return False

    def _count_body(self, more: int) -> None:
        self._body_bytes += more
        if self._body_bytes > MAX_BODY_BYTES:
            raise ValueError(
                f"the body is over {MAX_BODY_BYTES:,} bytes; predict fewer rows at once"
            )

    def _read_chunk_size(self) -> bool:
        line = self._cut(b"\r\n", "a line of chunks too long")
        if line is None:
            return False
        size = _CHUNK.fullmatch(line)
        if size is None:
            raise _no_http("malformed size of a chunk")
        self._left_bytes = int(size[1], 16)
        self._count_body(self._left_bytes)
        self._step = self._read_chunk if self._left_bytes else self._read_trailers
        return True

    def _read_chunk(self) -> bool:
        chunk = self._taken(self._left_bytes + 2)
        if chunk is None:
            return False
        if not chunk.endswith(b"\r\n"):
            raise _no_http("a chunk is longer than its size")
        self._chunks.append(chunk[:-2])
        self._step = self._read_chunk_size
        return True

    def _read_trailers(self) -> bool:
        line = self._cut(b"\r\n", "trailers too long")
        if line is None:
            return False
        if not line:
            return self._finish(b"".join(self._chunks))
        self._left_bytes += len(line)
        if self._left_bytes > MAX_HEAD_BYTES:
            raise ValueError("trailers too long")
        _headers_of([line])  # checked, and not wanted
        return True

    def _cut(self, mark: bytes, too_long: str) -> bytes | None:
        """What comes before `mark`, which is dropped; None until it has come."""
        end = self._buffer.find(mark, 0, MAX_HEAD_BYTES + len(mark))
        if end < 0:
            if len(self._buffer) >= MAX_HEAD_BYTES + len(mark):
                raise ValueError(too_long)
            return None
        found = bytes(self._buffer[:end])
        del self._buffer[: end + len(mark)]
        return found

    def _taken(self, size: int) -> bytes | None:
        if len(self._buffer) < size:
            return None
        with memoryview(self._buffer) as view:  # one copy of a large body, not two
            found = bytes(view[:size])
        del self._buffer[:size]
        return found


def length_of(text: str) -> int:
    """A length in a header: digits alone, unlike `int`; raises `ValueError`."""
    if not _LENGTH.fullmatch(text):
        raise _no_http("malformed length")
    return int(text)


def _headers_of(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise _no_http("malformed header")
        name = header[1].decode("latin-1").lower()
        value = header[2].strip(b" \t").decode("latin-1")
        if name in headers and name in ("content-length", "transfer-encoding"):
            raise _no_http(f"two of {name}")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _no_http(reason: str) -> ValueError:
    return ValueError(f"what came back is no HTTP ({reason})")
