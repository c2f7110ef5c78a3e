"""The works of a storm: each starts servers, loads them, and returns what it found."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

from bench import cpu
from bench.environments import is_made
from bench.pinning import on_core
from bench.storm import models, networks, peers, schedule
from bench.storm.client import Plan
from bench.storm.findings import BUSY_SHARE, CALM_SHARE, Finding
from bench.storm.models import Model
from bench.storm.server import Stormed, Watching, load
from bench.storm.tally import Tally, joined, percentile
from bench.storm.watch import Watch
from bench.systems.system import System

SOAK_SHARE, OVER = 0.5, 3.0
DEADLINE_S = 1.0
ONE_WAY_S = 0.002
"""Half of a 4 ms network. Played by the load generator: it sends, and sees answers, that much
later. Packets are not lost and windows not full, as they are on a network of that length."""
CLIENTS = networks.BATCH
_CALM_ROWS = 100
_PIECES = 10
_CAPACITY_S = 3.0
_SEARCHED = 3
_ALONE_S = 4.0
_SATURATING = 64
_SATURATING_BATCHES = 256
"""So many clients fill batches of the size that is best, and leave none waiting to be filled."""
_CONNECTIONS = 256
_OVERLOAD_CONNECTIONS = 2_000


Arrivals = Callable[[float, float, int], schedule.Times]
"""From a rate, seconds and a seed."""
_ARRIVALS: Mapping[str, Arrivals] = {
    "even": lambda rate_hz, seconds, _: schedule.constant(rate_hz, seconds),
    "random": schedule.poisson,
}


class CalmPiece(NamedTuple):
    """One piece of a calm run, how busy the server's core was, and the tail of a perfect server."""

    tally: Tally
    busy_share: float
    perfect_tail: float


class Capacity(NamedTuple):
    """What a server gives many clients that wait for their answers.

    Attributes:
        hz: Answers per second.
        busy: The part of its core that it had meanwhile.
    """

    hz: float
    busy: float


@dataclass(frozen=True, slots=True)
class Settings:
    """How long each run lasts, where, and whom to tell."""

    seconds: float
    server_core: int
    load_core: int
    folder: Path
    tell: Callable[[str], None]


def calm(settings: Settings) -> list[Finding]:
    """Latency where the server's core is busy for 70 % of the time, even and random arrivals.

    Of one row each, the server would answer more than the generator can ask for. In pieces, of
    which the median one is told: a core here may become half as fast for a second, and what is 70 %
    of its time is then more than it has.
    """
    model = models.boosting(settings.folder, _CALM_ROWS)
    found = []
    with _server(settings, model, has_time_left=True) as server:
        capacity, busy = _capacity(settings, server, model)
        for name, arrivals in _ARRIVALS.items():
            with Watching(server.process.pid) as watch:
                pieces = _calm_pieces(settings, server, model, arrivals, CALM_SHARE * capacity)
            tails = sorted(_tail(piece.tally.accepted_ms) for piece in pieces)
            found.append(
                Finding(
                    work="calm",
                    subject=f"{model.name}, {_CALM_ROWS} rows, {name} arrivals",
                    tally=joined([piece.tally for piece in pieces]),
                    watch=watch,
                    facts={
                        "capacity_hz": capacity,
                        "busy_at_capacity": busy,
                        "rate_hz": median(
                            piece.tally.due / piece.tally.seconds for piece in pieces
                        ),
                        "busy_share": median(piece.busy_share for piece in pieces),
                        "p50_ms": median(
                            percentile(piece.tally.accepted_ms, 0.5) for piece in pieces
                        ),
                        "p99_over_p50": median(tails),
                        "least_tail": tails[0],
                        "most_tail": tails[-1],
                        "perfect_p99_over_p50": median(piece.perfect_tail for piece in pieces),
                    },
                )
            )
            settings.tell(found[-1].line())
    return found


def _calm_pieces(
    settings: Settings, server: Stormed, model: Model, arrivals: Arrivals, first_hz: float
) -> list[CalmPiece]:
    """Pieces at the rate at which the server's core is busy for `CALM_SHARE` of the time.

    That share of its capacity is more: many who wait are run together, at half the price each. The
    rate follows the pieces, as the machine's speed changes; the first ones only look for it.
    """
    seconds = settings.seconds / _PIECES
    rate, pieces = first_hz, []
    for number in range(_SEARCHED + _PIECES):
        due = arrivals(rate, seconds, number)
        before = _spent_s(server)
        tally = load(_open(server, model, due, seconds=seconds), settings.load_core)
        busy = (_spent_s(server) - before) / seconds
        perfect = schedule.perfect_latencies(due, CALM_SHARE / rate)
        pieces.append(CalmPiece(tally, busy, _tail(perfect.tolist())))
        rate *= CALM_SHARE / busy
    return pieces[_SEARCHED:]


