"""What a composition adds to its parts: `python -m bench.compositions`.

Three models in a chain, one row: the program of the composition as batches call it (`run`), and as
a server does (`complete`, then `run`), beside the programs of its parts, called one after the other
in this process. Medians of interleaved rounds, of processor time.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression, LogisticRegression

import bascule
from bascule.core import Columns
from bascule.packing import Composition

ROUNDS, CALLS = 15, 400
PARTS = {
    "risk": {"model": "risk"},
    "price": {"model": "price", "inputs": {"p_bad": "risk.probabilities['bad']"}},
    "last": {
        "model": "price",
        "inputs": {"p_bad": "risk.probabilities['bad']", "amount": "price.prediction"},
    },
}


def main() -> None:
    """Pack, time, print."""
    random = np.random.default_rng(0)
    rows = pd.DataFrame({"amount": random.gamma(2, 50, 500), "age": random.uniform(18, 80, 500)})
    labels = np.where(rows.amount > 110, "bad", "ok")
    seen = pd.DataFrame({"p_bad": random.uniform(0, 1, 500), "amount": rows.amount})
    options: dict[str, Any] = {
        "measure": False,
        "explain": False,
        "outliers": False,
        "baseline": False,
    }
    with tempfile.TemporaryDirectory() as home:
        made = {
            name: bascule.pack(model, name=name, train=table, to=Path(home) / name, **options)
            for name, model, table in (
                ("risk", LogisticRegression().fit(rows, labels), rows),
                ("price", LinearRegression().fit(seen, seen.p_bad * seen.amount), seen),
            )
        }
        composed = bascule.pack(
            Composition({"parts": PARTS}, made.__getitem__),
            name="chain",
            to=Path(home) / "chain",
            **options,
        )
        program = composed.program()
        risk, price = made["risk"].program(), made["price"].program()
        row = {"amount": np.array([120.0]), "age": np.array([30.0])}
        place = (made["risk"].classes or ()).index("bad")

        def parts() -> Columns:
            first = risk.run(row)
            p_bad = first["probabilities"][:, place]
            second = price.run({"p_bad": p_bad, "amount": row["amount"]})
            return price.run({"p_bad": p_bad, "amount": second["prediction"]})

        def run() -> Columns:
            return program.run(row)

        def serve() -> Columns:
            (completed,) = program.complete((row,))
            return program.run(completed)

        assert parts()["prediction"] == run()["prediction"] == serve()["prediction"]
        times = measured([parts, run, serve])
    base_us = times[0]
    print(f"the three programs: {base_us:.1f} us")
    for what, took_us in (("run", times[1]), ("complete and run", times[2])):
        print(f"{what}: {took_us:.1f} us, {(took_us - base_us) / 3:.1f} us a part more")


def measured(calls: list[Callable[[], Columns]]) -> list[float]:
    """The median over rounds of the time of each call, in microseconds."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for place, call in enumerate(calls):
            before_s = time.process_time()
            for _ in range(CALLS):
                call()
            found[place].append((time.process_time() - before_s) / CALLS * 1e6)
    return [statistics.median(one) for one in found]


if __name__ == "__main__":
    main()
