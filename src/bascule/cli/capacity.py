"""The command `capacity`: from a forecast of requests and goals to a plan."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, RefOrPath
from bascule.cli.screen import note, print_json, print_table, say
from bascule.core import Unavailable, duration_words

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.planning import Estimate, Plan, Prices, Service
    from bascule.registry import Version

_LEAST_REQUESTS = 1_000
"""A comparison with fewer corrects nothing."""


def capacity(
    model: RefOrPath,
    traffic: Annotated[str, typer.Option(help="'200 per second', or a CSV file.")] = "",
    goal: Annotated[list[str] | None, typer.Option(help="'p99 <= 50 ms'; repeatable.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a request.")] = 1,
    prices: Annotated[Path | None, typer.Option(exists=True, help="Instances (TOML).")] = None,
    device_factor: Annotated[float, typer.Option(min=0, help="Devices take so many times.")] = 0,
    measure: Annotated[bool, typer.Option("--measure", help="Load a server first.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Correct by a server.")] = False,
    over: Annotated[float, typer.Option(min=1, help="Seconds that --compare looks.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Plan instances, pods and autoscaling for a forecast of requests; exit code 1 if none."""
    import bascule
    from bascule import planning
    from bascule.ship import resources_of

    version, path = context.find(model)
    bundle = bascule.load(path)
    if measure:
        with bascule.serve(bundle, workers=1) as server:
            service = planning.measure(server.url, server.control_url, bundle, rows)
        _record(version, bundle, service)
    if compare:
        _compare(version, bundle, over, as_json=as_json)
        return
    service, cost = replace(planning.service_of(bundle), rows=rows), bundle.cost
    if not service.scales and not as_json:
        note("times are those of packing, with an assumed spread; --measure measures them here")
    table_file = prices or files("bascule.planning") / "prices.toml"
    table = planning.Prices.parse(table_file.read_bytes())
    if Path(traffic).is_file():
        traffic = Path(traffic).read_text("utf-8-sig", errors="replace")
    rates = planning.rates_of(traffic)
    pod = resources_of(cost.peak_memory_bytes if cost else None, service.run_s.get(1, 0.0) * 1e6)
    load = planning.Load(service, rates, planning.Goals.parse(goal or ()), pod)
    plans = planning.choose(load, table, device_factor)
    if as_json:
        print_json({"as_of": table.as_of, "plans": [asdict(plan) for plan in plans]})
    elif plans:
        _show(plans, table)
    if not plans:
        note("no instance keeps the goals at any rate: take a smaller model, or a wider goal")
        raise typer.Exit(1)


def _record(version: Version | None, bundle: Bundle, service: Service) -> None:
    from msgspec import to_builtins

    from bascule.planning import CAPACITY_KIND

    body = to_builtins(service, str_keys=True)
    context.record("capacity", bundle, version, CAPACITY_KIND, body)


def _show(plans: list[Plan], table: Prices) -> None:
    price = f"{table.currency} a month"
    rows = [
        (p.way, p.instance or "-", str(p.instances), str(p.replicas), f"{p.cost:,.0f}")
        for p in plans
    ]
    print_table(("way", "instance", "instances", "pods", price), rows, right=(price,))
    best = plans[0]
    for share, estimate in best.latencies_s.items():
        say(f"p{share * 100:g}: {_words(estimate)}")
    say(f"batches of up to {best.batch_rows:,} rows")
    if best.way == "real time":
        say(f"{best.memory_mib} MiB a pod; one takes {best.most_hz:,.0f} requests a second")
        say(f"[ship]\nreplicas = {best.min_replicas}\nmax_replicas = {best.max_replicas}")
        say(f"target_cpu_percent = {best.target_cpu_percent}")
    elif best.way == "batch":
        say(f"every {duration_words(best.every_s)}: bascule schedule add")
    note(f"prices are of {table.as_of}; --prices takes your own")


def _words(estimate: Estimate) -> str:
    low, middle, high = map(duration_words, estimate)
    return f"{middle} (90 % interval {low} to {high})"


def _compare(version: Version | None, bundle: Bundle, over_s: float, *, as_json: bool) -> None:
    """Corrects the time of a worker by its CPU time, where there are enough requests.

    Not by durations: those of the server begin when a request was read, after some of its wait.
    """
    from bascule.cli.running import server_client
    from bascule.control import operations
    from bascule.operations import Remote
    from bascule.planning import forecast, service_of
    from bascule.serving.telemetry import load_between

    server = Remote(server_client(None, None, ""))
    before = server.ask(operations.LOAD)
    time.sleep(over_s)
    load = load_between(before, server.ask(operations.LOAD))
    number = str(version.number if version else 1)
    own = next((v for v in load.versions if (v.model, v.version) == (bundle.name, number)), None)
    if own is None or not own.requests_per_s:
        problem = f"the server answered nothing by {bundle.name} in {over_s:g} s"
        raise Unavailable(problem, hint="look longer: --over 300")
    service = replace(service_of(bundle), rows=round(own.rows_per_s / own.requests_per_s) or 1)
    expected = forecast(service, own.requests_per_s / len(load.workers))
    busy = sum(worker.cpu_percent for worker in load.workers) / 100 / len(load.workers)
    is_enough = own.requests_per_s * load.over_s >= _LEAST_REQUESTS
    if is_enough := is_enough and load.inference.requests_per_s <= own.requests_per_s * 1.01:
        _record(version, bundle, service.scaled(busy / expected.busy))
    if as_json:
        facts = {"forecast": expected._asdict(), "measured": asdict(own), "busy": busy}
        print_json({**facts, "is_corrected": is_enough})
        return
    for share, seconds in ((0.5, own.p50_s or 0.0), (0.99, own.p99_s or 0.0)):
        words = _words(expected.latencies_s[share])
        say(f"p{share * 100:g}: {duration_words(seconds)}; forecast {words}")
    say(f"workers are busy for {busy:.0%} of the time; forecast {expected.busy:.0%}")
    if not is_enough:
        note(f"nothing is corrected: that takes {_LEAST_REQUESTS:,} requests, of this model alone")
