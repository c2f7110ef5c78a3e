"""Whatever is sent to the port: a refusal in the one shape or the end of the connection."""

from __future__ import annotations

import json
import re
import socket

import pytest
from hypothesis import given, settings, strategies as st
from tests.tiers import examples

ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n(?:[^\r]+\r\n)*?Content-Length: (\d+)\r\n")
ALLOWED = {200, 400, 403, 404, 405, 408, 413, 417, 431, 501, 505}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("garbage") / "log"


@pytest.fixture(scope="module")
def server(start, cancer_bundle, costly_bundle, log):
    with log.open("wb") as errors:
        server = start(cancer_bundle, costly_bundle, errors=errors)
        yield server
        server.end()
        server.process.stdout.close()


@pytest.fixture(scope="module")
def valid(cancer_bundle):
    body = (cancer_bundle / "data/example.json").read_bytes()
    head = (
        b"POST /v2/models/gb/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    )
    start = b"POST /v2/models/gb/infer HTTP/1.1\r\nHost: localhost\r\n"
    chunked = start + b"Transfer-Encoding: chunked\r\n\r\n"
    return [
        head + body,
        chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        b"GET /v2/models/gb HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n" * 3,
        b"HEAD /v2/health/live HTTP/1.0\r\n\r\n",
    ]


def statuses(port, *pieces):
    """Send, say that there is no more, and read to the end, which must come."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
            got = b""
            while piece := client.recv(1 << 16):
                got += piece
        except (ConnectionResetError, BrokenPipeError):
            return []
    found = []
    for answer in ANSWER.finditer(got):
        status, length = map(int, answer.groups())
        start = got.index(b"\r\n\r\n", answer.start()) + 4
        body = got[start : start + length]
        if status >= 400 and not (b"HEAD" in b"".join(pieces) and not body.startswith(b"{")):
            assert list(json.loads(body)) == ["error"]
        found.append(status)
    assert bool(found) == bool(got)
    return found


def still_serves(server, valid):
    """By a client that waits: one that says there is no more may be taken for one that has gone."""
    got = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(valid[0])
        while (answer := ANSWER.search(got)) is None:
            piece = client.recv(1 << 16)
            assert piece, "the connection ended without an answer"
            got += piece
    assert int(answer[1]) == 200
    assert server.process.poll() is None


@settings(max_examples=examples(300), deadline=None)
@given(pieces=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=4))
def test_random_bytes_are_refused(server, valid, pieces):
    assert set(statuses(server.port, *pieces)) <= ALLOWED - {200}
    still_serves(server, valid)


@settings(max_examples=examples(500), deadline=None)
@given(data=st.data())
def test_damaged_requests_are_answered_or_refused(server, valid, data):
    request = bytearray(data.draw(st.sampled_from(valid)))
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, max(0, len(request) - 1)))
        cut = data.draw(st.sampled_from([0, 1, 1, 2, 40]))
        put = data.draw(st.binary(max_size=3) | st.sampled_from([b"\r\n", b"0", b"\x00", b" "]))
        request[place : place + cut] = put
    cut = data.draw(st.integers(0, len(request)))
    assert set(statuses(server.port, bytes(request[:cut]), bytes(request[cut:]))) <= ALLOWED
    still_serves(server, valid)


def test_numbers_that_the_model_cannot_hold_are_refused(server):
    for number in (b"1e39", b"1e200", b"-1e308", b"1e309", b"9" * 4_000):
        body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,16],"data":[%b]}]}' % (
            b",".join([number] * 16)
        )
        head = (
            b"POST /v2/models/net/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            % len(body)
        )
        assert statuses(server.port, head + body) == [400]


def test_nothing_of_it_is_in_the_log(server, log):
    """Runs last: the log must not tell of a single problem, nor hold what was sent."""
    lines = log.read_bytes().splitlines()
    # On a machine that is busy a model may move to its thread, which is no problem.
    assert [line for line in lines if b"had calls" not in line] == []
