"""False alarms and power of `bascule drift`, by simulation: `make bench-drift`.

A year is 365 windows without drift. A latent normal value makes each value of a column, so one
shift of all rows of a window, in deviations, is what makes windows depend on one another. Every
test of numbers is of ranks, so heavy tails are the same draws (`test_bench_drift.py` holds that).
Windows of 50,000 rows are drawn from the law of their sketch (gamma spacings between the values
that it keeps), not row by row; `by_rows` judges one cell of each stream row by row, through
`ColumnWatch`, and its rate stands beside that of the same cell.

Years of columns are simulated, by `bench.drift_years`, and each is judged at the levels of 5, 30
and 200 columns with the default budget and effects: alarms a year are those of one column times
the columns. `--minutes` is the time for all cells together, in as many processes as there are
processors; a cell says of how many years it is. Evidently and NannyML run in environments of
their own.
"""

from __future__ import annotations

import argparse
import base64
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bascule.monitoring import Budget, ColumnWatch, Effect
from bascule.stats import ColumnProfile, NumberBaseline
from bascule.stats.tails import kolmogorov_tail

Floats = NDArray[np.float64]

ROWS = (50, 500, 5_000, 50_000)
BASELINE_ROWS = 20_000
BASELINES = (30, 100, 500, 100_000)
WINDOWS = 365
COLUMNS = (5, 30, 200)
BUDGET = 4.0
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
            drawn = np.flatnonzero(counts)
            made.frequent.add([f"v{place}" for place in drawn], counts[drawn])
            return
        levels = np.arange(len(counts), dtype=np.float64)
        made.quantiles.add(np.repeat(levels, counts))
        made.frequent.counts = {float(i): int(n) for i, n in enumerate(counts) if n}
        there = levels[counts > 0]
        made.moments.rows, made.moments.least, made.moments.most = rows, there[0], there[-1]


def shares_of_levels(shares: tuple[float, ...], shifts: Floats) -> Floats:
    """The shares of levels where the latent value is shifted. Shape (shifts, levels)."""
    cuts = latent(np.minimum(np.cumsum(shares)[:-1], 1 - 1e-12))
    reached = np.interp(cuts - shifts[:, None], _GRID, _GRID_SHARES)
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
    """32 columns: what tables have, rare and many categories and missing values among it."""
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
    (tuple(1 / k / 5.878 for k in range(1, 201)), 0.0),
    (tuple([0.001] * 1_000), 0.0),
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


def daily(windows: int, random: np.random.Generator) -> Floats:
    """Hours: 0.1 deviations up and down by the time of the day."""
    return 0.1 * np.sin((np.arange(windows) + random.integers(24)) * math.pi / 12)


@dataclass(frozen=True)
class Stream:
    """How windows depend on one another: the shifts of their rows, and whether they are days."""

    shifts: Callable[[int, np.random.Generator], Floats]
    dated: bool = True


STREAMS = {
    "independent tables": Stream(independent, dated=False),
    "independent days": Stream(independent),
    "days, AR(.7)": Stream(autoregressive),
    "days, weekend": Stream(weekly),
    "days, AR(.7) and weekend": Stream(both),
    "hours, day cycle": Stream(daily, dated=False),
    "tables, AR(.7) and weekend": Stream(both, dated=False),
}


def by_rows(stream: str, rows: int, years: int, random: np.random.Generator) -> dict[str, int]:
    """Alarms of columns whose windows are made row by row, with heavy tails, by `ColumnWatch`."""
    counts: dict[str, int] = {}
    for column in [Column(), Column(shares=columns()[15].shares)]:
        for _ in range(years):
            then = random.normal(size=BASELINE_ROWS)
            watch = ColumnWatch(_of_rows(column, then), Budget(BUDGET, WINDOWS, COLUMNS[1], 2))
            shifts = STREAMS[stream].shifts(WINDOWS, random)
            for day in range(WINDOWS):
                window = _of_rows(column, random.normal(shifts[day], 1, rows))
                dated = _START + timedelta(days=day) if STREAMS[stream].dated else None
                for test in watch.judge(window, dated):
                    counts[test.name] = counts.get(test.name, 0) + test.is_alarm
    return counts


def _of_rows(column: Column, values: Floats) -> ColumnProfile:
    made = ColumnProfile("number")
    if column.shares:
        cuts = latent(np.minimum(np.cumsum(column.shares)[:-1], 1 - 1e-12))
        made.add(np.searchsorted(cuts, values).astype(float))
    else:
        made.add(np.sinh(3 * values))
    return made


# -- power --