def overload(settings: Settings) -> list[Finding]:
    """Three times capacity, for a model run on the loop and for one that is batched.

    In pieces with the capacity measured between them, since it changes with the machine.
    """
    found = []
    for which in (networks.MIDDLING, networks.COSTLY):
        model = models.network(which, settings.folder)
        pieces_s = settings.seconds / _PIECES
        tallies, goodput, by_cpu = [], [], []
        with _server(settings, model) as server, Watching(server.process.pid) as watch:
            capacities = [_capacity(settings, server, model, _SATURATING_BATCHES)]
            for seed in range(_PIECES):
                due = schedule.poisson(OVER * capacities[-1].hz, pieces_s, seed)
                started = _spent_s(server)
                tally = load(
                    _open(
                        *(server, model, due),
                        seconds=pieces_s,
                        connections=_OVERLOAD_CONNECTIONS,
                        deadline=DEADLINE_S,
                    ),
                    settings.load_core,
                )
                spent = _spent_s(server) - started
                tallies.append(tally)
                capacities.append(_capacity(settings, server, model, _SATURATING_BATCHES))
                before, after = capacities[-2:]
                right = tally.within(DEADLINE_S * 1e3)
                goodput.append(2 * right / pieces_s / (before.hz + after.hz))
                # What remains to be seen on a machine that others use as well.
                by_cpu.append(right / spent * (before.busy + after.busy) / (before.hz + after.hz))
        found.append(
            Finding(
                work="overload",
                subject=f"{which.name} network",
                tally=joined(tallies),
                watch=watch,
                facts={
                    "capacity_hz": median(one.hz for one in capacities),
                    "least_capacity_hz": min(one.hz for one in capacities),
                    "most_capacity_hz": max(one.hz for one in capacities),
                    "busy_at_capacity": median(one.busy for one in capacities),
                    "rate_hz": sum(tally.due for tally in tallies) / settings.seconds,
                    "goodput_share": median(goodput),
                    "least_goodput_share": min(goodput),
                    "most_goodput_share": max(goodput),
                    "goodput_by_cpu_share": median(by_cpu),
                    "deadline_ms": DEADLINE_S * 1e3,
                },
            )
        )
        settings.tell(found[-1].line())
    return found


def network(settings: Settings) -> list[Finding]:
    """16 clients 4 ms away from a costly network, and one client with and without batching."""
    model = models.network(networks.COSTLY, settings.folder)
    found = []
    for batching, clients in (("auto", CLIENTS), ("auto", 1), ("never", 1), ("never", CLIENTS)):
        with _server(settings, model, {"BASCULE_SERVING__BATCHING": batching}) as server:
            plan = _closed(server, model, clients, settings.seconds, one_way=ONE_WAY_S)
            before = _alone(settings, model)
            tally, watch = _run(settings, server, plan)
            alone = (before + _alone(settings, model)) / 2
        facts = {"clients": float(clients), "alone_hz": alone}
        if batching == "auto" and clients == CLIENTS:
            facts["share_of_alone"] = tally.accepted_hz / alone
            # Nobody can have more while answers travel, however they are batched.
            facts["most_of_alone"] = 1 / (1 + 2 * ONE_WAY_S * alone / CLIENTS)
        found.append(
            Finding("network", f"{clients} clients, batching {batching}", tally, watch, facts)
        )
        settings.tell(found[-1].line())
    return found + _peers_far_away(settings, model)


def _peers_far_away(settings: Settings, model: Model) -> list[Finding]:
    """The same of peers that run callers together, where `make bench-peers` made them."""
    found = []
    for peer in peers.BATCHING:
        if not is_made(peer.folder_of_environment(), peer.requirements()):
            settings.tell(f"{peer.name}: not measured, `make bench-peers` makes its environment")
            continue
        with peer(model.subject, settings.folder, settings.server_core) as server:
            server.first_answer_s()
            asked = msgspec.structs.replace(
                _closed(server, model, CLIENTS, settings.seconds, one_way=ONE_WAY_S),
                output=peers.OUTPUT,
            )
            before = _alone(settings, model)
            tally, watch = _run(settings, server, asked)
            alone = (before + _alone(settings, model)) / 2
        facts = {"clients": float(CLIENTS), "alone_hz": alone}
        facts["peer_share_of_alone"] = tally.accepted_hz / alone
        found.append(Finding("network", f"{CLIENTS} clients, {peer.name}", tally, watch, facts))
        settings.tell(found[-1].line())
    return found


