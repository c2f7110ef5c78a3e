"""The chapters of the demo: each does one step, says what came of it, and hands it on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

import bascule
from bascule.bundle import conform, for_program, gates_table
from bascule.core import ModelFailed, user_name
from bascule.demo import answers, flights, replay, rollouts, table as tables
from bascule.demo.answers import Check
from bascule.demo.client import LoadResult, ask, bodies
from bascule.documents import Table, table_for
from bascule.registry import open_registry
from bascule.release import GateReport, check as check_gates

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from bascule.bundle import Bundle
    from bascule.demo.replay import Replayed
    from bascule.demo.server import Server
    from bascule.demo.summary import Summary

NAME = "late"
INFER = f"/v2/models/{NAME}/infer"
CRITERIA = ["roc_auc >= 0.70", "parity <= 1e-5", "latency_p50 <= 5 ms", "size <= 20 MB"]
CONNECTIONS = 16
_WARM_REQUESTS = 500
_ORIGINAL_SECONDS = 5.0
_ORIGINAL_ROWS = 500
_SHOWN = 6
_THREADS = 1
"""Of the fitted pipeline: for one row a team of threads only slows it down, and on a busy machine
their waiting for each other multiplies the time of the fit, and of packing, which asks the pipeline
hundreds of times. One serves both best."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """The fitted pipeline, and the months in their order."""

    model: Any
    months: flights.Months

    @property
    def asked_about(self) -> pd.DataFrame:
        return self.months.next_month


@dataclass(frozen=True, slots=True)
class Month:
    """The next month over HTTP.

    Attributes:
        asked: What the callers saw.
        check: The answers beside the bundle's own.
        server_cpu_s: Processor time of all of the server's processes meanwhile.
        roc_auc: Of the probabilities as received, against what really happened.
    """

    asked: LoadResult
    check: Check
    server_cpu_s: float
    roc_auc: float


@dataclass(frozen=True, slots=True)
class Watched:
    """The months to come.

    Attributes:
        done: What the server was asked and told.
        joined: Predictions that the ledger has with their outcome.
        months_with_drift: Months in which a column raised an alarm.
    """

    done: Replayed
    joined: int
    months_with_drift: int


def heading(console: Console, title: str) -> None:
    console.print()
    console.rule(f"[bold]{title}", align="left", style="dim")


def learn(console: Console) -> Learnt:
    """Load, split by time, fit."""
    heading(console, "Learn")
    clock = time.perf_counter()
    table = flights.load_flights()
    months = flights.split(table)
    console.print(
        f"{len(table):,} flights from New York in 2013, with the weather of the hour before "
        f"({time.perf_counter() - clock:.1f} s)\n"
        f"train on {_span(months.train)}; held out is {_span(months.test)}; "
        f"{_span(months.next_month)} is what the server will be asked about"
    )
    clock = time.perf_counter()
    with console.status("fitting the pipeline"), threadpool_limits(_THREADS):
        model = flights.build_model()
        model.fit(months.train[flights.FEATURES], months.train[flights.TARGET])
    console.print(
        f"fitted: will it arrive more than {flights.LATE_MINUTES} minutes late? "
        f"{len(flights.FEATURES)} columns, words and gaps among them "
        f"({time.perf_counter() - clock:.1f} s)"
    )
    return Learnt(model, months)


def pack(console: Console, learnt: Learnt, folder: Path) -> Bundle:
    """Pack with `bascule.pack`, which compiles, compares and measures."""
    heading(console, "Pack")
    train, test = learnt.months.train, learnt.months.test
    with threadpool_limits(_THREADS):
        return bascule.pack(
            learnt.model,
            name=NAME,
            train=(train[flights.FEATURES], train[flights.TARGET]),
            test=(test[flights.FEATURES], test[flights.TARGET]),
            to=folder / f"{NAME}.bundle",
            description="Will a flight from New York arrive more than 15 minutes late?",
            parameters=flights.parameters(learnt.model),
            progress=lambda said: console.print(said, markup=False),
        )


def gate(console: Console, bundle: Bundle) -> GateReport:
    """Check the bundle against the demo's criteria."""
    heading(console, "Check")
    with console.status("measuring"):
        report = check_gates(bundle, CRITERIA, now=datetime.now(UTC), by=user_name())
    console.print(table_for(gates_table([result.to_json() for result in report.results])))
    return report


def push(console: Console, bundle: Bundle, home: Path, *, passed: bool) -> str:
    """Push; move the alias `champion` if the gates passed. The reference to serve."""
    heading(console, "Push")
    registry = open_registry(home)
    version = registry.push(bundle.path, by=user_name())
    reference = f"{version.model}/{version.number}"
    console.print(f"{reference}  {version.digest[:19]}  gates {version.gates}")
    if not passed:
        return reference
    registry.set_alias(version.model, "champion", version.number, by=user_name())
    console.print(f"{NAME}@champion -> {reference}")
    return f"{NAME}@champion"


