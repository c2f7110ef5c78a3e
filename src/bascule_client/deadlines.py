"""HTTP connections that end at a deadline: one for all, from the connection to the last byte.

The timeout of a socket begins anew at each byte that comes, so a server that sends a byte now and
then, or `100 Continue` again and again, holds its caller for ever. Here every step on the socket
gets what is left of the whole. Only the resolver of names keeps its own timeout.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from typing import Any, cast

PROGRESS_BYTES = 64 << 10
"""Where a deadline is renewed: by each so many bytes, and by nothing less."""


class DeadlineSocket(socket.socket):
    """A socket whose steps all end at `ends_s`.

    Attributes:
        ends_s: By the monotonic clock; None for no deadline.
        renewed_s: Each `PROGRESS_BYTES` move the deadline to so long after them; 0 for never.
    """

    ends_s: float | None = None
    renewed_s: float = 0.0
    _moved = 0

    def recv_into(self, *args: Any) -> int:
        self._allow()
        return self._moving(super().recv_into(*args))

    def sendall(self, data: Any, *args: Any) -> None:
        for start in range(0, len(data), PROGRESS_BYTES):
            self._allow()
            piece = memoryview(data)[start : start + PROGRESS_BYTES]
            super().sendall(piece, *args)
            self._moving(len(piece))

    def _allow(self) -> None:
        if self.ends_s is not None:
            self.settimeout(left_s(self.ends_s))

    def _moving(self, count: int) -> int:
        self._moved += count
        if self.renewed_s and self._moved >= PROGRESS_BYTES:
            self._moved = 0
            self.ends_s = time.monotonic() + self.renewed_s
        return count


class DeadlineTlsSocket(DeadlineSocket, ssl.SSLSocket):
    """The same, encrypted."""


def left_s(ends_s: float) -> float:
    """How long it is until then. Raises `TimeoutError` where it is over."""
    left = ends_s - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def connected(
    host: str, port: int, ends_s: float, tls: ssl.SSLContext | None = None
) -> DeadlineSocket:
    """A connection to the first address of `host` that takes one. Raises `OSError`."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        connection = DeadlineSocket(family, kind, protocol)
        try:
            # One that is silent leaves the others their part of the time.
            connection.settimeout(left_s(ends_s) / (len(addresses) - index))
            connection.connect(address)
            break
        except OSError:
            connection.close()
            if index == len(addresses) - 1:
                raise
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            tls.sslsocket_class = DeadlineTlsSocket
            connection.settimeout(left_s(ends_s))
            connection = cast(DeadlineTlsSocket, tls.wrap_socket(connection, server_hostname=host))
    except BaseException:
        connection.close()
        raise
    connection.ends_s = ends_s
    return connection


class DeadlineConnection(http.client.HTTPConnection):
    """A connection of `http.client` with one deadline for all that is done on it."""

    def __init__(
        self,
        host: str,
        port: int | None,
        allowed_s: float,
        tls: ssl.SSLContext | None = None,
        *,
        renews: bool = False,
    ) -> None:
        """Open nothing yet; the time begins. `renews`: it begins again with `PROGRESS_BYTES`."""
        self.default_port = 80 if tls is None else 443
        super().__init__(host, port)
        self._tls = tls
        self._ends_s = time.monotonic() + allowed_s
        self._renewed_s = allowed_s if renews else 0.0

    def connect(self) -> None:
        """See `http.client`."""
        self.sock = connected(self.host, self.port, self._ends_s, self._tls)
        self.sock.renewed_s = self._renewed_s
