"""A connection that sends much and reads nothing delays no other client, and fills no memory.

Each attack is made again and again beside eight calm clients; see `tests.attackers`. The first
tier makes each for a moment, the second for as long as slow leaks take to be seen.
"""

from __future__ import annotations

import socket
import struct
import time
import zlib
from contextlib import ExitStack, suppress
from functools import cache
from itertools import count

import hpack
import pytest
from tests.attackers import post, toll_of
from tests.http2_caller import (
    DATA,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from tests.tiers import first_of

pytestmark = pytest.mark.serial

END_HEADERS = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SHUT = PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
OPEN = PREFACE + frame(SETTINGS, 0, 0, b"")
FLOOD_BYTES = 4 << 20


@cache  # the floods below are made wherever this file is read
def block(path, **more):
    named = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
    named |= {"te": "trailers", "content-type": "application/grpc"}
    return hpack.Encoder().encode([*(named | more).items()], huffman=False)


def call(id_, head, message):
    data = b"\0" + len(message).to_bytes(4) + message
    return frame(HEADERS, END_HEADERS, id_, head) + frame(DATA, END_STREAM, id_, data)


def started(start, bundle):
    running = start(bundle, "--grpc-port=0")
    yield running
    running.end()
    running.process.stdout.close()


@pytest.fixture(scope="module")
def server(start, cancer_bundle):
    yield from started(start, cancer_bundle)


@pytest.fixture
def fresh(start, cancer_bundle):
    """One that has nothing left to do for those who attacked before."""
    yield from started(start, cancer_bundle)


@pytest.fixture(scope="module")
def calm(cancer_bundle):
    return post("/v2/models/gb/infer", (cancer_bundle / "data/example.json").read_bytes())


@pytest.fixture(scope="module")
def toll(calm):
    def of(server, attack, seconds=1.0):
        made = toll_of(
            attack, port=server.port, pids=server.worker_pids(), request=calm, seconds=seconds
        )
        print(made)  # noqa: T201
        return made

    return of


def send(port, data, *, reads=False):
    """Send all, as far as the server takes it; read nothing unless told so."""
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.settimeout(0.5)
        view = memoryview(data)
        with suppress(OSError):
            while view:
                view = view[client.send(view) :]
                if reads:
                    client.setblocking(False)
                    with suppress(BlockingIOError):
                        while client.recv(1 << 20):
                            pass
                    client.settimeout(5)
        if reads:
            with suppress(OSError):
                client.settimeout(0.3)
                while client.recv(1 << 20):
                    pass


def unknown_methods():
    head = block("/none.Such/Method")
    return OPEN + b"".join(
        frame(HEADERS, END_HEADERS | END_STREAM, id_, head) for id_ in range(1, 60_000, 2)
    )


FLOODS = {
    "calls of unknown methods": unknown_methods(),
    "window updates": OPEN + frame(WINDOW_UPDATE, 0, 0, (1).to_bytes(4)) * (FLOOD_BYTES // 13),
    "settings": OPEN + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1) * 10_000) * 60,
    "pings": OPEN + frame(PING, 0, 0, bytes(8)) * (FLOOD_BYTES // 17),
    "resets": OPEN
    + b"".join(
        frame(HEADERS, END_HEADERS, id_, block("/grpc.health.v1.Health/Check"))
        + frame(RST_STREAM, 0, id_, (8).to_bytes(4))
        for id_ in range(1, 40_000, 2)
    ),
    "frames that are not known": OPEN + frame(77, 0, 0, b"") * (FLOOD_BYTES // 9),
    "health checks": OPEN
    + b"".join(
        call(id_, block("/grpc.health.v1.Health/Check"), b"") for id_ in range(1, 30_000, 2)
    ),
    "reflection": OPEN
    + frame(
        HEADERS, END_HEADERS, 1, block("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    )
    + frame(DATA, 0, 1, b"\0\0\0\0\x02\x3a\0" * 15) * 20_000,
}


QUICK = {"calls of unknown methods", "nothing there"}


def each(kinds):
    """The first tier has the ones that were the worst, the second has all."""
    return pytest.mark.parametrize(
        "kind", [pytest.param(k, marks=[] if k in QUICK else [pytest.mark.slow]) for k in kinds]
    )


@each(FLOODS)
@pytest.mark.parametrize("reads", first_of([True, False]), ids=["read", "unread"])
def test_a_flood_over_http_2_holds_up_nobody(server, toll, kind, reads):
    toll(server, lambda: send(server.grpc_port, FLOODS[kind], reads=reads)).assert_bearable()


PIPELINES = {
    "health": b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n" * 60_000,
    "nothing there": b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n" * 60_000,
    "heads that differ": b"".join(
        b"GET /n%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(60_000)
    ),
    "bodies": post("/v2/models/gb/infer", b"{}") * 30_000,
    "chunks": b"POST /invocations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"1\r\n1\r\n" * 600_000,
}


@each(PIPELINES)
@pytest.mark.parametrize("reads", first_of([True, False]), ids=["read", "unread"])
def test_a_pipeline_over_http_1_holds_up_nobody(server, toll, kind, reads):
    toll(server, lambda: send(server.port, PIPELINES[kind], reads=reads)).assert_bearable()


@pytest.mark.parametrize("seconds", first_of([1.0, 3.0]))
def test_answers_for_which_there_is_no_room_fill_no_memory(fresh, toll, seconds):
    """Nothing of an answer can be sent: each waits until its client leaves room for it.

    Memory grows with the connections too, by half a megabyte for 255 streams each, and how many are
    made in a time depends on the machine.
    """
    ask = block("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    begun = b"".join(frame(HEADERS, END_HEADERS, id_, ask) for id_ in range(1, 511, 2))
    message = b"\0" + (2 + 21).to_bytes(4) + b"\x1a\x15" + b"grpc_predict_v2.proto"
    asked = b"".join(frame(DATA, 0, id_, message * 15) for id_ in range(1, 511, 2))

    opened = count()
    with ExitStack() as stack:

        def attack():
            if next(opened) >= 300:
                time.sleep(0.05)
                return
            client = stack.enter_context(socket.create_connection(("127.0.0.1", fresh.grpc_port)))
            client.settimeout(0.3)
            with suppress(OSError):
                client.sendall(SHUT + begun)
                for _ in range(20):
                    client.sendall(asked)

        toll(fresh, attack, seconds).assert_bearable()


@pytest.mark.slow
def test_watches_are_bounded(fresh, toll):
    watch = block("/grpc.health.v1.Health/Watch")
    opened = b"".join(
        frame(HEADERS, END_HEADERS, id_, watch) + frame(DATA, END_STREAM, id_, bytes(5))
        for id_ in range(1, 511, 2)
    )
    with ExitStack() as stack:

        def attack():
            for _ in range(20):
                client = stack.enter_context(
                    socket.create_connection(("127.0.0.1", fresh.grpc_port))
                )
                client.sendall(OPEN + opened)
            time.sleep(0.05)

        toll(fresh, attack, seconds=2.0).assert_bearable()


@pytest.mark.slow
def test_large_answers_over_http_1_that_nobody_reads_fill_no_memory(fresh, toll):
    asked = b"GET /v2/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 2_000
    with ExitStack() as stack:

        def attack():
            for _ in range(20):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", fresh.port)))
                client.settimeout(0.05)
                with suppress(OSError):
                    client.sendall(asked)

        toll(fresh, attack, seconds=2.0).assert_bearable()


def test_a_small_message_that_becomes_a_large_one_holds_up_nobody(server, toll):
    packer = zlib.compressobj(9, wbits=31)
    pairs = b"\x42\x00" * (1 << 19)
    packed = b"".join(packer.compress(pairs) for _ in range(60)) + packer.flush()
    assert len(packed) < 100_000
    head = block("/inference.GRPCInferenceService/ModelInfer", **{"grpc-encoding": "gzip"})
    data = b"\1" + len(packed).to_bytes(4) + packed
    pieces = [data[at : at + (1 << 14)] for at in range(0, len(data), 1 << 14)]
    call = frame(HEADERS, END_HEADERS, 1, head) + b"".join(
        frame(DATA, END_STREAM if piece is pieces[-1] else 0, 1, piece) for piece in pieces
    )

    def attack():
        with socket.create_connection(("127.0.0.1", server.grpc_port), 20) as client:
            client.sendall(OPEN + call)
            answer = b""
            while b"grpc-status" not in answer:
                answer += client.recv(1 << 16)
        assert b"grpc-status\x013" in answer

    toll(server, attack).assert_bearable()
