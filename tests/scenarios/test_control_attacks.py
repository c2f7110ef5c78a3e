"""Attacks on the control port, which is in the process that keeps the keys fresh."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest
from tests.pace import until_soon
from tests.scenarios.commands import bascule
from tests.tiers import first_of
from tests.waiting import until

pytestmark = pytest.mark.serial

IDLE = 1_100
BODY_BYTES = 64 << 20
MORE_MEMORY_BYTES = 100 << 20


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("control") / "home"


@pytest.fixture(scope="module")
def manager(home):
    return bascule(home, "keys", "create", "manager", "--allow", "manage:*")["token"]


@pytest.fixture(scope="module")
def server(start, cancer_bundle, home, manager, tmp_path_factory):
    """A server of two workers that asks for keys; its log is in `server.log`."""
    log = tmp_path_factory.mktemp("log") / "log"
    with log.open("w") as errors:
        server = start(
            cancer_bundle, "--workers=2", errors=errors,
            env={"BASCULE_HOME": str(home), "BASCULE_SECURITY__CALLERS": "keys"},
        )  # fmt: skip
        server.log = log
        try:
            yield server
        finally:
            server.process.stdout.close()
            server.end()


@pytest.fixture(scope="module", autouse=True)
def many_files():
    """An attacker may have as many connections as it likes."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8_192, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def memory(server):
    return psutil.Process(server.control_pid()).memory_info().rss


def post(path=b"/api/v1/server/services", headers=b""):
    return b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + headers


def revoked_within_s(server, connect, home, body):
    """How long a new key opens the data plane after it was revoked."""
    name = f"k{time.monotonic_ns()}"
    token = bascule(home, "keys", "create", name, "--allow", "infer:gb")["token"]
    header = f"Authorization: Bearer {token}\r\n"

    def answers():
        found = set()
        for _ in range(6):
            with connect(server.port) as client:
                client.request("POST", "/v2/models/gb/infer", body, header)
                found.add(client.answer().status)
        return found

    until(lambda: answers() == {200})
    bascule(home, "keys", "revoke", name)
    revoked_s = time.monotonic()
    until(lambda: answers() == {401})
    return time.monotonic() - revoked_s


# -- the key first --


@pytest.mark.parametrize("path", [b"/api/v1/server/services", b"/v2/repository/models/m/load"])
@pytest.mark.parametrize("form", ["length", "chunked", "expects"])
def test_without_a_key_nothing_of_a_body_is_waited_for(server, connect, path, form):
    more = {
        "length": b"Content-Length: 1200000000\r\n\r\n",
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n",
        "expects": b"Content-Length: 1200000000\r\nExpect: 100-continue\r\n\r\n",
    }
    with connect(server.control_port) as client:
        assert client.send(post(path, more[form])).answer().status == 401
        assert client.is_ended()


def test_a_key_that_may_not_is_refused_before_the_body(server, connect, home):
    reader = bascule(home, "keys", "create", "reader", "--allow", "read:*")["token"]
    header = b"Authorization: Bearer %b\r\nContent-Length: 9\r\n\r\n" % reader.encode()

    def status():
        with connect(server.control_port) as client:
            return client.send(post(b"/v2/repository/models/m/load", header)).answer().status

    until(lambda: status() != 401)  # the key is new
    assert status() == 403


def test_a_client_that_sends_everything_first_still_reads_its_refusal(server, connect):
    before = memory(server)
    with connect(server.control_port) as client:
        client.send(post(headers=b"Content-Length: %d\r\n\r\n" % BODY_BYTES))
        piece = b"x" * (1 << 20)
        for _ in range(BODY_BYTES >> 20):
            client.send(piece)
        assert client.answer().status == 401
    assert memory(server) - before < MORE_MEMORY_BYTES


@pytest.mark.parametrize("chunked", [False, True])
def test_with_a_key_a_body_has_a_bound(server, connect, manager, chunked):
    before = memory(server)
    key = b"Authorization: Bearer %b\r\n" % manager.encode()
    with connect(server.control_port) as client:
        if chunked:
            client.send(post(headers=key + b"Transfer-Encoding: chunked\r\n\r\n"))
            for _ in range(2):
                client.send(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")
        else:
            client.send(post(headers=key + b"Content-Length: 1048577\r\n\r\n"))
        answer = client.answer()
        assert answer.status == 413
        assert "1,048,576 bytes" in answer.json["error"]
    assert memory(server) - before < MORE_MEMORY_BYTES


@pytest.mark.parametrize("path", first_of([b"/docs", b"/health", b"/nowhere"]))
def test_a_body_that_no_route_reads_is_not_kept(server, connect, path):
    before = memory(server)
    with connect(server.control_port) as client:
        client.send(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n")
        assert client.answer().status in (200, 404, 413)
        until(lambda: is_refused(client, b"x" * (1 << 20)), within_s=5)
    assert memory(server) - before < MORE_MEMORY_BYTES


@pytest.mark.parametrize("begin", [b"GET /", b"GET / HTTP/1.1\r\nA: "])
def test_a_head_has_a_bound(server, connect, begin):
    with connect(server.control_port) as client:
        assert client.send(begin + b"x" * 70_000).answer().status == 400


def is_refused(client, piece):
    try:
        client.send(piece)
    except OSError:
        return True
    return False


# -- connections --


@contextmanager
def held_open(port, count, begin=b""):
    with ExitStack() as stack:
        for _ in range(count):
            one = stack.enter_context(socket.socket())
            one.settimeout(10)
            if one.connect_ex(("127.0.0.1", port)) == 0 and begin:
                with suppress(OSError):  # its place is another's already
                    one.sendall(begin)
        yield


def health(connect, server):
    with connect(server.control_port) as client:
        return client.request("GET", "/health").answer().status


@pytest.mark.parametrize(
    "begin",
    first_of([b"", b"GET /health HTTP/1.1\r\nX-A: "]),
    ids=["idle", "slow"],
)
def test_connections_without_end_keep_nobody_out_and_keys_are_revoked(
    server, connect, home, body, begin
):
    descriptors = psutil.Process(server.control_pid()).num_fds()
    with held_open(server.control_port, IDLE, begin):
        assert psutil.Process(server.control_pid()).num_fds() - descriptors <= 200
        until(lambda: health(connect, server) == 200)
        assert revoked_within_s(server, connect, home, body) < 1.0
        (killed, _) = pids = server.worker_pids()
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(now := server.worker_pids()) == 2 and set(now) != set(pids))


@pytest.mark.slow
def test_a_worker_without_a_descriptor_left_still_reads_the_keys(
    start, connect, cancer_bundle, home, body, monkeypatch, tmp_path
):
    limiting = tmp_path / "python"
    limiting.write_text(f'#!/bin/sh\nulimit -n 600\nexec {sys.executable} "$@"\n')
    limiting.chmod(0o755)
    token = bascule(home, "keys", "create", "kept", "--allow", "infer:gb")["token"]
    header = f"Authorization: Bearer {token}\r\n"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(limiting))
        env = {"BASCULE_HOME": str(home), "BASCULE_SECURITY__CALLERS": "keys"}
        limited = start(cancer_bundle, env=env)

    def status():
        return client.request("POST", "/v2/models/gb/infer", body, header).answer().status

    try:
        with connect(limited.port) as client:
            assert status() == 200
            with held_open(limited.port, IDLE, b"GET /v2 HTTP/1.1\r\n"):
                bascule(home, "keys", "revoke", "kept")
                until_soon(lambda: status() == 401, 1.0)
    finally:
        limited.process.stdout.close()
        limited.end()
