"""Every flavor: how equal its programs are to the original, and how much faster.

    python -m bench.flavors [--rounds N] [--only WORDS] [--markdown]     (or `make bench-flavors`)

And what `Bundle.predict` takes for one row, beside the program that it runs: a row of NumPy, or a
table of one row (pandas).

One core, one thread. Each round times the original and every program of each bundle in turn, so
that what else happens on the machine happens to all of them; a figure is the median of the rounds,
and a speed-up compares neighbours within a round. All are asked for the same: the probabilities
where there are any, from which labels follow, else everything. Where a batch may be answered by the
original in a process of its own, that is one of the programs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import (
    BaggingClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

import bascule
from bascule.bundle.disk import ISOLATED, ORIGINAL
from bascule.bundle.opening import open_original
from bascule.bundle.originals.saved import is_inspected
from bascule.bundle.tables import conform, for_program, recombined
from bascule.core.fields import Columns, Signature
from bascule.core.programs import Program
from bascule.packing.statements.cost import sample_latency
from bench.machine import machine, versions
from bench.report import marks, put_between_marks

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "build" / "bench" / "flavors.json"
PAGE = ROOT / "docs" / "reference" / "flavors.md"
MARKS = marks("flavors")
SIZES = (1, 100, 65_536)
BARS = {1: 15.0, 65_536: 3.0}
"""How many times faster than scikit-learn's gradient boosting the best program is to be."""
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
SUBJECT = "gradient boosting, 100 trees"
_ONE_ROWS, _ONE_ROW_CALLS = 64, 3_000


@dataclass(frozen=True, slots=True)
class Row:
    """One model of one flavor.

    Attributes:
        flavor: Which.
        model: In words.
        parity: The largest difference from the original of the ONNX program.
        programs: What the bundle holds, by name.
        best: The fastest program by batch size; `original` where there is none that is faster.
        original_us: The time of one call of the original, by batch size.
        speed_up: By batch size, how many times faster the best program is; medians of the rounds.
        spread: The largest difference between rounds, as a share of the median, over the sizes.
        one_row_us: One row with all outputs: by `program` alone, by `predict` of a NumPy row, and
            of a table (`frame`); medians of calls in turn. What a model does not take is left out.
    """

    flavor: str
    model: str
    parity: float
    programs: list[str]
    best: dict[int, str]
    original_us: dict[int, float]
    speed_up: dict[int, float]
    spread: float
    one_row_us: dict[str, float]


Maker = Callable[[], tuple[Any, Any]]


def _matrix(model: Any) -> Maker:
    def make() -> tuple[Any, Any]:
        X, y = load_breast_cancer(return_X_y=True)
        return model.fit(X, y), X

    return make


def _table() -> tuple[Any, Any]:
    random = np.random.default_rng(7)
    n = 4000
    rows = pd.DataFrame(
        {
            "carrier": random.choice(["AA", "BB", "CC", "DD"], n),
            "airport": random.choice(["EWR", "JFK", "LGA"], n),
            "hour": random.integers(0, 24, n).astype(float),
            "wind": random.normal(size=n),
        }
    )
    late = (rows.hour > 12) ^ (rows.wind > 0.5)
    rows.loc[random.random(n) < 0.1, "wind"] = np.nan
    steps = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["carrier", "airport"]),
        (make_pipeline(SimpleImputer(), StandardScaler()), ["hour", "wind"]),
    )
    return make_pipeline(steps, GradientBoostingClassifier(random_state=0)).fit(rows, late), rows


def _two_outputs() -> tuple[Any, Any]:
    X, _ = load_breast_cancer(return_X_y=True)
    each = GradientBoostingRegressor(random_state=0)
    return MultiOutputRegressor(each).fit(X[:, 2:], X[:, :2]), X[:, 2:]


def _texts() -> tuple[Any, Any]:
    """Twenty words a row, of a vocabulary in which few words are frequent, as in any language."""
    random = np.random.default_rng(7)
    letters = random.choice(list("abcdefghijklmnopqrstuvwxyz"), (500, 6))
    words = np.array(["".join(word) for word in letters])
    shares = 1 / np.arange(1, 501)
    drawn = random.choice(500, (3_000, 20), p=shares / shares.sum())
    rows = [" ".join(row) for row in words[drawn]]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    return model.fit(rows, (drawn < 5).sum(axis=1) > 7), rows