def soak(settings: Settings) -> list[Finding]:
    """Half load for long."""
    model = models.boosting(settings.folder)
    with _server(settings, model) as server:
        capacity, busy = _capacity(settings, server, model)
        # In pieces, so that the generator need not remember an hour; one warms the server up.
        piece_s = min(60.0, settings.seconds / 2)
        due = schedule.constant(SOAK_SHARE * capacity, piece_s)
        plan = _open(server, model, due, seconds=piece_s)
        tallies: list[Tally] = []
        load(plan, settings.load_core)
        with Watching(server.process.pid) as watch:
            for _ in range(math.ceil(settings.seconds / piece_s)):
                # Millions of latencies each: the last stand for all.
                tallies = [msgspec.structs.replace(tally, accepted_ms=[]) for tally in tallies]
                tallies.append(load(plan, settings.load_core))
                settings.tell(
                    f"{len(tallies) * piece_s:.0f} s  {watch.resident_mb[-1]:.1f} MB  "
                    f"{watch.descriptors[-1]} descriptors"
                )
    facts = {
        "capacity_hz": capacity,
        "busy_at_capacity": busy,
        "rate_hz": SOAK_SHARE * capacity,
        "seconds": settings.seconds,
    }
    told = msgspec.structs.replace(
        joined(tallies), seconds=piece_s, after_end=tallies[-1].after_end
    )
    return [Finding("soak", model.name, told, watch, facts)]


WORKS: Mapping[str, Callable[[Settings], list[Finding]]] = {
    "calm": calm,
    "overload": overload,
    "network": network,
    "soak": soak,
}


@contextmanager
def _server(
    settings: Settings,
    model: Model,
    also: Mapping[str, str] | None = None,
    *,
    has_time_left: bool = False,
) -> Iterator[Stormed]:
    """A server that has answered once, and goes before whatever else runs on its core."""
    with Stormed(model, settings.folder, settings.server_core, also) as server:
        server.first_answer_s()
        if not server.go_before_others(always=has_time_left):
            settings.tell("without the right to renice, what else runs here is the server's delay")
        yield server


def _capacity(
    settings: Settings, server: Stormed, model: Model, clients: int = _SATURATING
) -> Capacity:
    load(_closed(server, model, clients, 1.0), settings.load_core)
    before = _spent_s(server)
    tally = load(_closed(server, model, clients, _CAPACITY_S), settings.load_core)
    busy = (_spent_s(server) - before) / _CAPACITY_S
    said = f"capacity {tally.accepted_hz:,.0f}/s, the server's core {busy:.0%} busy"
    if busy < BUSY_SHARE:
        said += ": what is else on this machine, or the generator, may be the limit"
    settings.tell(said)
    return Capacity(tally.accepted_hz, busy)


def _spent_s(server: Stormed) -> float:
    return cpu.cpu_seconds(cpu.tree(server.process.pid))


def _run(settings: Settings, server: System, plan: Plan) -> tuple[Tally, Watch]:
    with Watching(server.process.pid) as watch:
        tally = load(plan, settings.load_core)
    return tally, watch


def _open(
    server: Stormed,
    model: Model,
    due: schedule.Times,
    *,
    seconds: float,
    connections: int = _CONNECTIONS,
    deadline: float | None = None,
) -> Plan:
    return Plan(
        port=server.port,
        path=server.path,
        bodies=model.bodies,
        truths=model.truths,
        output=model.output,
        due_s=due.tolist(),
        clients=0,
        seconds=seconds,
        connections=connections,
        deadline_s=deadline,
    )


def _closed(
    server: System, model: Model, clients: int, seconds: float, *, one_way: float = 0.0
) -> Plan:
    return Plan(
        port=server.port,
        path=server.path,
        bodies=model.bodies,
        truths=model.truths,
        output=model.output,
        due_s=[],
        clients=clients,
        seconds=seconds,
        connections=0,
        one_way_s=one_way,
    )


def _alone(settings: Settings, model: Model) -> float:
    command = [sys.executable, "-m", "bench.storm.networks", "alone", str(model.subject.program)]
    done = subprocess.run(
        on_core(settings.server_core, [*command, str(CLIENTS), str(_ALONE_S)]),
        capture_output=True,
        text=True,
        check=True,
        timeout=_ALONE_S + 60,
    )
    return float(done.stdout)


def _tail(latencies: list[float]) -> float:
    return percentile(latencies, 0.99) / percentile(latencies, 0.5)
