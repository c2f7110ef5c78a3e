"""How soon drift is found: `python -m bench.drift_power`, beside KS and Bonferroni.

- Streams of river with a change at a known row (`bench/peers/drift_streams.py make FOLDER` writes
  them): a model is trained on the first 4,000 rows, 1,000 are held out, windows of 100 follow.
- Census: nannyml's employment data of Massachusetts; 2015 is the baseline, 2016 to 2018 follow.
- Flights from New York in 2013: trained on January, days from February on follow.

Delays are rows from the change to the end of the window with the first alarm after it. Both sides
have the level of 4 false alarms a year of daily windows, over the columns of inputs.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping
from datetime import date
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.monitoring import ModelWatch
from bascule.monitoring.drift.concept import bin_count
from bascule.stats import (
    CategoryBaseline,
    ColumnProfile,
    HarmDetector,
    NumberBaseline,
    Profile,
    risk_bounds,
)
from bascule.stats.tails import kolmogorov_tail

Table = Mapping[str, NDArray[Any]]

TRAINED, HELD_OUT, WINDOW = 4_000, 1_000, 100
BUDGET, YEAR = 4.0, 365


class Plain:
    """A KS test of each number and a chi-square-like test of each text, with Bonferroni's level."""

    def __init__(self, baseline: Profile) -> None:
        self.level = BUDGET / YEAR / len(baseline.columns)
        self._of = {
            name: NumberBaseline(one) if one.quantiles.rows else CategoryBaseline(one)
            for name, one in baseline.columns.items()
        }

    def alarms(self, window: Profile) -> list[str]:
        return [
            name for name, one in window.columns.items() if self._p_value(name, one) < self.level
        ]

    def _p_value(self, name: str, window: ColumnProfile) -> float:
        then = self._of[name]
        if isinstance(then, CategoryBaseline):
            return then.test(window).p_value
        n, others = window.quantiles.rows, then.rows
        return kolmogorov_tail(then.score(window).distance, n * others / (n + others))


def profile_of(table: Table) -> Profile:
    made = Profile()
    made.add(table)
    return made


def windows_of(table: Table, size: int) -> Iterator[Table]:
    rows = len(next(iter(table.values())))
    for start in range(0, rows - size + 1, size):
        yield {name: values[start : start + size] for name, values in table.items()}


def first_alarms(baseline: Table, after: list[Table]) -> tuple[list[int], list[int]]:
    """The windows with an alarm: by bascule, and by KS and Bonferroni."""
    then = profile_of(baseline)
    watch, plain = ModelWatch({"input": then}, BUDGET), Plain(then)
    found: tuple[list[int], list[int]] = ([], [])
    for place, window in enumerate(after):
        now = profile_of(window)
        if watch.judge({"input": now}).alarms:
            found[0].append(place)
        if plain.alarms(now):
            found[1].append(place)
    return found


def harm_alarms(
    losses: NDArray[np.float64], bins: NDArray[np.int64], held_out: int, columns: int
) -> list[int]:
    """The windows after the held-out rows in which the loss raises an alarm."""
    count = int(bins.max()) + 1
    bounds = risk_bounds(losses[:held_out], bins[:held_out], count, 0.05)
    level = BUDGET / YEAR / (columns + 1) / 2
    detector, found = HarmDetector(bounds), []
    then = float(losses[:held_out].mean())
    for place, start in enumerate(range(held_out, len(losses) - WINDOW + 1, WINDOW)):
        part = slice(start, start + WINDOW)
        rows = np.bincount(bins[part], minlength=count)
        sums = np.bincount(bins[part], losses[part], count).astype(float)
        evidence = detector.add(rows, sums)
        if evidence >= math.log(1 / level) and sums.sum() / rows.sum() - then >= 0.02:
            found.append(place)
            detector.restart()
    return found


def delay(alarms: list[int], change: int, size: int) -> float:
    """Rows from the change to the end of the first alarm's window; infinite without one."""
    return min(
        ((place + 1) * size - change for place in alarms if (place + 1) * size > change),
        default=math.inf,
    )


