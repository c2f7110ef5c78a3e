"""False alarms and power of `bascule drift`, by simulation: `make bench-drift`.

A year is 365 daily windows of 30 columns without drift: 20 of numbers and 10 of categories. A
latent normal value makes each value of a column, so one shift of all rows of a day, in deviations,
is what makes days depend on one another. Windows of 50,000 rows are drawn from the law of their
sketch (gamma spacings between the values that it keeps), not row by row.

Alarms are counted per column and window, with the interval of Clopper and Pearson. One process;
`--minutes` is the processor time for all cells together.
"""

from __future__ import annotations

import argparse
import base64
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bascule.monitoring import Budget, ColumnWatch, Effect
from bascule.stats import ColumnProfile, NumberBaseline, exact_interval
from bascule.stats.tails import kolmogorov_tail

Floats = NDArray[np.float64]

ROWS = (50, 500, 5_000, 50_000)
BASELINE_ROWS = 20_000
WINDOWS = 365
COLUMNS = 30
BURN_IN = 56
SHIFT = 0.05
"""The deviation of the days' means, in deviations of the rows, where days are not independent."""

_EXACT_ROWS = 5_000
_NORMAL = NormalDist()
_START = date(2026, 1, 5)  # a Monday


@dataclass(frozen=True)
class Column:
    """One column: numbers without ties, or levels by the cuts of the latent value."""

    skewed: bool = False
    shares: tuple[float, ...] = ()
    is_text: bool = False
    missing: float = 0.0

    def draw(self, rows: int, shift: float, random: np.random.Generator) -> ColumnProfile:
        made = ColumnProfile("text" if self.is_text else "number")
        made.rows = rows
        made.missing = int(random.binomial(rows, self.missing)) if self.missing else 0
        present = rows - made.missing
        if self.shares:
            self._draw_levels(made, present, shift, random)
        else:
            _draw_numbers(made, present, shift, random, skewed=self.skewed)
        return made

    def _draw_levels(
        self, made: ColumnProfile, rows: int, shift: float, random: np.random.Generator
    ) -> None:
        counts = random.multinomial(rows, shares_of_levels(self.shares, np.array([shift]))[0])
        if self.is_text:
            made.frequent.counts = {f"v{i}": int(n) for i, n in enumerate(counts) if n}
            return
        levels = np.arange(len(counts), dtype=np.float64)
        made.quantiles.add(np.repeat(levels, counts))
        made.frequent.counts = {float(i): int(n) for i, n in enumerate(counts) if n}
        there = levels[counts > 0]
        made.moments.rows, made.moments.least, made.moments.most = rows, there[0], there[-1]


def shares_of_levels(shares: tuple[float, ...], shifts: Floats) -> Floats:
    """The shares of levels where the latent value is shifted. Shape (shifts, levels)."""
    cuts = [_NORMAL.inv_cdf(min(one, 1 - 1e-12)) for one in np.cumsum(shares)[:-1]]
    moved = np.array(cuts) - shifts[:, None]
    reached = np.array([_NORMAL.cdf(one) for one in moved.ravel()]).reshape(moved.shape)
    return np.diff(reached, prepend=0.0, append=1.0)


