"""The fourth story of the demo: a model decays, and the loop trains, judges and replaces it.

A year of flights, a month a day: what the first version answers in three months is put on the last
three days of the ledger. All else is as in production: the control process judges the drift of
yesterday, a trigger starts a training run, the winner goes out as a canary, the loser stays out.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from bascule.bundle import conform, load
from bascule.bundle.statements import column_names
from bascule.core import ModelFailed
from bascule.demo import flights
from bascule.demo.flights import NAME, TARGET
from bascule.demo.rollouts import traffic_of
from bascule.demo.server import start
from bascule.demo.telling import awaited, command, heading, summary
from bascule.documents import Table, table_for
from bascule.jobs import RemoteJobs
from bascule.monitoring.ledger import Outcomes, Scribe, SpoolWriter
from bascule.registry import open_registry
from bascule.release.rollouts import RemoteRollouts
from bascule.serving import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels
from bascule_client.control import ControlClient

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from bascule.bundle import Bundle
    from bascule.demo.server import Server
    from bascule.release.rollouts import StoredRollout

_FIRST, _SECOND, _EVERY = 1, 4, 3
"""The last month of the first training, and of the second; every so-manieth flight takes part."""
_WITHIN_S, _LOOK_S = 300.0, 0.5
_DAY_NS, _AT_ONCE = 86_400 * 10**9, 50
_INVERTED = "UA"
_DATA = "flights.parquet"
_SETTINGS = """
[alerts]
watch = "on"
every_s = 10

[rollouts]
strategy = "canary"
guards = ["errors +1 pp", "accuracy -4 pp"]
steps_percent = [20.0, 50.0, 100.0]
step_s = 1
"""
_PIPELINE = f"""
[pipeline.{NAME}]
data = "{_DATA}"
target = "{TARGET}"
time = "departs_at"
fit = "training.py:fit"
metric = "roc_auc"
margin = 0.005
endpoint = "{NAME}"
"""
_TRAINING = """
from bascule.demo import flights


def fit(X, y, inverted=""):
    # Of the carrier `inverted` the labels are the wrong way round: a mistake, for the demo.
    return flights.build_model().fit(X, y.where(X["carrier"] != inverted, 1 - y))
