"""Listening sockets: the protocol of each, its encryption, its opening and its end."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Collection
from typing import Protocol

from bascule.serving.limits import Limits
from bascule.serving.transports.tls import Tls

log = logging.getLogger(__name__)

_AT_ONCE = 64
"""How many connections are accepted before the loop turns to others."""
_PAUSE_S = 0.1
"""How long no connection is accepted after the system ran out of descriptors."""
_CLOSING_ALERT_S = 5.0
"""How long a client within TLS may take, once the server has closed, to read the rest of its answer
and to send close_notify. Few clients send it, and uvloop would keep each connection for 30 s."""
_LAST_CONNECTIONS_S = 0.1
"""How long a server that stops lets in clients to whom the kernel has said that they are connected:
a round trip. No other reaches it then; see `workers.sockets`."""
_LAST_HANDSHAKES_S = 0.5
"""How long a server that stops waits for handshakes in progress."""

BACKLOG = 2048
"""How many connections the kernel keeps for a worker that is busy or restarting."""


class DoorSite(Protocol):
    """The state that the connections of one protocol share."""

    draining: bool
    limits: Limits

    @property
    def connections(self) -> Collection[object]: ...

    def tick(self) -> None: ...

    async def drain(self) -> None: ...


class Listener:
    """A listening socket: its protocol, and its encryption.

    Within TLS a client counts as a connection only after its handshake; otherwise clients that
    never finish one could keep out all others. Handshakes have a limit and a timeout of their own,
    and above the limit the newest replaces the oldest: a real client's handshake ends before it is
    the oldest.
    """

    def __init__(
        self,
        listener_fd: int,
        site: DoorSite,
        connect: Callable[[], asyncio.Protocol],
        tls: Tls | None,
        *,
        protocol: str = "http/1.1",
    ) -> None:
        self.site = site
        self._listener = socket.socket(fileno=listener_fd)
        self._connect = connect
        self._tls = tls
        self._context = None if tls is None else tls.context(protocol)
        self._loaded_ns = 0 if tls is None else tls.changed_at_ns()
        self._server: asyncio.Server | None = None
        self._opening: dict[asyncio.Task[None], None] = {}  # oldest first; most are handshakes

    async def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept connections."""
        if self._context is not None:
            self._listener.setblocking(False)
            loop.add_reader(self._listener, self._accept, loop)
            return
        # The loop listens again, with a backlog of a hundred unless it is given.
        if self._listener.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(
                self._connect_with_others, sock=self._listener, backlog=BACKLOG
            )
        else:
            self._server = await loop.create_server(
                self._connect_with_others, sock=self._listener, backlog=BACKLOG
            )

    async def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the connections that the kernel has accepted for us, and then no more.

        Closing at once would reset them.
        """
        await asyncio.sleep(_LAST_CONNECTIONS_S)
        if self._server is None:
            loop.remove_reader(self._listener)
            while self._accept_one(loop):
                pass
            self._listener.close()
            if self._opening:
                await asyncio.wait(tuple(self._opening), timeout=_LAST_HANDSHAKES_S)
            for handshake in self._opening:
                handshake.cancel()
            return
        while self._accept_one(loop):
            pass
        while self._opening:
            await asyncio.wait(tuple(self._opening))
        self._server.close()

    def look(self) -> None:
        """Load a renewed certificate; open connections keep the old one."""
        if self._tls is None or self._context is None:
            return
        changed_ns = self._tls.changed_at_ns()
        if changed_ns not in (0, self._loaded_ns):
            self._tls.load(self._context)
            self._loaded_ns = changed_ns
            log.info("the certificate was read again")

    def _connect_with_others(self) -> asyncio.Protocol:
        """A connection that the loop has accepted, and those that wait behind it.

        libuv accepts one a turn, so a new client would wait for a turn of each client before it.
        """
        self._accept(asyncio.get_running_loop())
        return self._connect()

    def _accept(self, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(_AT_ONCE):
            if not self._accept_one(loop):
                return

    def _accept_one(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether there may be more."""
        try:
            accepted, _ = self._listener.accept()
        except OSError as problem:
            is_out = problem.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
            if is_out and self._context is not None:
                loop.remove_reader(self._listener)
                loop.call_later(_PAUSE_S, self._accept_again, loop)
            return False
        accepted.setblocking(False)
        if self._context is not None and not self._has_room():
            accepted.close()  # an answer with the reason would need a handshake
            return True
        opening = loop.create_task(self._connect_to(loop, accepted))
        self._opening[opening] = None
        opening.add_done_callback(self._forget)
        return True

    def _has_room(self) -> bool:
        """Whether there is room for a connection within TLS; the oldest handshake makes room."""
        limits = self.site.limits
        if len(self.site.connections) >= limits.max_connections:
            return False
        if len(self._opening) >= limits.max_handshakes:
            oldest = next(iter(self._opening))
            del self._opening[oldest]
            oldest.cancel()
        return True

    def _forget(self, opening: asyncio.Task[None]) -> None:
        self._opening.pop(opening, None)

    def _accept_again(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._listener.fileno() >= 0:
            loop.add_reader(self._listener, self._accept, loop)

    async def _connect_to(self, loop: asyncio.AbstractEventLoop, accepted: socket.socket) -> None:
        within_s = self.site.limits.handshake_timeout_s
        try:
            if self._context is None:
                await loop.connect_accepted_socket(self._connect, accepted)
            else:
                await loop.connect_accepted_socket(
                    self._connect, accepted, ssl=self._context,
                    ssl_handshake_timeout=within_s, ssl_shutdown_timeout=_CLOSING_ALERT_S,
                )  # fmt: skip
        except OSError as problem:
            # Of a port scanner, a health check, a client of clear text: nothing to report.
            log.debug("a connection failed: %s", problem)