def _alarms(
    test: str, column: Column, rows: int, change: Callable[..., ColumnProfile], runs: int
) -> str:
    random = np.random.default_rng(5)
    budget = Budget(1, WINDOWS, COLUMNS[1])
    found = plain = later = 0
    for _ in range(runs):
        baseline = column.draw(BASELINE_ROWS, 0.0, random)
        window = change(column, rows, random)
        tests = ColumnWatch(baseline, budget, Effect(0, 0, 0)).judge(window)
        found += any(one.is_alarm for one in tests)
        watch = ColumnWatch(baseline, budget, Effect(0, 0, 0))
        for _quiet in range(56):
            watch.judge(column.draw(rows, 0.0, random))
        later += any(one.is_alarm for one in watch.judge(window))
        if not column.is_text:
            distance = NumberBaseline(baseline).score(window).distance
            n = window.quantiles.rows
            plain += (
                kolmogorov_tail(distance, n * BASELINE_ROWS / (n + BASELINE_ROWS)) < budget.level
            )
    return f"| {test} | {rows} | {plain / runs:.2f} | {found / runs:.2f} | {later / runs:.2f} |"


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
    yield "| change | rows | KS and Bonferroni | bascule, first window | after 56 quiet windows |"
    yield "|---|---|---|---|---|"
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
        budget = Budget(1, WINDOWS, COLUMNS[1], 2)
        watch = ColumnWatch(Column().draw(BASELINE_ROWS, 0.0, random), budget, Effect(0.05))
        waited = most
        for day in range(most):
            tests = watch.judge(Column().draw(rows, 0.1, random))
            if any(one.is_alarm for one in tests):
                waited = day + 1
                break
        found.append(waited)
    return float(np.median(found))


def found_within(
    baseline_rows: int, rows: int, runs: int, windows: int = 3, shift: float = 0.5
) -> Iterator[str]:
    """How often a shift of one column is found within some windows, from the first one on."""
    random = np.random.default_rng(7)
    hits = dict.fromkeys(COLUMNS, 0)
    for _ in range(runs):
        baseline = Column().draw(baseline_rows, 0.0, random)
        drawn = [Column().draw(rows, shift, random) for _ in range(windows)]
        for count in COLUMNS:
            watch = ColumnWatch(baseline, Budget(BUDGET, WINDOWS, count, 2))
            hits[count] += any(one.is_alarm for w in drawn for one in watch.judge(w))
    shares = " | ".join(f"{hits[count] / runs:.0%}" for count in COLUMNS)
    yield f"| {baseline_rows:,} | {rows:,} | {shares} |"


def peers(windows: int) -> Iterator[str]:
    """Evidently's and NannyML's defaults on the same kinds of columns, or why they did not run."""
    from bench import environments

    here = Path(__file__).parent
    yield "| without drift | rows | windows | with an alarm, of 365 |\n|---|---|---|---|"
    for name, made_from in (("evidently", "drift"), ("nannyml", "drift_nannyml")):
        locked, folder = here / "peers" / f"{made_from}.txt", Path("build/peers") / made_from
        try:
            if not environments.is_made(folder, locked):
                environments.make(folder, locked)
            command = [environments.python_of(folder), here / "peers" / f"drift_{name}.py"]
            done = subprocess.run(
                [*map(str, command), str(windows)], capture_output=True, text=True, timeout=1_200,
                check=False,
            )  # fmt: skip
            yield done.stdout.strip() or f"{name}: {environments.last_line(done.stderr)}"
        except (environments.CannotBeMade, subprocess.TimeoutExpired) as problem:
            yield f"{name}: not measured: {problem}"


def main(arguments: list[str] | None = None) -> int:
    from bench.drift_years import grid, report

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=50.0, help="of the grid")
    parser.add_argument("--years", type=int, default=200, help="of each cell, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--power-runs", type=int, default=300)
    parser.add_argument("--check-years", type=int, default=2, help="of columns made row by row")
    parser.add_argument("--peer-windows", type=int, default=10, help="0: without the peers")
    parser.add_argument("--to", type=Path, help="keeps the counts, and goes on from them")
    asked = parser.parse_args(arguments)
    for line in power(asked.power_runs):
        print(line, flush=True)
    print("\n| baseline | rows | " + " | ".join(f"{count} columns" for count in COLUMNS) + " |")
    print("|---|---|---|---|---|")
    for baseline_rows, rows in ((500, 500), (500, 5_000), (20_000, 50), (20_000, 500)):
        for line in found_within(baseline_rows, rows, asked.power_runs):
            print(line, flush=True)
    print()
    if asked.check_years:
        for stream in STREAMS:
            random = np.random.default_rng(asked.seed)
            alarms = sum(by_rows(stream, 500, asked.check_years, random).values())
            years = 2 * asked.check_years
            print(f"row by row, {stream}, 500 rows, {years} years of a column: {alarms} alarms")
    for line in report(grid(asked.minutes, asked.years, asked.seed, asked.to)):
        print(line, flush=True)
    if asked.peer_windows:
        for line in peers(asked.peer_windows):
            print(f"\n{line}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
