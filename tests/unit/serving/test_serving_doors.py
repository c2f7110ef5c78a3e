"""A door within TLS, with real sockets: handshakes take room and time, and both are bounded."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial

import pytest
import uvloop

from bascule.core.errors import NotFound
from bascule.serving.execution.admission import AdmissionQueue, BufferBudget
from bascule.serving.limits import Limits
from bascule.serving.telemetry.counters import Counters
from bascule.serving.transports.http1 import Connection
from bascule.serving.transports.http1_requests import Site
from bascule.serving.transports.http2 import Http2Server
from bascule.serving.transports.listeners import Listener
from bascule.serving.transports.routes import Route, table
from bascule.serving.transports.tls import Tls

WAIT_S = 10.0
PLACES = 3
BIG = b" " * (32 << 20)


class Behind:
    """A door on a thread, and clients that come to it."""

    def __init__(self, folder, authority, speaks, **limits):
        self.speaks = speaks
        self._root = authority.root
        bounds = Limits(max_connections=PLACES, **limits)
        series = Counters(folder / "counters", 1).series(0)
        shared = {
            "backlog": AdmissionQueue(bounds.max_body_bytes),
            "held": BufferBudget(bounds.max_held_bytes),
        }
        if speaks == "h2":
            self.site = Http2Server({}, bounds, series, **shared)
            connect = self.site.connect
        else:
            routes = [
                Route(b"GET", b"/", lambda exchange: exchange.answer(b"{}"), "read"),
                Route(b"GET", b"/big", lambda exchange: exchange.answer(BIG), "read"),
            ]
            self.site = Site(
                table(routes), lambda path: NotFound("no such path"), bounds, series, **shared
            )
            connect = partial(Connection, self.site)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._door = Listener(
            listener.detach(), self.site, connect, Tls(*authority("door")), protocol=speaks
        )
        self._opened = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()))
        self._thread.start()
        assert self._opened.wait(WAIT_S)

    async def _main(self):
        self._loop = asyncio.get_running_loop()
        self._left = asyncio.Event()
        await self._door.open(self._loop)
        self._opened.set()
        ticking = asyncio.create_task(self._tick())
        await self._left.wait()
        ticking.cancel()
        await self._door.close(self._loop)
        await self.site.drain()

    async def _tick(self):
        """What a worker does once a second."""
        while True:
            self.site.tick()
            await asyncio.sleep(0.02)

    def leave(self):
        with suppress(RuntimeError):  # it has left
            self._loop.call_soon_threadsafe(self._left.set)

    def join(self):
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def until(self, condition):
        """Wait until something is so; it must become so by itself."""
        give_up = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < give_up, "it did not come to be"
            time.sleep(0.002)

    def half(self, count):
        """Clients that are accepted, and do not begin their handshakes; the oldest first."""
        silent = []
        for number in range(1, count + 1):
            silent.append(self.plain())
            self.until(lambda: len(self._door._opening) == number)  # noqa: B023
        return silent

    def plain(self):
        """A client that has connected and says nothing."""
        return socket.create_connection(("127.0.0.1", self.port), WAIT_S)

    def secured(self):
        """A client that is through with the handshake."""
        return self.context().wrap_socket(self.plain(), server_hostname="localhost")

    def context(self):
        context = ssl.create_default_context(cafile=str(self._root))
        context.set_alpn_protocols([self.speaks])
        return context

    def secured_in_time(self):
        """The same, as soon as the server has heard that there is a place."""
        give_up = time.monotonic() + WAIT_S
        while True:
            try:
                return self.secured()
            except OSError:
                assert time.monotonic() < give_up, "nobody is let in"

    def is_let_in(self):
        """Whether a client gets through the handshake, and an answer."""
        try:
            with self.secured() as client:
                client.sendall(
                    b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
                    if self.speaks == "http/1.1"
                    else b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                )
                return client.recv(1 << 10) != b""
        except OSError:
            return False


@pytest.fixture
def behind(tmp_path, authority):
    with ExitStack() as stack:

        def make(speaks, **limits):
            made = Behind(tmp_path, authority, speaks, **limits)
            stack.callback(made.join)
            stack.callback(made.leave)
            return made

        yield make


def is_closed(client):
    """Whether the server closes the connection, which has said nothing and is told nothing."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


CLOSE = b" HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


