"""A small body that stands for gigabytes costs the server no more than a body may have."""

from __future__ import annotations

import functools
import json
import zlib

import psutil
import pytest
from tests.tiers import first_of

MAX_BODY_BYTES = 8 << 20


@pytest.fixture(scope="module")
def server(start, cancer_bundle):
    running = start(cancer_bundle, env={"BASCULE_SERVING__MAX_BODY_BYTES": str(MAX_BODY_BYTES)})
    yield running
    running.end()
    running.process.stdout.close()


@functools.cache
def bomb(size, window):
    """Zeros for so many bytes, a thousandth of their size."""
    packer = zlib.compressobj(9, wbits=window)
    piece = bytes(1 << 20)
    return b"".join(packer.compress(piece) for _ in range(size >> 20)) + packer.flush()


def peak_bytes(server):
    """The most memory that the worker ever had."""
    (worker,) = server.worker_pids()
    with open(f"/proc/{worker}/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


@pytest.mark.parametrize(("coding", "window"), [("gzip", 31), ("deflate", 15), ("deflate", -15)])
@pytest.mark.parametrize(
    "path", first_of(["/v2/models/gb/infer", "/invocations", "/v1/models/gb:predict"])
)
def test_a_bomb_is_refused_before_it_is_large(server, connect, coding, window, path):
    packed = bomb(1 << 27, window)
    assert len(packed) < MAX_BODY_BYTES / 8
    before = peak_bytes(server)

    with connect(server.port) as client:
        header = f"Content-Encoding: {coding}\r\n"
        answer = client.request("POST", path, packed, header).answer()

    assert answer.status == 413
    assert "once it is decompressed" in answer.json["error"]
    # Its pieces, put together, are there twice for a moment.
    assert peak_bytes(server) - before < 3 * MAX_BODY_BYTES


def test_a_bomb_of_bombs_is_one_coding_too_many(server, connect):
    twice = zlib.compress(bomb(64 << 20, 15), 9)
    with connect(server.port) as client:
        for coding in ("deflate, deflate", "deflate,gzip"):
            header = f"Content-Encoding: {coding}\r\n"
            answer = client.request("POST", "/invocations", twice, header).answer()
            assert answer.status == 400
            assert "is not supported" in answer.json["error"]


def test_millions_of_empty_members_are_refused_at_once(server, connect):
    """Each would cost a copy of all that follow it."""
    empty = zlib.compress(b"", wbits=31)
    body = empty * (MAX_BODY_BYTES // len(empty))
    (worker,) = map(psutil.Process, server.worker_pids())
    before_s = worker.cpu_times().user

    with connect(server.port) as client:
        header = "Content-Encoding: gzip\r\n"
        answer = client.request("POST", "/v2/models/gb/infer", body, header).answer()

    assert answer.status == 400
    assert worker.cpu_times().user - before_s < 1


def test_the_server_serves_on(server, connect, cancer_bundle):
    example = json.loads((cancer_bundle / "data/example.json").read_bytes())
    with connect(server.port) as client:
        assert client.request("POST", "/v2/models/gb/infer", example).answer().status == 200
