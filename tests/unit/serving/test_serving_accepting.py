"""A new client is accepted in the next turn of the loop, and shares turns with large reads."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import uvloop

from bascule.serving.execution.admission import SHORT_BYTES
from bascule.serving.limits import Limits
from bascule.serving.transports.http1_requests import RequestReader
from bascule.serving.transports.listeners import Listener

CLIENTS = 48


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_clients_that_wait_together_are_accepted_together(tmp_path, family):
    """Not one a turn: each client before a new one may cost a turn of 10 ms."""
    made = []

    class Counting(asyncio.Protocol):
        def connection_made(self, transport):
            made.append(transport)

    async def accepted(clients):
        listener = socket.socket(family)
        listener.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "socket"))
        listener.listen(CLIENTS)
        for _ in range(CLIENTS):
            client = clients.enter_context(socket.socket(family))
            client.connect(listener.getsockname())
        site = SimpleNamespace(limits=Limits(), connections=())
        door = Listener(listener.detach(), site, Counting, None)
        loop = asyncio.get_running_loop()
        await door.open(loop)
        turns = 0
        while len(made) < CLIENTS:
            await asyncio.sleep(0)
            turns += 1
        await door.close(loop)
        for transport in made:
            transport.abort()
        return turns

    with ExitStack() as clients:
        assert uvloop.run(accepted(clients)) <= 5
    assert len(made) == CLIENTS


def test_a_client_that_connects_at_the_last_moment_is_accepted():
    """As does one whose part of the handshake was under way when the server was to stop."""
    made = []

    class Counting(asyncio.Protocol):
        def connection_made(self, transport):
            made.append(transport)

    async def closed():
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        site = SimpleNamespace(limits=Limits(), connections=())
        door = Listener(listener.detach(), site, Counting, None)
        loop = asyncio.get_running_loop()
        await door.open(loop)
        closing = loop.create_task(door.close(loop))
        for _ in range(5):
            await asyncio.sleep(0)
        with socket.create_connection(address):
            await closing
            for transport in made:
                transport.abort()

    uvloop.run(closed())
    assert len(made) == 1


def test_a_body_in_tiny_chunks_is_read_in_parts_between_which_others_have_their_turns(
    serve_routes, monkeypatch
):
    sizes = []
    receive = RequestReader.receive

    def noted(self, data):
        sizes.append(len(data))
        receive(self, data)

    monkeypatch.setattr(RequestReader, "receive", noted)
    server = serve_routes(
        {b"/echo": {b"POST": lambda exchange: exchange.answer(exchange.take_body())}}
    )
    with server.client() as client:
        client.send(
            b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"1\r\nx\r\n" * 40_000
            + b"0\r\n\r\n"
        )
        assert client.answer().body == b"x" * 40_000
    assert max(sizes) <= SHORT_BYTES
