"""The listening side of the control API: its bounds and time-outs."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest
from tests.waiting import until

from bascule.control.api import connections
from bascule.serving.transports import Tls
from bascule.serving.workers import bind

SOON_S = 0.3
SOME_S = 5.0
"""Shorter than what is waited for where a bound does not hold, and long for a busy machine."""
RELEASED = threading.Event()
LARGE = b"x" * (8 << 20)


async def app(scope, receive, send):
    """Answers each path in its own way."""
    if scope["path"] == "/body":
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message["more_body"]
    elif scope["path"] == "/slow":
        await asyncio.sleep(3 * SOON_S)
    elif scope["path"] == "/held":
        while not RELEASED.is_set():
            await asyncio.sleep(0.01)
    headers = [(b"content-length", b"%d" % len(LARGE))] if scope["path"] == "/large" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    body = LARGE if scope["path"] == "/large" else b""
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(tls=None):
    (listener,) = bind("127.0.0.1", 0, 1)
    server = connections.ControlServer(app, tls)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1], server
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
        listener.close()


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    for name in ("_HANDSHAKE_S", "_HEAD_S", "_BODY_S", "_UNREAD_S", "_LINGER_S"):
        monkeypatch.setattr(connections, name, SOON_S)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 8)
    RELEASED.clear()


def asked(port, *pieces):
    client = socket.create_connection(("127.0.0.1", port), timeout=2 * SOME_S)
    for piece in pieces:
        client.sendall(piece)
        time.sleep(0.02)
    return client


def is_ended(client):
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def is_refused(client, piece):
    try:
        client.sendall(piece)
    except OSError:
        return True
    return False


GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
HALF = b"GET / HTTP/1.1\r\nHo"
BODY = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [HALF],
        [GET % b"", HALF],
        [BODY],
        [GET % b"", BODY],
        [GET % b"" + BODY],
        [BODY + b"def"],
    ],
    ids=["idle", "head", "second head", "body", "second body", "pipelined", "more body"],
)
def test_who_keeps_the_server_waiting_is_let_go(pieces):
    with serving() as (port, _), asked(port, *pieces) as client:
        began_s = time.monotonic()
        while client.recv(1 << 16):
            pass
        assert SOON_S / 2 < time.monotonic() - began_s < SOME_S


def test_a_trickle_extends_no_time():
    with serving() as (port, _), asked(port) as client:
        began_s = time.monotonic()
        until(lambda: is_refused(client, b"x"))
        assert time.monotonic() - began_s < SOME_S


def test_a_large_body_may_take_long_as_long_as_it_comes(monkeypatch):
    monkeypatch.setattr(connections, "_BODY_STEP_BYTES", 1_000)
    head = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n"
    with serving() as (port, _), asked(port, head) as client:
        began_s = time.monotonic()
        for _ in range(20):
            client.sendall(b"x" * 1_000)
            time.sleep(SOON_S / 4)
        assert time.monotonic() - began_s > 4 * SOON_S
        assert client.recv(12) == b"HTTP/1.1 200"
    with serving() as (port, _), asked(port, head) as client:
        began_s = time.monotonic()
        until(lambda: is_refused(client, b"x" * 10) or time.sleep(SOON_S / 4))
        assert time.monotonic() - began_s < SOME_S


def test_an_answer_that_is_not_read_is_not_kept():
    with serving() as (port, server):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.settimeout(SOME_S)
        client.connect(("127.0.0.1", port))
        with client:
            client.sendall(GET % b"large")
            until(lambda: server.server_state.connections)
            until(lambda: not server.server_state.connections)


def test_an_answer_that_takes_its_time_is_waited_for():
    with serving() as (port, _), asked(port, GET % b"slow") as client:
        assert client.recv(12) == b"HTTP/1.1 200"


def test_one_connection_more_takes_the_place_of_the_one_that_was_idle_for_the_longest(monkeypatch):
    monkeypatch.setattr(connections, "_HEAD_S", 4 * SOME_S)  # no other is let go by itself
    with serving() as (port, _), ExitStack() as stack:
        busy = stack.enter_context(asked(port, GET % b"held"))
        idle = [stack.enter_context(asked(port, GET % b"")) for _ in range(7)]
        assert all(one.recv(1 << 16) for one in idle)
        late = stack.enter_context(asked(port, GET % b""))
        assert late.recv(12) == b"HTTP/1.1 200"
        assert is_ended(idle[0])
        idle[1].sendall(GET % b"")
        assert idle[1].recv(12) == b"HTTP/1.1 200"
        RELEASED.set()
        assert busy.recv(12) == b"HTTP/1.1 200"


def test_where_all_are_busy_one_more_is_told_so_and_closed():
    with serving() as (port, _), ExitStack() as stack:
        busy = [stack.enter_context(asked(port, GET % b"held")) for _ in range(8)]
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=2 * SOME_S)
        client.request("GET", "/")
        refused = client.getresponse()
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert "as many connections are open as may be" in json.loads(refused.read())["detail"]
        client.close()
        RELEASED.set()
        assert all(one.recv(12) == b"HTTP/1.1 200" for one in busy)


def test_handshakes_have_the_same_bound_and_an_end(authority, monkeypatch):
    monkeypatch.setattr(connections, "_HANDSHAKE_S", 5 * SOON_S)  # the good one has its time
    tls = Tls(*authority("server"))
    context = ssl.create_default_context(cafile=str(authority.root))
    with serving(tls) as (port, server), ExitStack() as stack:
        silent = [stack.enter_context(asked(port)) for _ in range(20)]
        until(lambda: len(server._entering) <= 8)
        with context.wrap_socket(asked(port), server_hostname="localhost") as client:
            client.sendall(GET % b"")
            assert client.recv(12) == b"HTTP/1.1 200"
        assert all(map(is_ended, silent))


def test_a_server_without_descriptors_answers_once_it_has_some(monkeypatch):
    with serving() as (port, server):
        until(lambda: server.started)
        accept, refused = server._listener.accept, []

        class Lacking:
            def __getattr__(self, name):
                return getattr(listener, name)

            def accept(self):
                if len(refused) < 2:
                    refused.append(1)
                    raise OSError(24, "too many open files")
                return accept()

        listener = server._listener
        server._listener = Lacking()
        with asked(port, GET % b"") as client:
            assert client.recv(12) == b"HTTP/1.1 200"
        assert len(refused) == 2