def say_where(console: Console, server: Server, reference: str) -> None:
    console.print(
        f"bascule serve {reference}: ready after {server.ready_after_s:.1f} s at "
        f"{server.url}{INFER}",
        highlight=False,
    )


def first_answers(console: Console, server: Server, bundle: Bundle, learnt: Learnt) -> None:
    """A few flights, spread over the month, one at a time."""
    month = learnt.asked_about
    rows = month.iloc[:: max(len(month) // _SHOWN, 1)][:_SHOWN]
    asked = ask(server.port, INFER, bodies(bundle.signature, rows), connections=1)
    shown = []
    for flight, reply in zip(rows.itertuples(), asked.replies, strict=True):
        said = answers.read(reply) if reply is not None else None
        chance = "no answer" if said is None else f"{said[1][1]:.0%}"
        departs, number = f"{flight.departs_at:%a %d %B %H:%M}", f"{flight.carrier} {flight.flight}"
        route = f"{flight.origin} - {flight.dest}"
        shown.append((departs, number, route, chance, _happened(flight.arr_delay)))
    heads = ("departs", "flight", "route", "will it be late?", "what happened")
    console.print(table_for(Table(heads, tuple(shown))))


def whole_month(console: Console, server: Server, bundle: Bundle, learnt: Learnt) -> Month:
    """Every flight of the month as a request of its own, and every answer checked."""
    heading(console, f"Answer {_span(learnt.asked_about)}")
    rows = learnt.asked_about
    requests = bodies(bundle.signature, rows)
    ask(server.port, INFER, requests[:_WARM_REQUESTS], connections=CONNECTIONS)
    cpu = server.cpu_seconds()
    with console.status(f"asking {len(requests):,} times"):
        asked = ask(server.port, INFER, requests, connections=CONNECTIONS)
    cpu = server.cpu_seconds() - cpu
    # Of the program that serves requests: a batch takes the fastest, which may be another.
    program = bundle.program()
    columns = conform(rows[flights.FEATURES], bundle.signature)
    own = program.run(for_program(columns, program.inputs))
    served = bundle.manifest.program(program.name)
    tolerance = 0.0 if served is None or served.batch_invariant else served.tolerance
    check = answers.check(asked.replies, own, tolerance=tolerance)
    answered = check.probabilities == check.probabilities  # NaN where there is no answer
    auc = _auc(rows[flights.TARGET].to_numpy()[answered], check.probabilities[answered])
    console.print(
        f"{len(requests):,} requests over {CONNECTIONS} connections in {asked.seconds:.1f} s: "
        f"[bold]{asked.per_second:,.0f} a second[/bold], half within "
        f"{asked.latency_ms(0.5):.1f} ms, 99 of 100 within {asked.latency_ms(0.99):.1f} ms\n"
        f"processor time: server {cpu:.1f} s, the callers (Python too) {asked.client_cpu_s:.1f} s"
        f"{_who_waited(asked, cpu)}\n"
        f"{asked.errors} errors; {check.wrong} of {check.answered:,} answers differ from the "
        f"bundle's own by more than {tolerance:g} (the largest difference: "
        f"{check.max_difference:.1g})\n"
        f"ROC AUC over the month, from the answers: {auc:.3f}"
    )
    return Month(asked, check, cpu, auc)


def original(console: Console, learnt: Learnt, month: Month) -> float:
    """The fitted pipeline itself, the same flights one row at a time; its rows a second."""
    heading(console, "Beside the original")
    table = learnt.asked_about[flights.FEATURES]
    rows = [table.iloc[[number]] for number in range(min(len(table), _ORIGINAL_ROWS))]
    done, clock = 0, time.perf_counter()
    with console.status("asking the fitted pipeline"), threadpool_limits(_THREADS):
        for row in rows:
            learnt.model.predict_proba(row)
            done += 1
            if time.perf_counter() - clock > _ORIGINAL_SECONDS:
                break
    rate = done / (time.perf_counter() - clock)
    console.print(
        f"scikit-learn's predict_proba, in this process, without any server around it: "
        f"{rate:,.0f} rows a second ({done} rows)\n"
        f"bascule, over HTTP, with the requests read, checked and counted: "
        f"{month.asked.per_second:,.0f} a second, [bold]{month.asked.per_second / rate:,.0f} "
        "times as many[/bold]"
    )
    return rate


def watch(console: Console, server: Server, bundle: Bundle, home: Path, learnt: Learnt) -> Watched:
    """Replay the months to come, with outcomes days later; quality and drift by month."""
    later = learnt.months.later
    heading(console, f"Watch {_span(later)}")
    with console.status("replaying"):
        done = replay.replay(server, NAME, later)
        rows = replay.recorded(home, NAME, done.predictions)
    console.print(
        f"{done.predictions:,} flights asked about, day by day, and {done.outcomes:,} outcomes "
        f"told three days later, in {done.seconds:.1f} s; the ledger joins them by id"
    )
    with console.status("comparing"):
        months, drift = replay.by_month(bundle, rows)
    replay.show(console, months, drift)
    return Watched(done, len(rows), sum(bool(one.drifted) for one in months))


def roll_out(
    console: Console, server: Server, bundle: Bundle, home: Path, learnt: Learnt
) -> list[rollouts.Attempt]:
    """Try three new versions on live traffic; the evidence promotes or rolls back."""
    heading(console, "Roll out")
    console.print(
        f"canary of {', '.join(f'{one:g}' for one in rollouts.STEPS_PERCENT)} %; guards: "
        f"{', '.join(rollouts.GUARDS)}",
        highlight=False,
    )
    return rollouts.roll_out(console, server, bundle, home, learnt.months)


def score_year(
    console: Console, bundle: Bundle, reference: str, home: Path, learnt: Learnt
) -> tables.Scored:
    """Score the whole year in one batch job, twice: the second time changes nothing."""
    import pandas as pd

    heading(console, "Score the year")
    months = learnt.months
    year = pd.concat([months.train, months.test, months.later], ignore_index=True)
    with console.status("scoring"):
        scored = tables.score(year, bundle, reference, home, home.parent)
    console.print(
        f"bascule batch run {reference} --from flights.parquet --to scored/\n"
        f"{scored.rows:,} flights in {scored.seconds:.1f} s: "
        f"{scored.rows / scored.seconds:,.0f} a second; the same command again changes nothing",
        highlight=False,
    )
    return scored


def say_held(console: Console, promises: Mapping[str, bool]) -> None:
    """Which promises were kept."""
    for promise, held in promises.items():
        console.print(
            f"[green]held[/green]    {promise}" if held else f"[red]broken[/red]  {promise}"
        )


def end(console: Console, summary: Summary) -> None:
    """The verdict in a few lines."""
    heading(console, "Summary")
    promises = {
        f"compiled model equals the fitted one (within {summary.parity:.1g})": summary.parity_held,
        "gates passed": summary.gates_passed,
        f"{summary.requests:,} requests, {summary.errors} errors": not summary.errors,
        f"{summary.wrong} wrong answers": not summary.wrong,
        f"{summary.joined:,} predictions joined their outcomes": summary.all_joined,
        f"{summary.scored.written:,} of {summary.scored.rows:,} flights in the scored table, "
        "each once": summary.scored.is_once,
        **{f"{one.version} {one.state}: {one.what}": one.held for one in summary.rollouts},
    }
    say_held(console, promises)
    console.print(f"{summary.times_faster:,.0f} times the original; {summary.seconds:.0f} s in all")


def say_how_to_go_on(console: Console, server: Server, bundle: Bundle, folder: Path) -> None:
    """What is still running, how to ask it, and how to be rid of it."""
    heading(console, "Still running")
    console.print(
        f"predictions  {server.url}/v2\n"
        f"control      {server.control_url}/docs\n"
        f"ask it       curl -s {server.url}{INFER} -d @{bundle.path}/data/example.json\n"
        f"look at it   BASCULE_HOME={folder}/.bascule bascule show {NAME}\n"
        f"end it       kill {server.process.pid} && rm -r {folder}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def _span(rows: pd.DataFrame) -> str:
    """The months of some rows, `January to April (105,475)`."""
    first, last = rows["departs_at"].iloc[0], rows["departs_at"].iloc[-1]
    names = f"{first:%B}" if first.month == last.month else f"{first:%B} to {last:%B}"
    return f"{names} ({len(rows):,})"


def _happened(arr_delay: float) -> str:
    minutes = round(arr_delay)
    if minutes > flights.LATE_MINUTES:
        return f"{minutes} minutes late"
    return f"on time ({minutes:+d} min)"


def _auc(truth: Any, probabilities: Any) -> float:
    """NaN where there is only one class among the answers, or none."""
    if len(set(truth)) < 2:
        return float("nan")
    return float(roc_auc_score(truth, probabilities))


def _who_waited(asked: LoadResult, server_cpu_s: float) -> str:
    """Say so when it was the callers that set the pace."""
    if asked.client_cpu_s > max(server_cpu_s, 0.8 * asked.seconds):
        return ": the callers set the pace, the server could do more"
    return ""


def command(console: Console, folder: Path, *words: str, as_json: bool = True) -> Any:
    """What a command prints, as JSON; raises `ModelFailed` where it fails."""
    console.print(f"bascule {' '.join(words)}", style="dim", highlight=False)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BASCULE_")}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("bascule")), *words, *["--json"] * as_json], cwd=folder,
        check=False,
        env={**environment, "BASCULE_HOME": str(folder / ".bascule")}, capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode:
        raise ModelFailed(
            f"bascule {words[0]} ended with {done.returncode}: {done.stderr[-500:]}",
            hint=f"run it in {folder}",
        )
    return json.loads(done.stdout) if as_json else done.stdout
