"""What an attack costs the others: eight calm clients are timed while it goes on.

The clients are a process of their own, so that what an attack costs the test is not what they are
seen to wait for. They are paced, and each latency counts from the moment at which its request was
due: a stall delays every request that falls into it, not only the first.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLIENTS = 8
EACH_HZ = 25.0
MAX_P99_S = 0.1
MAX_GROWN_BYTES = 200 << 20
_RESET_PEAK = "5"  # see proc(5), clear_refs

_CALM = """
import json, socket, sys, threading, time

port, clients, each_hz = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
request = sys.stdin.buffer.read(int(sys.argv[4]))
over, begun = threading.Event(), time.monotonic()
took, statuses = [], {}

def open_one():
    one = socket.create_connection(("127.0.0.1", port), 60)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, one.makefile("rb")

def ask(number):
    client, answers = open_one()
    due = begun + number / each_hz / clients
    while not over.is_set():
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            client.sendall(request)
            status = answers.readline().split()[1].decode()
            length = 0
            while (line := answers.readline()) != b"\\r\\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            answers.read(length)
        except (OSError, IndexError) as problem:
            status = type(problem).__name__
            client.close()
            time.sleep(0.05)
            try:
                client, answers = open_one()
            except OSError:
                pass  # the next request fails, and is counted
        took.append(time.monotonic() - due)
        statuses[status] = statuses.get(status, 0) + 1
        due += 1 / each_hz

threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
for thread in threads:
    thread.start()
while len(took) < 2 * clients:
    time.sleep(0.01)
took.clear()
statuses.clear()
print("calm", flush=True)
sys.stdin.buffer.read()
over.set()
for thread in threads:
    thread.join()
print(json.dumps({"took_s": took, "statuses": statuses}))
"""


@dataclass(frozen=True, slots=True)
class Toll:
    """What the calm clients and the machine had to pay.

    Attributes:
        p99_s: Of all calm requests that were due while the attack went on.
        worst_s: The same.
        statuses: How many had which HTTP status, or which exception.
        grown_bytes: How far the resident memory of the processes rose above where it was, at most.
        attacks: How often the attack was made.
        crowding: How many times as long as it ran a process took meanwhile, one of the server or
            the calm clients, as others on the machine ran instead: 1 on a machine of its own.
    """

    p99_s: float
    worst_s: float
    statuses: dict[str, int]
    grown_bytes: int
    attacks: int
    crowding: float

    def __str__(self) -> str:
        return (
            f"p99 {self.p99_s * 1e3:.1f} ms, worst {self.worst_s * 1e3:.0f} ms, "
            f"{self.statuses}, +{self.grown_bytes / 1e6:.0f} MB, {self.attacks} attacks, "
            f"crowded {self.crowding:.1f} times"
        )

    def assert_bearable(self) -> None:
        """The bar for every attack: the others are answered as before, and memory stays.

        A wait is held to it as it would be without what else the machine does.
        """
        assert set(self.statuses) == {"200"}, self
        assert self.p99_s / self.crowding <= MAX_P99_S, self
        assert self.grown_bytes <= MAX_GROWN_BYTES, self


def toll_of(
    attack: Callable[[], Any],
    *,
    port: int,
    pids: Sequence[int],
    request: bytes,
    seconds: float = 2.0,
) -> Toll:
    """Make an attack again and again for so long, at least once, beside the calm clients.

    Args:
        attack: Makes it once, against a server that the test has started.
        port: Where the calm clients ask, over HTTP/1.1.
        pids: The processes whose memory is looked at.
        request: What each of them sends, head and body, and is to be answered 200.
        seconds: For how long the attack is made.
    """
    calm = subprocess.Popen(
        [sys.executable, "-c", _CALM, *map(str, (port, CLIENTS, EACH_HZ, len(request)))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with calm:
        assert calm.stdin is not None
        assert calm.stdout is not None
        calm.stdin.write(request)
        calm.stdin.flush()
        try:
            assert calm.stdout.readline() == b"calm\n"
            before = {pid: memory(pid, "VmRSS") for pid in pids}
            for pid in pids:
                Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
            everyone = (*pids, calm.pid)
            ran = {pid: schedule(pid) for pid in everyone}
            attacks = 0
            until_s = time.monotonic() + seconds
            while not attacks or time.monotonic() < until_s:
                attack()
                attacks += 1
            crowding = max(_crowding(ran[pid], schedule(pid)) for pid in everyone)
        finally:
            calm.stdin.close()
        told = json.loads(calm.stdout.read())
    grown = max(memory(pid, "VmHWM") - before[pid] for pid in pids)
    took = sorted(told["took_s"])
    p99_s = took[min(len(took) - 1, int(0.99 * len(took)))]
    return Toll(p99_s, took[-1], told["statuses"], grown, attacks, crowding)


def schedule(pid: int) -> tuple[int, int]:
    """How long the threads of a process have run, and have waited for a core, in nanoseconds."""
    each = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(ran) for ran, *_ in each), sum(int(waited) for _, waited, _ in each)


def _crowding(before: tuple[int, int], after: tuple[int, int]) -> float:
    ran, waited = (now - then for then, now in zip(before, after, strict=True))
    return 1 + waited / max(ran, 1)


def memory(pid: int, what: str) -> int:
    """Bytes by the name that `/proc/PID/status` has for them."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) << 10
    raise LookupError(what)


def post(path: str, body: bytes, headers: str = "") -> bytes:
    """A whole HTTP/1.1 request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