def _stack() -> Any:
    parts = [
        ("trees", RandomForestClassifier(50, random_state=0)),
        ("linear", make_pipeline(StandardScaler(), LogisticRegression())),
    ]
    return StackingClassifier(parts, LogisticRegression())


def _vote() -> Any:
    parts = [
        ("trees", RandomForestClassifier(50, random_state=0)),
        ("linear", make_pipeline(StandardScaler(), LogisticRegression())),
        ("bayes", GaussianNB()),
    ]
    return VotingClassifier(parts, voting="soft")


def _boosted(library: str, name: str, **settings: Any) -> Maker:
    def make() -> tuple[Any, Any]:
        from importlib import import_module

        X, y = load_breast_cancer(return_X_y=True)
        model = getattr(import_module(library), name)(random_state=0, **settings)
        return model.fit(X, y), X

    return make


def _torch_network() -> tuple[Any, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    X, _ = load_breast_cancer(return_X_y=True)
    steps = nn.Sequential(
        nn.Linear(30, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 2), nn.Softmax(1)
    )
    return steps, X.astype(np.float32)


def _torch_images() -> tuple[Any, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = np.random.default_rng(0).normal(size=(64, 1, 8, 8)).astype(np.float32)
    steps = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )
    return steps, images


def _torch_sequences() -> tuple[Any, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)

    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = nn.LSTM(4, 32, batch_first=True)
            self.last = nn.Linear(32, 2)

        def forward(self, sequence: Any) -> Any:
            return self.last(self.steps(sequence)[0][:, -1])

    return Reading(), np.random.default_rng(0).normal(size=(64, 12, 4)).astype(np.float32)


def _keras_network() -> tuple[Any, Any]:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    keras.utils.set_random_seed(0)
    X, _ = load_breast_cancer(return_X_y=True)
    steps = [
        keras.Input((30,)),
        keras.layers.Dense(100, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(2, activation="softmax"),
    ]
    return keras.Sequential(steps), X.astype(np.float32)


MODELS: dict[tuple[str, str], Maker] = {
    ("sklearn", SUBJECT): _matrix(GradientBoostingClassifier(random_state=0)),
    ("sklearn", "random forest, 100 trees"): _matrix(RandomForestClassifier(random_state=0)),
    ("sklearn", "histogram gradient boosting"): _matrix(
        HistGradientBoostingClassifier(random_state=0)
    ),
    ("sklearn", "scaler and logistic regression"): _matrix(
        make_pipeline(StandardScaler(), LogisticRegression())
    ),
    ("sklearn", "scaler and network, 100 units"): _matrix(
        make_pipeline(StandardScaler(), MLPClassifier(max_iter=400, random_state=0))
    ),
    ("sklearn", "table with texts, 100 trees"): _table,
    ("sklearn", "texts, TF-IDF of 500 words and logistic regression"): _texts,
    ("sklearn", "naive Bayes"): _matrix(GaussianNB()),
    ("sklearn", "scaler and support vectors"): _matrix(make_pipeline(StandardScaler(), SVC())),
    ("sklearn", "scaler and linear support vectors, calibrated"): _matrix(
        make_pipeline(StandardScaler(), CalibratedClassifierCV(LinearSVC(random_state=0)))
    ),
    ("sklearn", "bag of 10 trees"): _matrix(BaggingClassifier(random_state=0)),
    ("sklearn", "vote of 50 trees, linear and Bayes"): _matrix(_vote()),
    ("sklearn", "stack of 50 trees and linear"): _matrix(_stack()),
    ("sklearn", "two outputs, 100 boosted trees each"): _two_outputs,
    ("sklearn", "outliers, isolation forest of 100 trees"): _matrix(
        IsolationForest(random_state=0)
    ),
    ("xgboost", "100 trees"): _boosted("xgboost", "XGBClassifier", n_estimators=100, n_jobs=1),
    ("lightgbm", "100 trees"): _boosted(
        "lightgbm", "LGBMClassifier", n_estimators=100, n_jobs=1, verbose=-1
    ),
    ("catboost", "100 trees"): _boosted(
        "catboost",
        "CatBoostClassifier",
        iterations=100,
        thread_count=1,
        verbose=False,
        allow_writing_files=False,
    ),
    ("torch", "network, 100 units"): _torch_network,
    ("torch", "convolution, 8 x 8 images"): _torch_images,
    ("torch", "recurrent, 12 steps of an LSTM of 32 units"): _torch_sequences,
    ("keras", "network, 100 units, on PyTorch"): _keras_network,
}
"""Of every flavor but `onnx` and `python`, whose models answer themselves: once as fast."""


def measure(
    models: dict[tuple[str, str], Maker], folder: Path, rounds: int, tell: Callable[[str], None]
) -> Iterator[Row]:
    """Pack every model and time its programs beside its original."""
    for number, ((flavor, words), make) in enumerate(models.items()):
        tell(f"{flavor}: {words}")
        model, train = make()
        bundle = bascule.pack(model, name="model", train=train, to=folder / str(number))
        # Trees are far quicker on rows that come again and again: processors learn the way.
        columns = recombined(conform(train, bundle.signature), SIZES[-1])
        names = [entry.name for entry in bundle.manifest.programs]
        asked = _asked(bundle.signature)
        programs = {name: Asked(bundle.program(name), asked) for name in names}
        if not is_inspected(bundle.manifest.original):
            isolated = open_original(bundle.path, bundle.manifest, isolated=True)
            programs[ISOLATED] = Asked(isolated, asked)
        original = Asked(_original(bundle, model), asked)
        best, original_us, speed_up, spreads = {}, {}, {}, []
        for size in SIZES:
            seen: dict[str, list[float]] = {name: [] for name in programs}
            base: list[float] = []
            for _ in range(rounds):
                base.append(_median_us(original, columns, size))
                for name, program in programs.items():
                    seen[name].append(base[-1] / _median_us(program, columns, size))
            if ISOLATED not in seen:
                seen[ORIGINAL] = [1.0]
            best[size] = max(seen, key=lambda name: median(seen[name]))
            ratios = seen[best[size]]
            speed_up[size] = median(ratios)
            original_us[size] = median(base)
            spreads.append((max(ratios) - min(ratios)) / median(ratios))
        parity = bundle.parity
        assert parity is not None
        difference = parity.max_difference
        one_row_us = _one_row_us(bundle, train)
        yield Row(
            flavor, words, difference, names, best, original_us, speed_up, max(spreads), one_row_us
        )


def _one_row_us(bundle: Any, train: Any) -> dict[str, float]:
    """What one row takes by each way, call by call in turn."""
    rows: dict[str, list[Any]] = {}
    if hasattr(train, "iloc"):
        rows["frame"] = [train.iloc[[row]] for row in range(_ONE_ROWS)]
    elif isinstance(train, np.ndarray):
        rows["predict"] = [train[[row % len(train)]] for row in range(_ONE_ROWS)]
        if train.ndim == 2 and bundle.signature.is_matrix:
            rows["frame"] = [
                pd.DataFrame(row, columns=[f"c{place}" for place in range(row.shape[1])])
                for row in rows["predict"]
            ]
    else:
        rows["predict"] = [[train[row]] for row in range(_ONE_ROWS)]
    some = next(iter(rows.values()))
    program = bundle.program(bundle.predict(some[0]).program)
    ready = [for_program(conform(row, bundle.signature), program.inputs) for row in some]
    taken: dict[str, list[int]] = {name: [] for name in ("program", *rows)}
    for call in range(_ONE_ROW_CALLS):
        place = call % _ONE_ROWS
        started = time.perf_counter_ns()
        program.run(ready[place])
        taken["program"].append(time.perf_counter_ns() - started)
        for name, ways in rows.items():
            started = time.perf_counter_ns()
            bundle.predict(ways[place])
            taken[name].append(time.perf_counter_ns() - started)
    return {name: float(np.median(some)) / 1e3 for name, some in taken.items()}


def _original(bundle: Any, model: Any) -> Any:
    """The original as its users run it: a PyTorch module itself, not the calls that are kept."""
    if bundle.manifest.flavor == "torch":
        from bascule.packing.flavors.torch import program_of

        return program_of(model, bundle.signature)
    return bundle.original()


def _asked(signature: Signature) -> list[str]:
    """What one asks a model: probabilities, from which labels follow, or all that it has."""
    names = [field.name for field in signature.outputs]
    return ["probabilities"] if "probabilities" in names else names


class Asked(Program):
    """A program that is asked for some of its outputs."""

    def __init__(self, program: Program, names: Sequence[str]) -> None:
        self.name, self.inputs, self.outputs = program.name, program.inputs, program.outputs
        self._names = list(names)
        self._run = program.run

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        return self._run(columns, self._names if outputs is None else outputs)


def _median_us(program: Program, columns: Columns, size: int) -> float:
    return float(np.median(sample_latency(program, columns, size, budget_s=0.15, at_least=1)))


def chosen(only: str | None) -> dict[tuple[str, str], Maker]:
    """The models whose flavor and words hold `only`; all, if None. Raises `ValueError` if none."""
    found = {key: make for key, make in MODELS.items() if only is None or only in ": ".join(key)}
    if not found:
        known = "; ".join(": ".join(key) for key in MODELS)
        raise ValueError(f"no model is called like {only!r}; there are {known}")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.flavors", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (7)")
    parser.add_argument("--only", metavar="WORDS", help="only the models called like this")
    parser.add_argument("--markdown", action="store_true", help="write the page too")
    asked = parser.parse_args(arguments)
    try:
        models = chosen(asked.only)
    except ValueError as problem:
        parser.error(f"--only: {problem}")
    if asked.only and asked.markdown:
        parser.error("--markdown: the page holds all models, so leave --only out")
    if any(os.environ.get(name) != "1" for name in _ONE_THREAD):
        # Read when the libraries are loaded, and they are.
        command = [sys.executable, "-m", "bench.flavors", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **_ONE_THREAD})
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    warnings.simplefilter("ignore")
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure(models, Path(folder), asked.rounds, lambda words: console.print(words)))
    console.print(_shown(rows))
    claims = {
        f"{SUBJECT}, {size:,} rows": {
            "measured": row.speed_up[size],
            "bar": bar,
        }
        for row in rows
        if row.model == SUBJECT
        for size, bar in BARS.items()
    }
    for claim, said in claims.items():
        met = "met" if said["measured"] >= said["bar"] else "NOT MET"
        console.print(f"{claim}: {said['measured']:.1f} x, bar {said['bar']:g} x: {met}")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    about = {"schema_version": 1, "machine": machine(), "versions": versions(_DISTRIBUTIONS)}
    measured = [asdict(row) for row in rows]
    made = {**about, "rounds": asked.rounds, "rows": measured, "claims": claims}
    OUTPUT.write_text(json.dumps(made, indent=2) + "\n")
    console.print(f"written to {OUTPUT.relative_to(ROOT)}")
    if asked.markdown:
        PAGE.write_text(put_between_marks(PAGE.read_text(), markdown(rows, made), "flavors"))
        console.print(f"and to {PAGE.relative_to(ROOT)}")
    return 0