def of_stream(file: Path, folder: Path) -> tuple[str, dict[str, float], dict[str, int]]:
    """Delays by method, and alarms before the change."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    data = np.load(file)
    X, y, change = data["X"], data["y"], int(data["change"])
    model = HistGradientBoostingClassifier(random_state=0).fit(X[:TRAINED], y[:TRAINED])
    shares = model.predict_proba(X[TRAINED:])
    losses = (model.classes_[shares.argmax(axis=1)] != y[TRAINED:]).astype(float)
    scores = shares.max(axis=1)
    count = bin_count(HELD_OUT)
    edges = np.unique(np.quantile(scores[:HELD_OUT], np.arange(1, count) / count))
    bins = np.searchsorted(edges, scores, side="right")
    table = {f"x{place}": X[:, place] for place in range(X.shape[1])}
    start = TRAINED + HELD_OUT
    baseline = {name: values[:TRAINED] for name, values in table.items()}
    after = list(windows_of({n: v[start:] for n, v in table.items()}, WINDOW))
    ours, plain = first_alarms(baseline, after)
    harm = harm_alarms(losses, bins, HELD_OUT, len(table))
    level = BUDGET / YEAR / (len(table) + 1) / 2
    np.savez(folder / f"losses-{file.stem}.npz", losses=losses[HELD_OUT:], delta=level)
    alarms = {"inputs": ours, "loss": harm, "KS": plain}
    offset = change - start
    return (
        str(data["name"]),
        {name: delay(one, offset, WINDOW) for name, one in alarms.items()},
        {name: sum((p + 1) * WINDOW <= offset for p in one) for name, one in alarms.items()},
    )


def streams(folder: Path) -> Iterator[str]:
    yield "| stream (what changes) | bascule, inputs | bascule, loss | KS and Bonferroni |"
    yield "|---|---|---|---|"
    files = sorted(folder.glob("stream-*.npz"))
    for _, group in groupby(files, lambda file: file.stem.split("-")[1]):
        runs = [of_stream(file, folder) for file in group]
        cells = [
            f"{_rows(median(delays[how] for _, delays, _ in runs))} "
            f"({sum(before[how] for _, _, before in runs)})"
            for how in ("inputs", "loss", "KS")
        ]
        yield f"| {runs[0][0]} | {' | '.join(cells)} |"


def _rows(delay_: float) -> str:
    return f"{delay_:,.0f}" if math.isfinite(delay_) else "not found"


def harm(years: int = 200) -> Iterator[str]:
    """False alarms of the loss, and days until a harm is found; 30 other columns share the budget.

    A year has held-out rows and daily windows of its own. On days that are not alike, the log odds
    of a loss have a normal effect of the day.
    """
    yield "| held-out rows | rows a day | days | false alarms a year | days to find + 5 points |"
    yield "|---|---|---|---|---|"
    for held_out, rows, effect in (
        (1_000, 50, 0.0), (1_000, 500, 0.0), (10_000, 500, 0.0), (10_000, 5_000, 0.0),
        (1_000, 500, 0.3), (10_000, 500, 0.3), (10_000, 5_000, 0.3),
    ):  # fmt: skip
        random, alarms, waits = np.random.default_rng(1), 0, []
        for _ in range(years):
            alarms += len(_harm_year(random, held_out, rows, effect, 0.0))
            found = _harm_year(random, held_out, rows, effect, 0.05)
            waits.append(found[0] + 1 if found else math.inf)
        days = f"log odds vary by {effect:g}" if effect else "alike"
        wait = median(waits)
        yield (
            f"| {held_out:,} | {rows:,} | {days} | {alarms / years:.2f} | "
            f"{f'{wait:.0f}' if math.isfinite(wait) else 'not in a year'} |"
        )


_RATES = np.array([0.35, 0.22, 0.12, 0.06, 0.02])
"""The chance of a loss in five bins of the prediction."""


def _harm_year(
    random: np.random.Generator, held_out: int, rows: int, effect: float, more: float
) -> list[int]:
    """The days of a year on which the loss raises an alarm; it is `more` higher on all of them."""
    fifths, count = random.integers(0, 5, held_out), bin_count(held_out)
    losses = (random.random(held_out) < _RATES[fifths]).astype(float)
    of_fifth = np.arange(5) * count // 5
    detector = HarmDetector(risk_bounds(losses, of_fifth[fifths], count, 0.05))
    limit, then, found = math.log(YEAR * 31 * 2 / BUDGET), float(losses.mean()), []
    odds = np.log(_RATES / (1 - _RATES))
    for day in range(YEAR):
        rates = 1 / (1 + np.exp(-odds - effect * random.normal())) + more
        counts = random.multinomial(rows, [0.2] * 5)
        sums = random.binomial(counts, np.minimum(1, rates)).astype(float)
        rows_of, lost = (np.bincount(of_fifth, one, count) for one in (counts, sums))
        if (
            detector.add(rows_of.astype(np.int64), lost.astype(float)) >= limit
            and sums.sum() / rows - then >= 0.02
        ):
            found.append(day)
            detector.restart()
    return found


def census(folder: Path, size: int = 500) -> Iterator[str]:
    """Each year's rows are in no order in time; so windows are random rows of a year."""
    import pandas as pd

    data = folder / "nannyml" / "datasets" / "data"
    reference = pd.read_parquet(data / "employment_MA_reference.pq")
    later = pd.read_parquet(data / "employment_MA_analysis.pq")
    names = [name for name in reference.columns if name not in
             ("id", "employed", "year", "prediction", "predicted_probability")]  # fmt: skip
    random = np.random.default_rng(0)
    order = random.permutation(len(reference))
    baseline = _columns(reference.iloc[order[:20_000]], names)
    yield "| rows of | windows | with an alarm: bascule | KS and Bonferroni |"
    yield "|---|---|---|---|"
    parts = {"2015, the rest": reference.iloc[order[20_000:]]}
    parts |= {
        str(year): rows.sample(frac=1, random_state=0) for year, rows in later.groupby("year")
    }
    for name, rows in parts.items():
        after = list(windows_of(_columns(rows, names), size))
        ours, plain = first_alarms(baseline, after)
        yield f"| {name} | {len(after)} | {len(ours)} | {len(plain)} |"


