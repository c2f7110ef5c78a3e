"""Networks of their own: a loopback, and a way out that ends on this machine (`out0` to `out1`)."""

from __future__ import annotations

import ctypes
import subprocess
import threading
from collections.abc import Callable

from tests.skips import REASONS

_WITHIN_S = 10.0
_CLONE_NEWNET = 0x4000_0000
_OUTWARD = (
    "link set lo up",
    "link add out0 type veth peer name out1",
    "addr add 192.0.2.1/24 dev out0",
    "link set out0 up",
    "link set out1 up",
    "route add default via 192.0.2.254 dev out0",
    # The neighbour is known, so that a packet leaves without asking for its address.
    "neigh add 192.0.2.254 lladdr 02:00:00:00:00:01 dev out0",
)


def in_a_network_of_its_own(work: Callable[[], None]) -> None:
    """Run `work` on a thread that has a network of its own, as have the processes it starts."""
    problems: list[BaseException] = []

    def run() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
                raise PermissionError(ctypes.get_errno(), "a network namespace cannot be made")
            for words in _OUTWARD:
                subprocess.run(["ip", *words.split()], check=True, timeout=_WITHIN_S)
            work()
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]


def may_make_networks() -> bool:
    """Whether a network can be made here; raises where it should be possible, and is not."""
    try:
        in_a_network_of_its_own(lambda: None)
    except (PermissionError, FileNotFoundError, subprocess.CalledProcessError):
        if not REASONS["networks"].is_true():
            raise
        return False
    return True
