"""A model with days of production in a ledger: answers by the real recorder, and their truths."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from tests.ledger_rows import take_in

import bascule
from bascule.bundle import take
from bascule.bundle.statements import column_names
from bascule.monitoring.ledger import Outcomes, SpoolWriter
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels

DAY_NS = 86_400 * 10**9
_AT_ONCE = 10


@dataclass(frozen=True)
class Day:
    """One day of production, `back` days before today."""

    back: int
    rows: int = 200
    wind: float = 10.0
    fresh: float = 0.0
    noise: float = 3.0
    truths: float = 1.0
    errors: int = 0


def flights(random: np.random.Generator, rows: int, wind: float = 10.0, fresh: float = 0.0) -> Any:
    shares = [0.5, 0.3, 0.2 - fresh, fresh]
    return {
        "wind": random.normal(wind, 4, rows),
        "distance": random.gamma(3, 300, rows),
        "carrier": random.choice(np.array(["AA", "UA", "B6", "ZZ"], object), rows, p=shares),
    }


def late(random: np.random.Generator, rows: Any, noise: float = 3.0) -> Any:
    wind = rows["wind"]
    return np.where(wind + random.normal(0, noise, len(wind)) > 13, "late", "ok").astype(object)


def packed(folder: Path, name: str = "late", seed: int = 0) -> bascule.Bundle:
    """A classifier of delays, with a baseline of 4,000 rows and 1,000 held-out ones."""
    import pandas as pd

    random = np.random.default_rng(seed)
    rows = flights(random, 5_000, fresh=0.01)
    X, y = pd.DataFrame(rows), late(random, rows)
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["carrier"]), remainder="passthrough"
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=1_000)).fit(X[:4_000], y[:4_000])
    return bascule.pack(
        model, name=name, train=(X[:4_000], y[:4_000]), test=(X[4_000:], y[4_000:]),
        to=folder / f"{name}.bundle", measure=False,
    )  # fmt: skip


def fill(home: Path, bundle: bascule.Bundle, version: str, days: Iterable[Day]) -> None:
    """Answer the days' requests by the bundle, and keep answers and truths in the home."""
    home.mkdir(parents=True, exist_ok=True)
    random, name = np.random.default_rng(1), bundle.name
    recorder = LedgerRecorder(SpoolWriter(home), max_rows_per_s=10**9)
    manifest = bundle.manifest
    names = column_names(bundle.signature, manifest.classes, manifest.targets)
    label, by = MetricLabels(name, version), AnsweredBy(name, version, "onnx", tuple(names.items()))
    truths: dict[str, list[Any]] = {"id": [], "truth": []}
    for day in days:
        rows = flights(random, day.rows, day.wind, day.fresh)
        columns = {key: np.asarray(rows[key]) for key in rows}
        answers, y = dict(bundle.predict(columns)), late(random, rows, day.noise)
        at = time.perf_counter_ns() - day.back * DAY_NS
        for start in range(0, day.rows, _AT_ONCE):
            part = slice(start, min(day.rows, start + _AT_ONCE))
            request = f"{version}-{day.back}-{start}"
            call = Call(take(columns, part), part.stop - part.start)
            recorder.add(_context(request, at), call, Answer(take(answers, part), by), label, 200,
                         int(random.lognormal(14, 0.5)))  # fmt: skip
            known = np.flatnonzero(random.random(call.rows) < day.truths).tolist()
            truths["id"] += [f"{request}#{row}" for row in known]
            truths["truth"] += y[part][known].tolist()
        for number in range(day.errors):
            recorder.add(_context(f"{version}-{day.back}-e{number}", at), None, None, label, 500,
                         10**6)  # fmt: skip
    recorder.close()
    take_in(home)
    if truths["id"]:
        Outcomes(home).add(name, pa.table(truths))


def _context(name: str, at: int) -> Any:
    return SimpleNamespace(
        prediction_id=name, caller="me", protocol="oip", trace=(b"", b""), started_ns=at
    )
