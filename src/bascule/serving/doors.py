"""Listening sockets: what is spoken behind each, how it is encrypted, and its opening and end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Protocol

from bascule.serving.services import BACKLOG
from bascule.serving.tls import Tls

log = logging.getLogger(__name__)


class DoorSite(Protocol):
    """What the connections of one protocol share."""

    draining: bool

    def tick(self) -> None: ...

    async def drain(self) -> None: ...


class Door:
    """A listening socket: what comes through it, and how it is encrypted."""

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

    async def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept connections."""
        # The loop listens again, with a hundred places if it is not told otherwise.
        if self._listener.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(
                self._connect, sock=self._listener, backlog=BACKLOG
            )
        else:
            self._server = await loop.create_server(
                self._connect, sock=self._listener, backlog=BACKLOG, ssl=self._context
            )

    async def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the connections that the kernel has accepted for us, and then no more.

        Closing at once would reset them.
        """
        await asyncio.sleep(0)
        while True:
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, OSError):
                break
            await loop.connect_accepted_socket(self._connect, accepted, ssl=self._context)
        self._server.close()

    def look(self) -> None:
        """Take up a certificate that was renewed; connections that are open keep theirs."""
        if self._tls is None or self._context is None:
            return
        changed_ns = self._tls.changed_at_ns()
        if changed_ns not in (0, self._loaded_ns):
            self._tls.load(self._context)
            self._loaded_ns = changed_ns
            log.info("the certificate was read again")
