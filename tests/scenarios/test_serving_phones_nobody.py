"""A server speaks to those who ask it, and to nobody else.

It is watched in a network of its own, which has a loopback, and a way out that ends here: whatever
is tried is seen, a connection as well as a question to a name server, also of this machine.
"""

from __future__ import annotations

import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from tests.own_networks import in_a_network_of_its_own, may_make_networks
from tests.skips import skip
from tests.tiers import first_of

WITHIN_S = 10.0
ETH_P_ALL = 3
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
TCP, UDP = 6, 17
SYN, ACK = 0x02, 0x10
ROWS = np.random.default_rng(5).normal(size=(2, 30)) * 100 + 200
BODY = {
    "inputs": [
        {"name": "input", "datatype": "FP64", "shape": [2, 30], "data": ROWS.ravel().tolist()}
    ]
}
GRPC_CALL = """
import sys
import numpy as np
import tritonclient.grpc as triton
rows = np.full((2, 30), 200.0)
tensor = triton.InferInput("input", rows.shape, "FP64")
tensor.set_data_from_numpy(rows)
with triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}") as client:
    assert client.infer("gb", [tensor]).as_numpy("label").shape == (2,)
"""
PHONES_HOME = """
import socket, sys
if "bascule.serving.workers.worker" in " ".join(sys.orig_argv):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"who is there?", ("198.51.100.7", 53))
"""
PHONES_A_NEIGHBOUR = """
import socket, sys
if "bascule.serving.workers.worker" in " ".join(sys.orig_argv):
    socket.socket().connect_ex(("127.0.0.1", 9))
"""


@pytest.fixture(scope="module", autouse=True)
def _may_make_networks():
    if not may_make_networks():
        skip("networks")


@dataclass(frozen=True)
class Sent:
    """A packet that opens something: where to, by which protocol."""

    device: str
    protocol: int
    host: str
    port: int


def opening(device: str, packet: bytes) -> Sent | None:
    """What a packet opens; None for one that answers, or that the kernel sends for itself."""
    (kind,) = struct.unpack_from("!H", packet, 12)
    if kind == ARP:
        return Sent(device, 0, socket.inet_ntoa(packet[38:42]), 0)
    if kind == IPV4:
        protocol, host = packet[23], socket.inet_ntoa(packet[30:34])
        start = 14 + (packet[14] & 0x0F) * 4
    elif kind == IPV6:
        protocol, host = packet[20], socket.inet_ntop(socket.AF_INET6, packet[38:54])
        start = 54
    else:
        return None
    if protocol == TCP:
        (port,) = struct.unpack_from("!H", packet, start + 2)
        return Sent(device, TCP, host, port) if packet[start + 13] & (SYN | ACK) == SYN else None
    if protocol == UDP:
        return Sent(device, UDP, host, struct.unpack_from("!H", packet, start + 2)[0])
    return None


class Wire:
    """All that goes over the devices of the network that it was made in."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)

    def opened(self, within_s: float = 0.0) -> list[Sent]:
        """What was opened since it was last asked; waits so long for the first."""
        found = []
        until = time.monotonic() + within_s
        while select.select([self._socket], [], [], max(0.0, until - time.monotonic()))[0]:
            packet, (device, *_) = self._socket.recvfrom(1 << 16)
            sent = opening(device, packet)
            if sent is not None:
                found.append(sent)
                until = 0.0
        return found

    def close(self) -> None:
        self._socket.close()


@contextmanager
def watched(start, bundle, home, **variables: str) -> Iterator[tuple[object, Wire]]:
    """A server on every port that it has, and the wire, from before it was started."""
    wire = Wire()
    server = None
    try:
        env = {"HOME": str(home), "XDG_CACHE_HOME": "", **variables}
        server = start(bundle, "--workers=2", "--grpc-port=0", env=env)
        yield server, wire
    finally:
        if server is not None:
            server.end()
            server.process.stdout.close()
        wire.close()


def ask_everything(server, connect) -> None:
    for port, method, path, body in (
        (server.port, "POST", "/v2/models/gb/infer", BODY),
        (server.port, "POST", "/v1/models/gb:predict", {"instances": ROWS.tolist()}),
        (server.port, "GET", "/v2/openapi.json", b""),
        (server.port, "GET", "/metrics", b""),
        (server.control_port, "GET", "/docs", b""),
        (server.control_port, "GET", "/api/v1/server", b""),
    ):
        with connect(port) as client:
            answer = client.request(method, path, body).answer()
        assert answer.status == 200, (path, answer.body)
        # A page that fetches its parts from elsewhere would make its readers phone.
        assert path != "/docs" or b'src="http' not in answer.body
    subprocess.run([sys.executable, "-c", GRPC_CALL, str(server.grpc_port)], check=True, timeout=60)


def strangers(wire: Wire, server, within_s: float = 0.0) -> list[Sent]:
    """What was opened to anything but the server."""
    ports = (server.port, server.control_port, server.grpc_port)
    ours = [Sent("lo", TCP, "127.0.0.1", port) for port in ports]
    return [sent for sent in wire.opened(within_s) if sent not in ours]


def serves_and_phones_nobody(start, connect, bundle, home, *, then_wait_s: float) -> None:
    def work() -> None:
        with watched(start, bundle, home) as (server, wire):
            ask_everything(server, connect)
            seen = strangers(wire, server)
            until = time.monotonic() + then_wait_s
            while not seen and time.monotonic() < until:
                seen = strangers(wire, server, within_s=until - time.monotonic())
            assert seen == []
            assert server.end() == 0
            assert strangers(wire, server) == []

    in_a_network_of_its_own(work)
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_a_server_opens_no_connection_and_leaves_no_file_at_home(
    start, connect, cancer_bundle, tmp_path
):
    serves_and_phones_nobody(start, connect, cancer_bundle, tmp_path, then_wait_s=0.5)


@pytest.mark.slow
def test_a_server_that_is_left_alone_for_a_while_still_opens_none(
    start, connect, cancer_bundle, tmp_path
):
    # A release of ONNX Runtime asks a name server 25 s after it was imported.
    serves_and_phones_nobody(start, connect, cancer_bundle, tmp_path, then_wait_s=45.0)


@pytest.mark.parametrize(
    ("code", "seen"),
    first_of(
        [
            (PHONES_HOME, Sent("out0", UDP, "198.51.100.7", 53)),
            (PHONES_A_NEIGHBOUR, Sent("lo", TCP, "127.0.0.1", 9)),
        ]
    ),
)
def test_a_server_that_does_phone_is_seen(start, cancer_bundle, tmp_path, code, seen):
    code_folder = tmp_path / "code"
    code_folder.mkdir()
    (code_folder / "sitecustomize.py").write_text(code)

    def work() -> None:
        with watched(start, cancer_bundle, tmp_path, PYTHONPATH=str(code_folder)) as (server, wire):
            assert seen in strangers(wire, server, within_s=WITHIN_S)

    in_a_network_of_its_own(work)
