"""Explanations beside shap, on one core: `make bench-explaining`.

    python -m bench.explaining [--rows N] [--shap-rows N] [--one-rows N] [--peers PYTHON]

For 100 trees on 30 columns: how far the attributions are from those of `shap.TreeExplainer`, rows
per second of both in turns, and the CPU time of one request of one row over HTTP with an
explanation, beside one without. `--peers` is the interpreter of an environment that has woodelf:
its rows per second and the time of its one row, on the same rows and the same model.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import shap
from numpy.typing import NDArray
from sklearn.datasets import make_classification
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)

import bascule
from bascule.bundle.explaining import open_explainer, read_explanation

COLUMNS, CLASSES, ROUNDS = 30, 3, 5
_WOODELF = """
import json, pickle, sys, time
import pandas as pd
from woodelf import WoodelfExplainer
model, rows = pickle.load(open(sys.argv[1], "rb"))
table = pd.DataFrame(rows)
explainer = WoodelfExplainer(model)
def timed(part):
    start = time.perf_counter()
    explainer.shap_values(part, verbose=False)
    return time.perf_counter() - start
timed(table[:100])
print(json.dumps([len(table) / timed(table), timed(table[:1])]))
"""


def models() -> Iterator[tuple[str, Any]]:
    """By name; each 100 rounds or trees."""
    import xgboost

    yield "boosting, depth 3", GradientBoostingClassifier(n_estimators=100, max_depth=3)
    yield "histogram boosting", HistGradientBoostingClassifier(max_iter=100)
    yield "forest, depth 8", RandomForestClassifier(100, max_depth=8)
    yield "XGBoost, depth 3", xgboost.XGBClassifier(n_estimators=100, max_depth=3)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--shap-rows", type=int, default=2_000, help="of a round that is timed")
    options.add_argument("--peers", type=Path)
    options.add_argument("--classes", type=int, nargs="+", default=[2, 3])
    options.add_argument("--only", default="")
    chosen = options.parse_args()
    warnings.simplefilter("ignore")
    for classes in chosen.classes:
        X, y = make_classification(
            5_000 + chosen.rows, COLUMNS, n_informative=12, n_classes=classes, random_state=0
        )
        for name, model in models():
            # shap knows no GradientBoostingClassifier of several classes.
            if chosen.only in name and (classes == 2 or not name.startswith("boosting")):
                print(f"{name}, {classes} classes: {_measured(model, X, y, chosen)}", flush=True)


def _measured(model: Any, X: NDArray[Any], y: NDArray[Any], chosen: Any) -> str:
    train, rows = slice(5_000), X[5_000:]
    model.fit(X[train], y[train])
    with tempfile.TemporaryDirectory() as folder:
        bundle = bascule.pack(model, name="m", train=(X[train], y[train]), to=Path(folder) / "b")
        explanation = read_explanation(bundle.path, bundle.manifest)
        assert explanation is not None
        explainer = open_explainer(bundle.path, bundle.manifest, explanation)
        oracle = shap.TreeExplainer(model)
        (read,) = bundle.signature.inputs

        def ours(part: NDArray[Any]) -> NDArray[Any]:
            return explainer.attributions({read.name: part})

        def shaps(part: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(oracle.shap_values(part, check_additivity=False))

        few = rows[: chosen.shap_rows]
        own, theirs = _in_turns(lambda: ours(few), lambda: shaps(few))
        apart = max(
            float(np.abs(ours(part) - shaps(part).reshape(len(part), COLUMNS, -1)).max())
            for part in np.array_split(rows, max(1, len(rows) // 10_000))
        )
        said = (
            f"{len(few) / own:,.0f} rows/s, shap {len(few) / theirs:,.0f} (x {theirs / own:.1f}), "
            f"at most {apart:.2g} apart on {len(rows):,} rows; {_one_row(bundle, rows)}"
        )
        return said + (_woodelf(chosen.peers, model, rows[:20_000], folder) if chosen.peers else "")


def _in_turns(*calls: Callable[[], Any]) -> list[float]:
    """The median seconds of each, after one call that is not counted."""
    times: list[list[float]] = [[] for _ in calls]
    for place in range(ROUNDS + 1):
        for call, own in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            if place:
                own.append(time.process_time() - start)
    return [median(own) for own in times]


def _one_row(bundle: bascule.Bundle, rows: NDArray[Any]) -> str:
    """One row in this process, and over HTTP: what the server's processes take of the CPU."""
    row = rows[:1]
    with_it, without = _in_turns(
        lambda: [bundle.predict(row, parameters={"explain": True}) for _ in range(100)],
        lambda: [bundle.predict(row) for _ in range(100)],
    )
    served = _served(bundle, row)
    return (
        f"one row in Python {without * 1e4:,.0f} us, with explanation {with_it * 1e4:,.0f} us; one "
        f"request {served[1]:,.0f} us, with explanation {served[0]:,.0f} us "
        f"(x {served[0] / served[1]:.2f})"
    )


def _served(bundle: bascule.Bundle, row: NDArray[Any], count: int = 1_000) -> list[float]:
    """Microseconds of the worker for a request with and without an explanation, in turns."""
    import http.client

    import psutil

    asked = {"inputs": [{"name": bundle.signature.inputs[0].name, "shape": list(row.shape),
                         "datatype": "FP64", "data": row.ravel().tolist()}]}  # fmt: skip
    bodies = [json.dumps({**asked, "parameters": {"explain": True}}), json.dumps(asked)]
    with bascule.serve(bundle, workers=1) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        workers = psutil.Process().children(recursive=True)

        def used() -> float:
            return sum(sum(own.cpu_times()[:2]) for own in workers)

        times: list[list[float]] = [[], []]
        for place in range(ROUNDS + 1):
            for body, own in zip(bodies, times, strict=True):
                start = used()
                for _ in range(count):
                    connection.request("POST", "/v2/models/m/infer", body)
                    reply = connection.getresponse()
                    content = reply.read()
                    assert reply.status == 200, content
                if place:
                    own.append((used() - start) / count * 1e6)
    return [median(own) for own in times]


def _woodelf(python: Path, model: Any, rows: NDArray[Any], folder: str) -> str:
    file = Path(folder) / "model.pkl"
    file.write_bytes(pickle.dumps((model, rows)))
    run = subprocess.run(
        [str(python), "-c", _WOODELF, str(file)], capture_output=True, text=True, check=False
    )
    if run.returncode:
        return f"; woodelf failed: {run.stderr.strip().splitlines()[-1]}"
    rate, one = json.loads(run.stdout.splitlines()[-1])
    return f"; woodelf {rate:,.0f} rows/s, one row {one * 1e3:,.0f} ms"


if __name__ == "__main__":
    main()