def _columns(table: Any, names: list[str]) -> Table:
    return {
        name: table[name].to_numpy(float)
        if table[name].dtype.kind == "f"
        else table[name].astype(object).to_numpy()
        for name in names
    }


def flights() -> Iterator[str]:
    from bench.drift_flights import NUMBERS, TEXTS, flights as read

    table = read()
    days = table.time_hour.astype(str).str[:10]
    columns = _columns(table, NUMBERS + TEXTS)
    first = (days < "2013-02-01").to_numpy()
    baseline = {name: values[first] for name, values in columns.items()}
    then = profile_of(baseline)
    watch, plain = ModelWatch({"input": then}, BUDGET), Plain(then)
    found: dict[str, list[str]] = {"bascule": [], "KS": []}
    kept = sorted(set(days[~first]))
    for day in kept:
        chosen = (days == day).to_numpy()
        now = profile_of({name: values[chosen] for name, values in columns.items()})
        if watch.judge({"input": now}, date.fromisoformat(day)).alarms:
            found["bascule"].append(day)
        if plain.alarms(now):
            found["KS"].append(day)
    yield "| days | of | with an alarm: bascule | KS and Bonferroni |"
    yield "|---|---|---|---|"
    for name, part in (("the first 56", kept[:56]), ("later", kept[56:])):
        counts = [sum(day in part for day in one) for one in found.values()]
        yield f"| {name} | {len(part)} | {counts[0]} | {counts[1]} |"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=Path, help="the folder that drift_streams.py wrote")
    parser.add_argument("--nannyml", type=Path, help="the folder of nannyml's unpacked wheel")
    asked = parser.parse_args(arguments)
    tables = [harm(), flights()]
    if asked.streams is not None:
        tables.append(streams(asked.streams))
    if asked.nannyml is not None:
        tables.append(census(asked.nannyml))
    for table in tables:
        for line in table:
            print(line, flush=True)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