_DISTRIBUTIONS = (
    "onnxruntime", "scikit-learn", "xgboost-cpu", "lightgbm", "catboost",
    "torch", "keras",
)  # fmt: skip
_HEADS = ("flavor", "model", "parity", "1 row", "100 rows", "65,536 rows", "spread")
_ONE_ROW_HEADS = ("flavor", "model", "program", "`predict`, NumPy row", "`predict`, DataFrame")


def _cells(row: Row) -> list[str]:
    ups = [f"{row.speed_up[size]:.1f} x ({row.best[size]})" for size in SIZES]
    return [row.flavor, row.model, f"{row.parity:.1e}", *ups, f"{row.spread:.0%}"]


def _one_row_cells(row: Row) -> list[str]:
    ways = [row.one_row_us.get(name) for name in ("program", "predict", "frame")]
    return [row.flavor, row.model, *("" if us is None else f"{us:,.1f}" for us in ways)]


def _shown(rows: list[Row]) -> Table:
    table = Table(*_HEADS, title="Times faster than the original, one core")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def markdown(rows: list[Row], made: dict[str, Any]) -> str:
    lines = ["| " + " | ".join(_HEADS) + " |", "|---" * len(_HEADS) + "|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    parts = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    calls = ["| " + " | ".join(_ONE_ROW_HEADS) + " |", "|---" * len(_ONE_ROW_HEADS) + "|"]
    calls += ["| " + " | ".join(_one_row_cells(row)) + " |" for row in rows]
    return "\n".join(
        [
            *lines,
            "",
            "One row with all outputs, in microseconds: the program alone, and what",
            "`Bundle.predict` takes, which reads the row, checks it and chooses the program.",
            "",
            *calls,
            "",
            f"Medians of {made['rounds']} interleaved rounds. Spread is (largest - smallest) /",
            "median of a row's speed-ups, at its worst size.",
            f"{made['machine']['processor']}, one core. With {parts}.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
