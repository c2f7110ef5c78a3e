"""Where the control API is reached: few connections, and an end to each that keeps others waiting.

uvicorn bounds neither how many connections are open nor how long one may take over its request. The
process that is asked here keeps the keys fresh, so:
- `MAX_CONNECTIONS` are open, handshakes included, and fewer where the process may not have as many
  descriptors; one more takes the place of the one that has been idle for the longest, and where
  none is idle it is closed: without TLS after an answer;
- a handshake, a head, a body and the reading of an answer each have a time-out, which aborts;
- a connection whose body was not read ends with the answer, and the client can read that.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NoReturn

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from bascule.control.api.problems import problem_of
from bascule.core import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bascule.serving.transports import Tls

MAX_CONNECTIONS = 128
_OTHER_FILES = 256
"""Descriptors that are left to what else the process does."""
_MAX_HEAD_BYTES = 32 << 10
_HANDSHAKE_S = 5.0
_HEAD_S = 10.0
_BODY_S, _BODY_STEP_BYTES = 20.0, 256 << 10
"""So much more of a body has to come in each such time: a file of 1 GB may take as long as it takes
at 100 kbit/s, and a small body has the time once."""
_UNREAD_S = 20.0
_LINGER_S = 1.0
_AT_ONCE = 16
_OUT_OF_MEMORY_EXIT = 5
_PAUSE_S = 0.1
"""How long none is accepted after the system had no descriptor for one."""


class ControlServer(uvicorn.Server):
    """Serves an application on one listening socket."""

    def __init__(
        self, app: Any, tls: Tls | None = None, *, on_turn: Callable[[], None] = lambda: None
    ) -> None:
        """Nothing is accepted yet.

        Args:
            app: The application.
            tls: What connections are encrypted with; None for not at all.
            on_turn: Called ten times a second by the event loop.
        """
        config = uvicorn.Config(
            app,
            ws="none",
            log_config=None,  # as the rest of the process logs
            log_level="error",  # what callers do wrong would fill the log
            access_log=False,
            lifespan="off",
            h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        )
        super().__init__(config)
        self._on_turn = on_turn
        self._tls = None if tls is None else tls.context()
        self._entering: dict[asyncio.Task[None], None] = {}  # oldest first
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = files - len(os.listdir("/dev/fd")) - _OTHER_FILES
        self._most = min(MAX_CONNECTIONS, max(8, free // 2))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        assert sockets is not None
        self.servers = []
        asyncio.get_running_loop().set_exception_handler(_end_if_out_of_memory)
        self._listener = sockets[0]
        self._listener.setblocking(False)
        self._accept_again()
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and end the connections that are idle."""
        asyncio.get_running_loop().remove_reader(self._listener)
        for task in self._entering:
            task.cancel()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's to handle."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop."""
        self._on_turn()
        return await super().on_tick(counter)

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_AT_ONCE):
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:
                loop.remove_reader(self._listener)
                loop.call_later(_PAUSE_S, self._accept_again)
                return
            if not self._has_room():
                self._turn_away(accepted)
                continue
            task = loop.create_task(self._connect(accepted))
            self._entering[task] = None
            task.add_done_callback(partial(self._entered, accepted))

    def _entered(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        self._entering.pop(task, None)
        if task.cancelled():
            accepted.close()  # it may not even have begun

    def _has_room(self) -> bool:
        """Whether there is a place for one more, which one that is idle may have to give up."""
        opened = [one for one in self.server_state.connections if isinstance(one, _Connection)]
        if len(self._entering) + len(opened) < self._most:
            return True
        idle = [one for one in opened if one.is_idle]
        if idle:
            min(idle, key=lambda one: one.idle_since_s).abort()
            return True
        if self._entering:
            oldest = next(iter(self._entering))
            del self._entering[oldest]
            oldest.cancel()
            return True
        return False

    def _turn_away(self, accepted: socket.socket) -> None:
        """Close a connection; say why where nothing has to be waited for."""
        with accepted, suppress(OSError):
            if self._tls is None:
                accepted.setblocking(False)
                accepted.send(_too_many())
                accepted.shutdown(socket.SHUT_WR)
                accepted.recv(_MAX_HEAD_BYTES)  # left unread, it would reset the connection

    async def _connect(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        accepted.setblocking(False)
        within = {"ssl_handshake_timeout": _HANDSHAKE_S, "ssl_shutdown_timeout": _LINGER_S}
        with suppress(OSError):  # a handshake failed; nothing to report
            await loop.connect_accepted_socket(
                lambda: _Connection(self.config, self.server_state, {}, loop),
                accepted,
                ssl=self._tls,
                **({} if self._tls is None else within),
            )


@cache
def _too_many() -> bytes:
    error = Unavailable("as many connections are open as may be", hint="retry", retry_after_s=1)
    answer = problem_of(error, "")
    assert answer is not None
    head = b"".join(b"%b: %b\r\n" % line for line in answer.raw_headers)
    return b"HTTP/1.1 %d Service Unavailable\r\n%bconnection: close\r\n\r\n%b" % (
        answer.status_code, head, bytes(answer.body),
    )  # fmt: skip


def leave(*_: object) -> NoReturn:
    """End the process at once: the next one has the memory that this one has lost."""
    os._exit(_OUT_OF_MEMORY_EXIT)


def _end_if_out_of_memory(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if isinstance(context.get("exception"), MemoryError):
        leave()
    loop.default_exception_handler(context)


class _Connection(H11Protocol):
    """One connection of the control API, and the time for what it waits for."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.idle_since_s = self.loop.time()
        self._awaited = ""
        self._late: asyncio.TimerHandle | None = None
        self._received_bytes = 0
        super().connection_made(_Lingering(transport, self._lingers))  # type: ignore[arg-type]
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._await("", 0.0)
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered: none has come, or not all of its head."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def abort(self) -> None:
        """End it, whatever is under way."""
        self.connections.discard(self)  # the loop tells of the end later
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._awaited != "end":
            self._received_bytes += len(data)
            super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._look()

    def on_response_complete(self) -> None:
        self.idle_since_s = self.loop.time()
        if self.cycle.more_body:
            self.transport.close()
        super().on_response_complete()

    def _look(self) -> None:
        if self._awaited == "end":
            return
        if self.flow.write_paused:
            self._await("reading", _UNREAD_S)
        elif self.is_idle:
            self._await("head", _HEAD_S)
        elif self.cycle.more_body:
            self._await(f"body {self._received_bytes // _BODY_STEP_BYTES}", _BODY_S)
        else:
            self._await("", 0.0)

    def _await(self, what: str, within_s: float) -> None:
        if what != self._awaited:
            self._awaited = what
            if self._late is not None:
                self._late.cancel()
            self._late = self.loop.call_later(within_s, self._end_late) if what else None

    def _end_late(self) -> None:
        if self._awaited.startswith("body") and self.flow.read_paused:
            # It is this side that does not read: a disk is slow, for example.
            self._late = self.loop.call_later(_BODY_S, self._end_late)
        else:
            self.abort()

    def _lingers(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        is_sending = cycle is not None and cycle.more_body
        if is_sending:
            self._await("end", _LINGER_S)
        return is_sending


class _Lingering:
    """A transport that, closed while the client sends, lets it read its answer and no reset."""

    def __init__(self, transport: asyncio.Transport, lingers: Callable[[], bool]) -> None:
        self._transport = transport
        self._lingers = lingers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        if not self._transport.can_write_eof() or not self._lingers():
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.resume_reading()
            self._transport.write_eof()
