"""The chapters of the demo: each does one step, says what came of it, and hands it on."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from bascule.batch import job_of, run_job
from bascule.bundle import conform, for_program, gates_table
from bascule.core import user_name
from bascule.demo import answers, flights, replay
from bascule.demo.client import LoadResult, ask, bodies
from bascule.demo.flights import NAME
from bascule.demo.telling import heading
from bascule.documents import Table, table_for
from bascule.registry import open_registry
from bascule.release import GateReport, check as check_gates

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from sklearn.pipeline import Pipeline

    from bascule.bundle import Bundle
    from bascule.demo.flights import Months
    from bascule.demo.server import Server

INFER = f"/v2/models/{NAME}/infer"
CRITERIA = ["roc_auc >= 0.70", "parity <= 1e-5", "latency_p50 <= 5 ms", "size <= 20 MB"]
CONNECTIONS = 16
_WARM_REQUESTS = 500
_ORIGINAL_SECONDS = 5.0
_ORIGINAL_ROWS = 500
_SHOWN = 6
_CHUNK_ROWS = 50_000


def learn(console: Console) -> tuple[Pipeline, Months]:
    """Load, split by time, fit: the fitted pipeline, and the months."""
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
    with console.status("fitting the pipeline"), threadpool_limits(flights.THREADS):
        model = flights.build_model().fit(*flights.learnt_from(months.train))
    console.print(
        f"fitted: will it arrive more than {flights.LATE_MINUTES} minutes late? "
        f"{len(flights.FEATURES)} columns, words and gaps among them "
        f"({time.perf_counter() - clock:.1f} s)"
    )
    return model, months


def pack(console: Console, model: Pipeline, months: Months, folder: Path) -> Bundle:
    """Pack with `bascule.pack`, which compiles, compares and measures."""
    heading(console, "Pack")
    return flights.packed(
        model, folder,
        train=flights.learnt_from(months.train),
        test=flights.learnt_from(months.test),
        description="Will a flight from New York arrive more than 15 minutes late?",
        parameters=flights.parameters(model),
        progress=lambda said: console.print(said, markup=False),
    )  # fmt: skip


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


def first_answers(console: Console, server: Server, bundle: Bundle, month: pd.DataFrame) -> None:
    """A few flights, spread over the month, one at a time."""
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


def whole_month(
    console: Console, server: Server, bundle: Bundle, rows: pd.DataFrame
) -> dict[str, Any]:
    """Every flight of the month as a request of its own, and every answer checked."""
    heading(console, f"Answer {_span(rows)}")
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
    return {
        "requests": len(requests), "errors": asked.errors, "wrong": check.wrong,
        "requests_per_s": asked.per_second, "p50_ms": asked.latency_ms(0.50),
        "p99_ms": asked.latency_ms(0.99), "server_cpu_s": cpu,
        "client_cpu_s": asked.client_cpu_s, "roc_auc": auc,
    }  # fmt: skip


def original(
    console: Console, model: Pipeline, month: pd.DataFrame, requests_per_s: float
) -> dict[str, float]:
    """The fitted pipeline itself, the same flights one row at a time."""
    heading(console, "Beside the original")
    table = month[flights.FEATURES]
    rows = [table.iloc[[number]] for number in range(min(len(table), _ORIGINAL_ROWS))]
    done, clock = 0, time.perf_counter()
    with console.status("asking the fitted pipeline"), threadpool_limits(flights.THREADS):
        for row in rows:
            model.predict_proba(row)
            done += 1
            if time.perf_counter() - clock > _ORIGINAL_SECONDS:
                break
    rate = done / (time.perf_counter() - clock)
    console.print(
        f"scikit-learn's predict_proba, in this process, without any server around it: "
        f"{rate:,.0f} rows a second ({done} rows)\n"
        f"bascule, over HTTP, with the requests read, checked and counted: "
        f"{requests_per_s:,.0f} a second, [bold]{requests_per_s / rate:,.0f} times as many[/bold]"
    )
    return {"original_per_s": rate, "times_faster": requests_per_s / rate}


def watch(
    console: Console, server: Server, bundle: Bundle, home: Path, later: pd.DataFrame
) -> dict[str, int]:
    """Replay the months to come, with outcomes days later; quality and drift by month."""
    heading(console, f"Watch {_span(later)}")
    clock = time.perf_counter()
    with console.status("replaying"):
        answered, truths = replay.replay(server, NAME, later)
        seconds = time.perf_counter() - clock
        rows = replay.recorded(home, NAME, answered)
    console.print(
        f"{answered:,} flights asked about, day by day, and {truths:,} outcomes told three days "
        f"later, in {seconds:.1f} s; the ledger joins them by id"
    )
    with console.status("comparing"):
        months, drift = replay.by_month(bundle, rows)
    replay.show(console, months, drift)
    return {
        "joined": len(rows), "replayed": answered,
        "months_with_drift": int(months["drifted"].astype(bool).sum()),
    }  # fmt: skip


def score_year(
    console: Console, bundle: Bundle, reference: str, home: Path, months: Months
) -> dict[str, Any]:
    """Score the whole year in one batch job, twice: the second time changes nothing."""
    import pandas as pd
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    heading(console, "Score the year")
    year = pd.concat([months.train, months.test, months.later], ignore_index=True)
    source, sink = home.with_name("flights.parquet"), home.with_name("scored")
    with console.status("scoring"):
        year.to_parquet(source, index=False, row_group_size=_CHUNK_ROWS)
        job = job_of(
            {"model": reference, "from": str(source), "to": f"{sink}/", "chunk_rows": _CHUNK_ROWS}
        )
        first = run_job(job, bundle, home)
        before = {file: file.stat().st_mtime_ns for file in sink.glob("*.parquet")}
        run_job(job, bundle, home)
        after = {file: file.stat().st_mtime_ns for file in sink.glob("*.parquet")}
    ids = ds.dataset(sink, format="parquet").to_table(columns=["prediction_id"])["prediction_id"]
    is_once = pc.count_distinct(ids).as_py() == len(year) == len(ids)
    console.print(
        f"bascule batch run {reference} --from flights.parquet --to scored/\n"
        f"{len(year):,} flights in {first.seconds:.1f} s: "
        f"{len(year) / first.seconds:,.0f} a second; the same command again changes nothing",
        highlight=False,
    )
    return {
        "rows": len(year), "written": len(ids), "seconds": first.seconds,
        "is_once": is_once and before == after,
    }  # fmt: skip


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