def _draw_numbers(
    made: ColumnProfile, rows: int, shift: float, random: np.random.Generator, *, skewed: bool
) -> None:
    group = 1
    if rows > _EXACT_ROWS:
        group = 1 << math.ceil(math.log2(rows / 512))
    kept = rows // group
    ends = np.cumsum(
        random.gamma(group, size=kept + 1) if group > 1 else random.exponential(size=rows + 1)
    )
    shares = ends[:-1] / ends[-1]
    values, extremes = shares, np.array([shares[0], shares[-1]])
    if group > 1:  # the extremes lie inside of the outer spacings
        inside = random.beta(1, group - 1, 2)
        extremes = np.array([shares[0] * inside[0], 1 - (1 - shares[-1]) * inside[1]])
    values, extremes = latent(values) + shift, latent(extremes) + shift
    if skewed:
        values, extremes = np.exp(values), np.exp(extremes)
    if group == 1:
        made.quantiles.add(values)
    else:
        levels = [{"level": int(math.log2(group)), "values": base64.b64encode(values).decode()}]
        made.quantiles = type(made.quantiles).from_json(
            {"rows": kept * group, "error": group // 2, "uppers": [], "levels": levels}
        )
    made.moments.rows, made.moments.least, made.moments.most = (
        rows,
        float(extremes[0]),
        float(extremes[1]),
    )
    made.frequent.error = 1  # more values than are kept


_GRID = np.linspace(-6, 6, 20_001)
_GRID_SHARES = np.array([_NORMAL.cdf(one) for one in _GRID])


def latent(shares: Floats) -> Floats:
    found: Floats = np.interp(shares, _GRID_SHARES, _GRID)
    return found


def columns() -> list[Column]:
    """30 columns: what tables have, rare categories and missing values among it."""
    poisson = tuple(math.exp(-3) * 3**k / math.factorial(k) for k in range(12))
    zeros = (0.7, *([0.015] * 20))
    return [
        *[Column(missing=share) for share in (0, 0, 0, 0, 0, 0.001, 0.01, 0.05, 0.2, 0.5)],
        *[Column(skewed=True, missing=share) for share in (0, 0, 0, 0.01, 0.3)],
        *[Column(shares=poisson), Column(shares=poisson, missing=0.02), Column(shares=zeros)],
        *[Column(shares=(0.8, 0.2)), Column(shares=(0.995, 0.005))],
        *[Column(shares=one, is_text=True, missing=miss) for one, miss in _TEXTS],
    ]


_TEXTS = (
    ((0.5, 0.3, 0.2), 0.0),
    ((0.9, 0.06, 0.04), 0.01),
    ((0.98, 0.01, 0.01), 0.0),
    ((0.94, *([0.01] * 6)), 0.0),
    ((0.5, *([0.025] * 20)), 0.1),
    (tuple([1 / 12] * 12), 0.0),
    (tuple(0.35 * 0.65**k for k in range(30)), 0.0),
    (tuple([0.02] * 50), 0.0),
    ((0.97, 0.03), 0.0),
    ((0.6, 0.4), 0.3),
)


def independent(_days: int, _random: np.random.Generator) -> Floats:
    return np.zeros(_days)


def autoregressive(days: int, random: np.random.Generator, phi: float = 0.7) -> Floats:
    made = random.normal(size=days) * SHIFT
    for day in range(1, days):
        made[day] = phi * made[day - 1] + math.sqrt(1 - phi * phi) * made[day]
    return made


def weekly(days: int, random: np.random.Generator) -> Floats:
    """Saturdays and Sundays are 0.1 deviations off, the other days level."""
    side = float(random.choice([-1, 1]))
    return np.where(np.arange(days) % 7 >= 5, 0.1 * side, 0.0)


def both(days: int, random: np.random.Generator) -> Floats:
    return autoregressive(days, random) + weekly(days, random)


UNDATED = "independent, without dates"
KINDS: dict[str, Callable[[int, np.random.Generator], Floats]] = {
    UNDATED: independent,
    "independent": independent,
    "AR(.7)": autoregressive,
    "weekend": weekly,
    "AR(.7) and weekend": both,
}


@dataclass
class Counted:
    """What a cell of the table has seen; windows before the 57th apart."""

    years: float = 0.0
    early: int = 0
    early_tests: int = 0
    late: int = 0
    late_tests: int = 0
    early_mattering: int = 0
    late_mattering: int = 0
    by_test: dict[str, int] = field(default_factory=dict)
    psi: int = 0
    plain: int = 0
    plain_windows: int = 0

    def add(self, late: bool, alarms: list[str], *, mattering: bool) -> None:
        for name in alarms:
            self.by_test[name] = self.by_test.get(name, 0) + 1
        hit = bool(alarms)
        if late:
            self.late_tests += 1
            self.late += hit
            self.late_mattering += mattering
        else:
            self.early_tests += 1
            self.early += hit
            self.early_mattering += mattering


def a_year(
    counted: Counted, rows: int, kind: str, budget: float, random: np.random.Generator
) -> None:
    """One baseline and its 365 windows. The limits of effects are applied afterwards as well."""
    split = Budget(budget, WINDOWS, COLUMNS, 2)
    plain_hits = np.zeros((2, WINDOWS), bool)
    is_plain = kind == UNDATED and counted.years < 2
    for column in columns():
        baseline = column.draw(BASELINE_ROWS, 0.0, random)
        watch = ColumnWatch(baseline, split, Effect(0, 0, 0))
        limits = Effect()
        shifts = KINDS[kind](WINDOWS, random)
        plain = NumberBaseline(baseline) if is_plain and not column.shares else None
        for day in range(WINDOWS):
            window = column.draw(rows, float(shifts[day]), random)
            dated = None if kind == UNDATED else _START + timedelta(days=day)
            tests = watch.judge(window, dated)
            alarms = [one for one in tests if one.is_alarm]
            mattering = any(abs(one.effect) >= limits.limit(one.name) for one in alarms)
            counted.add(
                dated is not None and day >= BURN_IN,
                [one.name for one in alarms],
                mattering=mattering,
            )
            if plain is not None:
                plain_hits[:, day] |= _plain(plain, baseline, window)
    counted.years += 1
    if is_plain:
        counted.psi += int(plain_hits[0].sum())
        counted.plain += int(plain_hits[1].sum())
        counted.plain_windows += WINDOWS


def _plain(
    prepared: NumberBaseline, baseline: ColumnProfile, window: ColumnProfile
) -> tuple[bool, bool]:
    """The two rules in common use: PSI of ten bins over 0.2, and a KS test at 5 % a column."""
    edges = baseline.quantiles.quantiles([place / 10 for place in range(1, 10)])
    shares = []
    for one in (baseline, window):
        values, weights = one.quantiles.weighted()
        counts = np.bincount(np.searchsorted(edges, values), weights, 10)
        shares.append((counts + 0.5) / (counts.sum() + 5))
    psi = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    n, others = window.quantiles.rows, baseline.quantiles.rows
    distance = prepared.score(window).distance
    return psi > 0.2, kolmogorov_tail(distance, n * others / (n + others)) < 0.05


def false_alarms(minutes: float, budget: float, seed: int) -> dict[tuple[str, int], Counted]:
    cells = {(kind, rows): Counted() for kind in KINDS for rows in ROWS}
    random = np.random.default_rng(seed)
    end = time.process_time() + minutes * 60
    try:
        while time.process_time() < end:
            for (kind, rows), counted in cells.items():
                a_year(counted, rows, kind, budget, random)
                if time.process_time() > end:
                    break
    except KeyboardInterrupt:  # what is there is reported
        pass
    return cells


def report(cells: dict[tuple[str, int], Counted], budget: float) -> Iterator[str]:
    yield f"Budget {budget:g} false alarms a year, {COLUMNS} columns, {WINDOWS} windows a year; "
    yield "alarms a year by the level alone [95 % interval], and those whose effect matters."
    yield ""
    yield (
        "| days | rows | years | beside the baseline | beside weekdays | that matter, beside the "
        "baseline | beside weekdays |"
    )
    yield "|---|---|---|---|---|---|---|"
    for (kind, rows), one in cells.items():
        if one.years:
            yield (
                f"| {kind} | {rows:,} | {one.years:.0f} | {_rate(one.early, one.early_tests)} "
                f"| {_rate(one.late, one.late_tests)} "
                f"| {_rate(one.early_mattering, one.early_tests)} "
                f"| {_rate(one.late_mattering, one.late_tests)} |"
            )
    yield ""
    yield "| rows | PSI > 0.2, windows a year | KS p < .05 a column, windows a year |"
    yield "|---|---|---|"
    for (kind, rows), one in cells.items():
        if kind == UNDATED and one.plain_windows:
            years = one.plain_windows / WINDOWS
            yield f"| {rows:,} | {one.psi / years:.0f} | {one.plain / years:.0f} |"
    yield ""
    for (kind, rows), one in cells.items():
        yield f"{kind}, {rows:,}: {one.by_test}"


def _rate(alarms: int, tests: int) -> str:
    if not tests:
        return "-"
    low, high = exact_interval(alarms, tests)
    a_year_ = WINDOWS * COLUMNS
    return f"{alarms / tests * a_year_:.2f} [{low * a_year_:.2f}, {high * a_year_:.2f}]"


# -- power --


def _alarms(
    test: str, column: Column, rows: int, change: Callable[..., ColumnProfile], runs: int
) -> str:
    random = np.random.default_rng(5)
    budget = Budget(1, WINDOWS, COLUMNS)
    found = plain = 0
    for _ in range(runs):
        baseline = column.draw(BASELINE_ROWS, 0.0, random)
        window = change(column, rows, random)
        tests = ColumnWatch(baseline, budget, Effect(0, 0, 0)).judge(window)
        found += any(one.is_alarm for one in tests)
        if not column.is_text:
            distance = NumberBaseline(baseline).score(window).distance
            n = window.quantiles.rows
            plain += (
                kolmogorov_tail(distance, n * BASELINE_ROWS / (n + BASELINE_ROWS)) < budget.level
            )
    return f"| {test} | {rows} | {plain / runs:.2f} | {found / runs:.2f} |"


def _shifted(by: float) -> Callable[..., ColumnProfile]:
    return lambda column, rows, random: column.draw(rows, by, random)


def _wider(_column: Column, rows: int, random: np.random.Generator) -> ColumnProfile:
    made = ColumnProfile("number")
    made.add(random.normal(size=rows) * 1.2)
    return made


def _unseen(column: Column, rows: int, random: np.random.Generator) -> ColumnProfile:
    fresh = int(random.binomial(rows, 0.01))
    made = column.draw(rows - fresh, 0.0, random)
    made.rows = rows
    made.frequent.counts["new"] = fresh
    return made


def _gone(column: Column, rows: int, random: np.random.Generator) -> ColumnProfile:
    gone = int(random.binomial(rows, 0.02))
    made = column.draw(rows - gone, 0.0, random)
    made.rows, made.missing = rows, gone
    return made


def power(runs: int) -> Iterator[str]:
    text = Column(shares=(0.5, 0.3, 0.2), is_text=True)
    yield "| change | rows | KS and Bonferroni | bascule |"
    yield "|---|---|---|---|"
    yield _alarms("shift of .5 deviations", Column(), 50, _shifted(0.5), runs)
    yield _alarms("shift of .2 deviations", Column(), 500, _shifted(0.2), runs)
    yield _alarms("deviation x 1.2", Column(), 500, _wider, runs)
    yield _alarms("1 % unseen", text, 500, _unseen, runs)
    yield _alarms("missing 0 to 2 %", Column(), 50, _gone, runs)
    yield ""
    yield "| a lasting shift of .1 deviations | rows | median windows until an alarm |"
    yield "|---|---|---|"
    for rows in (50, 500):
        yield f"| slow detector | {rows} | {_windows_until(rows, runs // 10):.0f} |"


def _windows_until(rows: int, runs: int, most: int = 120) -> float:
    random = np.random.default_rng(6)
    found = []
    for _ in range(runs):
        watch = ColumnWatch(
            Column().draw(BASELINE_ROWS, 0.0, random), Budget(1, WINDOWS, COLUMNS, 2), Effect(0.05)
        )
        waited = most
        for day in range(most):
            tests = watch.judge(Column().draw(rows, 0.1, random))
            if any(one.is_alarm for one in tests):
                waited = day + 1
                break
        found.append(waited)
    return float(np.median(found))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--budget", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--power-runs", type=int, default=1_000)
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for line in power(asked.power_runs):
        print(line, flush=True)
    print()
    for line in report(false_alarms(asked.minutes, asked.budget, asked.seed), asked.budget):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