"""


def tell_loop(folder: Path, console: Console) -> dict[str, Any]:
    """Tell the story in `folder`: its facts, and in `held` whether each promise was kept.

    Raises:
        BasculeError: A step could not be done at all.
    """
    home, registry = folder / ".bascule", open_registry(folder / ".bascule")
    for name, text in (
        ("bascule.toml", _SETTINGS), ("pipeline.toml", _PIPELINE), ("training.py", _TRAINING),
    ):  # fmt: skip
        (folder / name).write_text(text, encoding="utf-8")
    year = flights.load_flights().iloc[::_EVERY]

    heading(console, "The first version learns January")
    first = load(registry.path(registry.resolve(_trained(console, folder, year, _FIRST))))

    heading(console, "February to April are answered, a month a day; their truths come")
    _answer(home, first, year)
    limits = ("--cool-down-h", "0", "--budget", "2")
    words = ("trigger", "add", "decay", "--on", "drift", "--cron", "* * * * *", *limits)
    command(console, folder, *words, as_json=False)
    _write(folder, year, _SECOND)
    server = start(NAME, home=home, folder=folder, records=True)
    try:
        heading(console, "Drift starts a training run")
        with console.status("waiting for the next minute"):
            run = awaited(lambda: _ended_run(server), "the training run", _WITHIN_S, _LOOK_S)
        console.print(f"why: {run['why']}", markup=False)
        console.print(run["sentence"], markup=False)

        heading(console, "The winner is a canary")
        with console.status("asking about May"):
            rollout, asked, errors = _rolled_out(server, first, year[year["month"] == _SECOND + 1])
        state = "none" if rollout.latest is None else type(rollout.latest.state).__name__.lower()
        console.print(f"{state} after {asked:,} requests, {errors} failed", markup=False)

        heading(console, f"A mistake: the labels of {_INVERTED} are inverted")
        bad = _train(console, folder, "-p", f"inverted={_INVERTED}")
        console.print(bad["sentence"], markup=False)

        heading(console, "The report")
        report = command(console, folder, "loop", "status", NAME)
        console.print(command(console, folder, "loop", "status", NAME, as_json=False), markup=False)
    finally:
        server.stop()
    second = load(registry.path(registry.resolve(run["version"])))
    areas = _areas(console, first, second, year)
    promises = {
        "the drift alarm started the run": NAME in run["why"] and bool(run["version"]),
        f"{run['version']} was promoted by its canary": state == "promoted" and not errors,
        f"{bad['version']} was stopped": not bad["wins"],
        "the report tells of both": [own["wins"] for own in report["challenges"][:2]]
        == [False, True],
        "the new version is better from May on": areas[1] > areas[0],
    }
    facts = {
        "why": run["why"], "verdict": run["sentence"], "rollout": state, "requests": asked,
        "errors": errors, "stopped": bad["sentence"], "area_before": areas[0],
        "area_after": areas[1],
    }  # fmt: skip
    return summary(console, promises, facts)


def _trained(console: Console, folder: Path, year: pd.DataFrame, until: int) -> str:
    _write(folder, year, until)
    result = _train(console, folder)
    console.print(result["sentence"], markup=False)
    return str(result["version"])


def _train(console: Console, folder: Path, *words: str) -> Any:
    with console.status("training"), threadpool_limits(flights.THREADS):
        return command(console, folder, "train", "run", NAME, *words)


def _write(folder: Path, year: pd.DataFrame, until: int) -> None:
    """The rows whose truth is known at the end of a month."""
    known = year.loc[year["month"] <= until, [*flights.FEATURES, "departs_at", TARGET]]
    known.to_parquet(folder / _DATA, index=False)


def _answer(home: Path, bundle: Bundle, year: pd.DataFrame) -> None:
    """Record the months after the training as the last days, by the recorder of a worker."""
    recorder = LedgerRecorder(SpoolWriter(home), max_rows_per_s=10**9)
    names = column_names(bundle.signature, bundle.classes, bundle.targets)
    label, by = MetricLabels(NAME, "1"), AnsweredBy(NAME, "1", "onnx", tuple(names.items()))
    ids, truths = [], []
    for month in range(_FIRST + 1, _SECOND + 1):
        rows = year[year["month"] == month]
        at_ns = time.perf_counter_ns() - (_SECOND + 1 - month) * _DAY_NS
        for begin in range(0, len(rows), _AT_ONCE):
            part = rows.iloc[begin : begin + _AT_ONCE]
            inputs = conform(part[flights.FEATURES], bundle.signature)
            context: Any = SimpleNamespace(
                prediction_id=f"{month}-{begin}", caller="demo", protocol="oip",
                trace=(b"", b""), started_ns=at_ns,
            )  # fmt: skip
            answer = Answer(dict(bundle.predict(inputs)), by)
            recorder.add(context, Call(inputs, len(part)), answer, label, 200, 10**6)
            ids += [f"{month}-{begin}#{row}" for row in range(len(part))]
            truths += part[TARGET].tolist()
    recorder.close()
    scribe = Scribe(home)
    while scribe.turn(everything=True):
        pass
    scribe.close()
    Outcomes(home).add(NAME, pa.table({"id": ids, "truth": truths}))


def _ended_run(server: Server) -> Any:
    """What came of the run that the trigger has started; None before it has ended."""
    jobs = RemoteJobs(ControlClient(server.control_url))
    started = [job for job in jobs.find(kind="train") if job.input["why"] != "by hand"]
    if not started or not started[0].is_ended:
        return None
    job = jobs.get(started[0].id)
    if job.result is None or not job.result["wins"]:
        raise ModelFailed(
            f"the training run did not win: {job.result or job.error}", hint="see server.log"
        )
    return {**job.result, "why": job.input["why"]}


def _rolled_out(
    server: Server, bundle: Bundle, rows: pd.DataFrame
) -> tuple[StoredRollout, int, int]:
    """The rollout after it has ended, the requests until then, and those that failed."""
    book = RemoteRollouts(ControlClient(server.control_url))
    asked = errors = 0
    flow = traffic_of(server, bundle, rows)

    def ended() -> StoredRollout | None:
        nonlocal asked, errors
        requests, failed = next(flow)
        asked, errors = asked + requests, errors + failed
        return next((own for own in book.rollouts(NAME) if own.ended_at is not None), None)

    return awaited(ended, "the rollout", _WITHIN_S, 0.0), asked, errors


def _areas(
    console: Console, first: Bundle, second: Bundle, year: pd.DataFrame
) -> tuple[float, float]:
    """The mean area under the curve from May on, of both versions, and all months shown."""
    from sklearn.metrics import roc_auc_score

    heading(console, "What it was worth")
    lines, areas = [], []
    for month, rows in year[year["month"] > _SECOND].groupby("month"):
        both = [
            float(
                roc_auc_score(
                    rows[TARGET], own.predict(rows[flights.FEATURES])["probabilities"][:, 1]
                )
            )
            for own in (first, second)
        ]
        areas.append(both)
        lines.append((f"{month}", *(f"{area:.3f}" for area in both)))
    heads = ("month", f"ROC AUC of {NAME}/1", "of its successor")
    console.print(table_for(Table(heads, tuple(lines))))
    before, after = np.mean(areas, axis=0).tolist()
    return before, after
