"""The works of a storm: each starts servers, loads them, and returns what it found."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench import cpu
from bench.pinning import on_core
from bench.storm import models, networks, schedule
from bench.storm.client import Plan
from bench.storm.findings import BUSY_SHARE, Finding
from bench.storm.models import Model
from bench.storm.server import Stormed, Watching, load
from bench.storm.tally import Tally, percentile
from bench.storm.watch import Watch

CALM_SHARE, SOAK_SHARE, OVER = 0.7, 0.5, 3.0
DEADLINE_S = 1.0
ONE_WAY_S = 0.002
"""Half of a 4 ms network. Played by the load generator: it sends, and sees answers, that much
later. Packets are not lost and windows not full, as they are on a network of that length."""
CLIENTS = 16
_CALM_ROWS = 100
_CAPACITY_S = 4.0
_ALONE_S = 4.0
_SATURATING = 64
_SATURATING_BATCHES = 256
"""So many clients fill batches of the size that is best, and leave none waiting to be filled."""
_CONNECTIONS = 256
_OVERLOAD_CONNECTIONS = 2_000
_SEED = 20


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
    """Latency at 70 % of capacity, with even and with random arrivals.

    Of one row each, the server would answer more than the generator can ask for.
    """
    model = models.boosting(settings.folder, _CALM_ROWS)
    found = []
    with _server(settings, model) as server:
        capacity, busy = _capacity(settings, server, model)
        rate = CALM_SHARE * capacity
        arrivals = {
            "even": schedule.constant(rate, settings.seconds),
            "random": schedule.poisson(rate, settings.seconds, _SEED),
        }
        for name, due in arrivals.items():
            tally, watch = _run(settings, server, _open(server, model, due, settings))
            perfect = schedule.perfect_latencies(due, 1 / capacity)
            found.append(
                Finding(
                    work="calm",
                    subject=f"{model.name}, {_CALM_ROWS} rows, {name} arrivals",
                    tally=tally,
                    watch=watch,
                    facts={
                        "capacity_hz": capacity,
                        "busy_at_capacity": busy,
                        "rate_hz": rate,
                        "p99_over_p50": _tail(tally.accepted_ms),
                        "perfect_p99_over_p50": _tail(perfect.tolist()),
                    },
                )
            )
            settings.tell(found[-1].line())
    return found


def overload(settings: Settings) -> list[Finding]:
    """Three times capacity, for a model run on the loop and for one that is batched."""
    found = []
    for which in (networks.MIDDLING, networks.COSTLY):
        model = models.network(which, settings.folder)
        with _server(settings, model) as server:
            before = _capacity(settings, server, model, _SATURATING_BATCHES)
            due = schedule.poisson(OVER * before.hz, settings.seconds, _SEED)
            plan = _open(
                server, model, due, settings, connections=_OVERLOAD_CONNECTIONS, deadline=DEADLINE_S
            )
            started = cpu.cpu_seconds(cpu.tree(server.process.pid))
            tally, watch = _run(settings, server, plan)
            spent = cpu.cpu_seconds(cpu.tree(server.process.pid)) - started
            after = _capacity(settings, server, model, _SATURATING_BATCHES)
        right = tally.within(DEADLINE_S * 1e3)
        by_cpu = (before.hz + after.hz) / (before.busy + after.busy)
        found.append(
            Finding(
                work="overload",
                subject=f"{which.name} network",
                tally=tally,
                watch=watch,
                facts={
                    "capacity_hz": before.hz,
                    "busy_at_capacity": min(before.busy, after.busy),
                    "rate_hz": OVER * before.hz,
                    "goodput_share": 2 * right / settings.seconds / (before.hz + after.hz),
                    # What remains to be seen on a machine that others use as well.
                    "goodput_by_cpu_share": right / spent / by_cpu,
                    "deadline_ms": DEADLINE_S * 1e3,
                    "capacity_after_hz": after.hz,
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
    return found


def soak(settings: Settings) -> list[Finding]:
    """Half load for long."""
    model = models.boosting(settings.folder)
    with _server(settings, model) as server:
        capacity, busy = _capacity(settings, server, model)
        # In pieces, so that the generator need not remember an hour; one warms the server up.
        piece_s = min(60.0, settings.seconds / 2)
        due = schedule.constant(SOAK_SHARE * capacity, piece_s)
        plan = _open(server, model, due, settings, seconds=piece_s)
        tallies = []
        load(plan, settings.load_core)
        with Watching(server.process.pid) as watch:
            for _ in range(math.ceil(settings.seconds / piece_s)):
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
    return [Finding("soak", model.name, _added(tallies), watch, facts)]


WORKS: Mapping[str, Callable[[Settings], list[Finding]]] = {
    "calm": calm,
    "overload": overload,
    "network": network,
    "soak": soak,
}


@contextmanager
def _server(
    settings: Settings, model: Model, also: Mapping[str, str] | None = None
) -> Iterator[Stormed]:
    """A server that has answered once."""
    with Stormed(model, settings.folder, settings.server_core, also) as server:
        server.first_answer_s()
        yield server


def _capacity(
    settings: Settings, server: Stormed, model: Model, clients: int = _SATURATING
) -> Capacity:
    load(_closed(server, model, clients, 1.0), settings.load_core)
    before = cpu.cpu_seconds(cpu.tree(server.process.pid))
    tally = load(_closed(server, model, clients, _CAPACITY_S), settings.load_core)
    busy = (cpu.cpu_seconds(cpu.tree(server.process.pid)) - before) / _CAPACITY_S
    said = f"capacity {tally.accepted_hz:,.0f}/s, the server's core {busy:.0%} busy"
    if busy < BUSY_SHARE:
        said += ": what is else on this machine, or the generator, may be the limit"
    settings.tell(said)
    return Capacity(tally.accepted_hz, busy)


def _run(settings: Settings, server: Stormed, plan: Plan) -> tuple[Tally, Watch]:
    with Watching(server.process.pid) as watch:
        tally = load(plan, settings.load_core)
    return tally, watch


def _open(
    server: Stormed,
    model: Model,
    due: schedule.Times,
    settings: Settings,
    *,
    seconds: float | None = None,
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
        seconds=seconds or settings.seconds,
        connections=connections,
        deadline_s=deadline,
    )


def _closed(
    server: Stormed, model: Model, clients: int, seconds: float, *, one_way: float = 0.0
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


def _added(tallies: list[Tally]) -> Tally:
    """Several pieces as one run; the latencies of the last alone, the rest are like them."""
    statuses: dict[int, int] = {}
    for tally in tallies:
        for status, count in tally.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    last = tallies[-1]
    return Tally(
        seconds=last.seconds,
        due=sum(tally.due for tally in tallies),
        accepted_ms=last.accepted_ms,
        statuses=statuses,
        wrong=sum(tally.wrong for tally in tallies),
        shed_without_retry_after=sum(tally.shed_without_retry_after for tally in tallies),
        unsent=sum(tally.unsent for tally in tallies),
        broken=sum(tally.broken for tally in tallies),
        unanswered=sum(tally.unanswered for tally in tallies),
        send_lag_p99_ms=max(tally.send_lag_p99_ms for tally in tallies),
    )
