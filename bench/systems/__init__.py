"""The systems that are measured, one file each.

To add one: one file with a subclass of `System` (how it starts, where it answers, how its answer
is read), and one line in `ALL`. It is started, checked, loaded, counted and stopped like the
others. Other projects' servers are in `peers.py`, and each runs in an environment of its own.
"""

from __future__ import annotations

from bench.systems.bare import Bare
from bench.systems.bascule import Bascule
from bench.systems.by_hand import ByHand, ByHandAsync
from bench.systems.grpc import BareGrpcio, BasculeGrpc
from bench.systems.nginx import Nginx
from bench.systems.on_ray import BasculeOnRay
from bench.systems.peers import PEERS, Peer
from bench.systems.system import System, Wrong

ALL: dict[str, type[System]] = {
    system.name: system
    for system in (Bascule, ByHand, ByHandAsync, Bare, BasculeGrpc, BareGrpcio, Nginx)
}
"""By the name that `--only` takes, in the order in which a round visits them."""

ASKED_FOR: dict[str, type[System]] = {BasculeOnRay.name: BasculeOnRay}
"""Those that are measured only where `--only` names them: they take minutes."""

__all__ = ["ALL", "ASKED_FOR", "PEERS", "Peer", "System", "Wrong"]