def test_a_client_that_says_no_goodbye_does_not_keep_its_place(behind, monkeypatch):
    monkeypatch.setattr("bascule.serving.transports.listeners._CLOSING_ALERT_S", 0.2)
    door = behind("http/1.1", drain_s=0.1)
    with door.secured() as client:
        client.sendall(b"GET /" + CLOSE)
        door.until(lambda: len(door.site.connections) == 1)
        door.until(lambda: not door.site.connections)


def test_a_large_answer_within_tls_is_not_cut_off_by_the_close_that_follows_it(behind, monkeypatch):
    monkeypatch.setattr("bascule.serving.transports.listeners._CLOSING_ALERT_S", 0.05)
    door = behind("http/1.1", drain_s=0.1)
    with door.secured() as client:
        client.sendall(b"GET /big" + CLOSE)
        read = len(client.recv(1 << 16))
        time.sleep(0.3)  # longer than there is for a goodbye
        while read < len(BIG):
            piece = client.recv(1 << 20)
            assert piece, "it was cut off"
            read += len(piece)
        door.until(lambda: not door.site.connections)


SPEAKS = pytest.mark.parametrize("speaks", ["http/1.1", "h2"])


@SPEAKS
def test_clients_with_half_a_handshake_keep_nobody_out(behind, speaks):
    door = behind(speaks, handshake_timeout_s=60, drain_s=0.1)
    with ExitStack() as stack:
        for client in door.half(2 * PLACES):
            stack.enter_context(client)
        assert door.is_let_in()


@SPEAKS
def test_who_comes_when_all_places_are_taken_is_closed_before_the_handshake(behind, speaks):
    door = behind(speaks, handshake_timeout_s=60, drain_s=0.1)
    with ExitStack() as stack:
        through = [stack.enter_context(door.secured()) for _ in range(PLACES)]
        door.until(lambda: len(door.site.connections) == PLACES)
        assert is_closed(stack.enter_context(door.plain()))
        through[0].close()
        stack.enter_context(door.secured_in_time())


@SPEAKS
def test_who_is_through_when_all_places_are_taken_is_told_so(behind, speaks):
    door = behind(speaks, drain_s=0.1)
    with ExitStack() as stack:
        (late,) = door.half(1)
        stack.enter_context(late)
        for _ in range(PLACES):
            stack.enter_context(door.secured())
        door.until(lambda: len(door.site.connections) == PLACES)
        told = stack.enter_context(door.context().wrap_socket(late, server_hostname="localhost"))
        expected = b"HTTP/1.1 503" if speaks == "http/1.1" else b"as many connections are open"
        said = b""
        while expected not in said:
            piece = told.recv(1 << 10)
            assert piece, said
            said += piece


@SPEAKS
def test_of_too_many_handshakes_the_oldest_gives_way_to_the_newest(behind, speaks):
    door = behind(speaks, max_handshakes=3, handshake_timeout_s=60, drain_s=0.1)
    with ExitStack() as stack:
        silent = door.half(3)
        for client in silent:
            stack.enter_context(client)
        assert door.is_let_in()
        assert is_closed(silent[0])
        # Those that did not have to give way are still let in.
        for client in silent[1:]:
            door.context().wrap_socket(client, server_hostname="localhost").close()
        door.until(lambda: not door._door._opening)


@SPEAKS
def test_a_handshake_that_takes_too_long_is_cut_off(behind, speaks):
    door = behind(speaks, handshake_timeout_s=0.3, receive_timeout_s=60, drain_s=0.1)
    with ExitStack() as stack:
        silent = door.half(PLACES)
        for client in silent:
            stack.enter_context(client)
        silent[0].sendall(b"\x16\x03\x01\x02\x00")  # the start of a hello
        assert all(is_closed(client) for client in silent)
        door.until(lambda: not door._door._opening)


@SPEAKS
def test_what_is_no_handshake_costs_its_place_at_once(behind, speaks, caplog):
    door = behind(speaks, drain_s=0.1)
    for _ in range(3 * PLACES):
        with door.plain() as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            while client.recv(1 << 10):
                pass
    door.secured_in_time().close()
    assert not caplog.records


@SPEAKS
def test_a_server_that_leaves_waits_for_no_handshake_without_end(behind, speaks):
    door = behind(speaks, drain_s=0.1)
    with door.plain() as silent, door.plain() as broken:
        broken.sendall(b"no handshake")
        door.leave()
        assert is_closed(silent)
        door.join()


def test_who_has_connected_before_the_server_leaves_is_still_answered(behind):
    door = behind("http/1.1")
    with door.plain() as plain:
        door.leave()
        context = ssl.create_default_context(cafile=str(door._root))
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            assert client.recv(1 << 10).startswith(b"HTTP/1.1 200")
