"""A client that takes itself for connected when a server stops is one whose request is answered."""

from __future__ import annotations

import socket
import struct
import subprocess
from contextlib import closing

from tests.own_networks import in_a_network_of_its_own, may_make_networks
from tests.skips import skip

from bascule.serving.workers import bind
from bascule.serving.workers.sockets import _take_no_more

HERE, THERE = "192.0.2.1", "192.0.2.254"
IPV4 = 0x0800
SYN, PSH, ACK = 0x02, 0x08, 0x10


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class FarClient:
    """A client whose packets a test sends one by one, so that it can be in the middle of a step."""

    def __init__(self, port: int) -> None:
        self._port = port
        subprocess.run(["ip", "link", "set", "out1", "up"], check=True)
        link = subprocess.check_output(["ip", "-o", "link", "show", "out0"], text=True)
        server_mac = bytes.fromhex(link.split("link/ether ")[1].split()[0].replace(":", ""))
        self._ethernet = server_mac + bytes.fromhex("020000000001") + IPV4.to_bytes(2)
        self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(IPV4))
        self._wire.bind(("out1", 0))
        self._wire.settimeout(10)

    def close(self) -> None:
        self._wire.close()

    def send(self, flags: int, number: int, acknowledged: int = 0, data: bytes = b"") -> None:
        hosts = socket.inet_aton(THERE) + socket.inet_aton(HERE)
        tcp = bytearray(
            struct.pack(
                "!HHIIBBHHH", 40_000, self._port, number, acknowledged, 5 << 4, flags, 65_535, 0, 0
            )
            + data
        )
        tcp[16:18] = checksum(hosts + struct.pack("!HH", 6, len(tcp)) + tcp).to_bytes(2)
        ip = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + hosts)
        ip[10:12] = checksum(bytes(ip)).to_bytes(2)
        self._wire.send(self._ethernet + ip + tcp)

    def number_of_answer(self) -> int:
        """That of the packet by which the server agrees to connect."""
        while True:
            packet = self._wire.recv(1 << 16)
            if packet[23] == 6 and packet[47] == SYN | ACK:
                return int.from_bytes(packet[38:42])


def test_a_client_that_was_told_that_it_is_connected_is_let_in_by_a_server_that_stops():
    """Its part of the handshake is a round trip late, and its request comes with it."""
    if not may_make_networks():
        skip("networks")

    def work() -> None:
        (listener,) = bind(HERE, 0, 1)
        with listener, closing(FarClient(listener.getsockname()[1])) as client:
            client.send(SYN, 100)
            number = client.number_of_answer() + 1
            _take_no_more(listener)
            client.send(ACK, 101, number)
            client.send(ACK | PSH, 101, number, b"hello")
            accepted, _ = listener.accept()
            with accepted, socket.socket() as late:
                accepted.settimeout(10)
                assert accepted.recv(5) == b"hello"
                late.settimeout(0.1)
                assert late.connect_ex(listener.getsockname()) != 0

    in_a_network_of_its_own(work)
