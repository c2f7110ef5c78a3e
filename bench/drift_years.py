"""False alarms of drift in hundreds of simulated years: `python -m bench.drift_years`.

`bench.drift` judges window after window by `ColumnWatch`, a year in 3 s. Here many years go in
step. What a watch keeps from window to window (the history of weekdays, slow detectors,
overdispersion) is one array over all years. A window is judged by the tests of `ColumnWatch`
itself, if a statistic is so large that any of its p-values may be under 1e-3; all others cannot
raise an alarm.

Windows have the law of their sketch: above 512 values, one order statistic of each group. As many
values are missing as drawn, but the numbers of a window are as many as are expected.
`test_bench_drift.py` compares the alarms with those of `ColumnWatch`, window by window.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import sys
import time
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.monitoring import Budget, ColumnWatch, Effect
from bascule.monitoring.drift import Test
from bascule.monitoring.drift.deciding import (
    MAX_EARLY_OVERDISPERSION,
    MAX_OVERDISPERSION,
    MAX_SLOW_CORRELATION,
)
from bascule.stats import WINDOWS, ColumnProfile, Scores, WeekdayOutcome
from bascule.stats.detectors import ALARMABLE_CORRELATION, weekday_statistics
from bascule.stats.tails import student_tail
from bench.drift import (
    BASELINE_ROWS,
    BURN_IN,
    COLUMNS,
    KINDS,
    ROWS,
    UNDATED,
    WINDOWS as DAYS,
    Column,
    Counted,
    columns,
    latent,
    report,
    shares_of_levels,
)

Floats = NDArray[np.float64]
_START = date(2026, 1, 5)
_CLOSE_LOCATION, _CLOSE_SPREAD, _CLOSE_KS, _CLOSE_T, _CLOSE_MISSING = 3.0, 2.4, 1.75, 3.5, 3.0
"""Standard errors, and root n times the distance: p-values of about 1e-3 to 1e-2."""

_SLOW = 28


class Numbers:
    """Continuous values; monotone transformations change no test."""

    def __init__(
        self, column: Column, rows: int, watches: list[ColumnWatch], random: np.random.Generator
    ) -> None:
        self._random, self._rows, self._missing = random, rows, column.missing
        self._watches = watches
        present = round(rows * (1 - column.missing))
        self._group = 1 << max(0, math.ceil(math.log2(present / 512)))
        self._kept = present // self._group
        self.present = self._kept * self._group
        made: list[Any] = [watch._numbers for watch in watches]
        self._latents = np.array([one._values for one in made])
        reached = [np.append(0, one._reached[1:]) for one in made]
        self._reached = np.array(reached)
        self._scores = np.array([_score_by_place(one) for one in made])
        self._others, self._ends = made[0].rows, _ends(watches)
        self._rank_slack = self._group // 2 / self.present + made[0].error / self._others
        self.slack = self._rank_slack * np.array([one._reach for one in made])
        self._error_spread = np.array(
            [math.sqrt(one.spread_law.cumulants(0.0)[2]) for one in made]
        ) * math.sqrt(1 / self.present + 1 / self._others)
        self._error = math.sqrt(1 / self.present + 1 / self._others)

    def draw(self, shifts: Floats) -> NDArray[np.bool_]:
        years, g, kept = len(self._watches), self._group, self._kept
        self._shifts = shifts
        if g == 1:
            self._shares = np.sort(self._random.random((years, kept)), axis=1)
            self._extremes = self._shares[:, [0, -1]]
        else:
            shapes = np.full(kept + 1, float(g))
            shapes[0], shapes[-1] = g // 2 + 1, g // 2
            ends = np.cumsum(self._random.standard_gamma(shapes, (years, kept + 1)), axis=1)
            self._shares = ends[:, :-1] / ends[:, -1:]
            low = self._shares[:, 0] * self._random.beta(1, g // 2, years)
            top = (1 - self._shares[:, -1]) * self._random.beta(1, max(1, g // 2 - 1), years)
            self._extremes = np.column_stack([low, 1 - top])
        self.missing = self._random.binomial(self._rows, self._missing, years)
        places = self._places()
        scores = np.take_along_axis(self._scores, places, 1)
        self.location, self.spread = scores.mean(axis=1), (scores**2).mean(axis=1) - 1
        at = np.take_along_axis(self._reached, places, 1)
        reached = np.arange(kept + 1) / kept
        distance = np.maximum((reached[1:] - at).max(axis=1), (at - reached[:-1]).max(axis=1))
        root = math.sqrt(self.present * self._others / (self.present + self._others))
        is_close = (distance - self._rank_slack) * root > _CLOSE_KS
        is_close |= np.abs(self.location) > _CLOSE_LOCATION * self._error
        is_close |= np.abs(self.spread) > _CLOSE_SPREAD * self._error_spread
        self._count_outside()
        return np.asarray(is_close)

    def _places(self) -> NDArray[np.int64]:
        """How many values of the baseline are below each."""
        years = np.arange(len(self._watches))[:, None]
        base = _share(self._latents - self._shifts[:, None]) + years
        found = np.searchsorted(base.ravel(), (self._shares + years).ravel())
        return np.asarray(found.reshape(self._shares.shape) - years * base.shape[1])

    def _count_outside(self) -> None:
        """As `range_test` counts: the certain part of those beyond the baseline's extremes."""
        low, high = _share(self._ends - self._shifts[:, None]).T
        kept, g = self._shares, self._group
        over = np.where(
            self._extremes[:, 1] > high,
            np.maximum(1, (kept > high[:, None]).sum(axis=1) * g - g // 2), 0,
        )  # fmt: skip
        under = np.where(
            self._extremes[:, 0] < low,
            np.maximum(1, (kept < low[:, None]).sum(axis=1) * g - g // 2), 0,
        )  # fmt: skip
        self.outside, self.farthest = (over + under).astype(float), np.maximum(over, under)

    def strange(self) -> NDArray[np.bool_]:
        n, others = self.present, self._others
        return self.farthest * math.log(n / (n + others)) < math.log(1e-3)

    def profile(self, year: int) -> ColumnProfile:
        made = ColumnProfile("number")
        made.missing = int(self.missing[year])
        made.rows = made.missing + self.present
        values = latent(self._shares[year]) + self._shifts[year]
        if self._group == 1:
            made.quantiles.add(values)
        else:
            text = base64.b64encode(values.tobytes()).decode()
            made.quantiles = type(made.quantiles).from_json(
                {
                    "rows": self.present, "error": self._group // 2, "uppers": [],
                    "levels": [{"level": int(math.log2(self._group)), "values": text}],
                }
            )  # fmt: skip
        low, high = (latent(self._extremes[year]) + self._shifts[year]).tolist()
        made.moments.rows, made.moments.least, made.moments.most = self.present, low, high
        made.frequent.error = 1
        return made


class Levels:
    """A few numbers, or categories."""

    def __init__(
        self, column: Column, rows: int, watches: list[ColumnWatch], random: np.random.Generator
    ) -> None:
        self._column, self._random, self._rows = column, random, rows
        self._watches = watches
        self.present = round(rows * (1 - column.missing))
        self._names: list[Any] = [
            f"v{i}" if column.is_text else float(i) for i in range(len(column.shares))
        ]
        counts = [one._categories.counts for one in watches]
        self._then = np.array([[one.get(name, 0) for name in self._names] for one in counts])
        self._others = int(self._then[0].sum())
        self._is_inside = np.array([_between_ends(one) for one in self._then])
        self.is_categorical = watches[0]._is_categorical
        if not self.is_categorical:
            made: list[Any] = [watch._numbers for watch in watches]
            levels = np.array(self._names)
            self._scores = np.array([one._scores[one._places(levels)] for one in made])
            group = 1 << max(0, math.ceil(math.log2(self.present / 512)))
            self._error = group // 2
            slack = self._error / self.present + made[0].error / self._others
            self.slack = slack * np.array([one._reach for one in made])
            self._deviation = np.array([one.spread_law.cumulants(0.0)[2] ** 0.5 for one in made])
        self.shown = np.array(
            [[self._names.index(one) for one in getattr(watch, "_shown", [])] for watch in watches]
        )

    def draw(self, shifts: Floats) -> NDArray[np.bool_]:
        years = len(self._watches)
        shares = shares_of_levels(self._column.shares, shifts)
        self.counts = self._random.multinomial(self.present, shares)
        self.missing = self._random.binomial(self._rows, self._column.missing, years)
        if self.is_categorical:
            self.location = self.spread = np.zeros(years)
            return self._close_categories()
        outside = np.where(self._is_inside, 0, self.counts).sum(axis=1)
        self.outside = np.where(outside, np.maximum(1, outside - self._error), 0)
        n, others = self.present, self._others
        self.location = (self.counts * self._scores).sum(axis=1) / n
        self.spread = (self.counts * self._scores**2).sum(axis=1) / n - 1
        error = math.sqrt(1 / n + 1 / others)
        far = np.cumsum(self.counts, axis=1) / n - np.cumsum(self._then, axis=1) / others
        is_close = np.abs(far).max(axis=1) / error > _CLOSE_KS
        is_close |= np.abs(self.location) > _CLOSE_LOCATION * error
        is_close |= np.abs(self.spread) > _CLOSE_SPREAD * self._deviation * error
        return np.asarray(is_close)

    def _close_categories(self) -> NDArray[np.bool_]:
        """Pearson's statistic of cells that are expected 5 times, and of the others together."""
        n, others = self.present, self._others
        expected = (self.counts + self._then) / (n + others)
        is_rare = expected * min(n, others) < 5
        cells = np.where(is_rare, 0, (self.counts - n * expected) ** 2)
        found = (cells / np.maximum(expected, 1e-12)).sum(axis=1) * (1 / n + 1 / others)
        rest = np.where(is_rare, self.counts - n * expected, 0).sum(axis=1) ** 2
        share = np.maximum(np.where(is_rare, expected, 0).sum(axis=1), 1e-12)
        found = found + rest / share * (1 / n + 1 / others)
        degrees = np.maximum(1, (~is_rare).sum(axis=1) - 1 + (share > 1e-9))
        return np.asarray(found > degrees + 3.2 * np.sqrt(2 * degrees) + 2)

    def strange(self) -> NDArray[np.bool_]:
        fresh = np.where(self._then == 0, self.counts, 0).sum(axis=1)
        return np.asarray(fresh > 0)

    def profile(self, year: int) -> ColumnProfile:
        made = ColumnProfile("text" if self._column.is_text else "number")
        made.missing = int(self.missing[year])
        made.rows = made.missing + self.present
        counts = self.counts[year]
        made.frequent.counts = {
            name: int(n) for name, n in zip(self._names, counts, strict=True) if n
        }
        if not self._column.is_text:
            levels = np.arange(len(counts), dtype=np.float64)
            made.quantiles.add(np.repeat(levels, counts))
            there = levels[counts > 0]
            made.moments.rows = self.present
            made.moments.least, made.moments.most = float(there[0]), float(there[-1])
        return made


class Years:
    """The watch of one column over some years that go in step."""

    def __init__(
        self, column: Column, rows: int, years: int, budget: Budget, random: np.random.Generator
    ) -> None:
        plain = Column(shares=column.shares, is_text=column.is_text)
        present = round(BASELINE_ROWS * (1 - column.missing))
        baselines = [plain.draw(present, 0.0, random) for _ in range(years)]
        for one in baselines:
            one.missing = int(random.binomial(BASELINE_ROWS, column.missing))
            one.rows = present + one.missing
        self.watches = [ColumnWatch(one, budget, Effect(0, 0, 0)) for one in baselines]
        made = Levels if column.shares else Numbers
        self.windows: Any = made(column, rows, self.watches, random)
        self._baselines, self._rows = baselines, rows
        self._has_numbers = self.watches[0]._numbers is not None
        self._history: list[Floats] = []
        self._weekdays: list[int] = []
        self._locations: list[Floats] = []
        self._verdicts: list[NDArray[np.bool_]] = []
        self._limit = math.log(1 / budget.level)
        self._is_slow = self.watches[0]._slow is not None
        if self._is_slow:
            detectors: list[Any] = [one._slow for one in self.watches]
            self._tolerance = np.array([[one.tolerance] for one in detectors])
            self._tilts = np.array([one._tilts for one in detectors])
            self._cumulants = np.array([one._cumulants for one in detectors])
            self._logs = np.full(self._tilts.shape, -math.inf)

    def day(self, number: int, shifts: Floats, *, dated: bool) -> list[list[Test]]:
        """The tests of each year that may raise an alarm; an empty list for the others."""
        windows, weekday = self.windows, (_START + timedelta(days=number)).weekday()
        is_close = windows.draw(shifts)
        if self._has_numbers:
            self._locations = [*self._locations[-WINDOWS + 1 :], windows.location]
        beside = self._beside(weekday) if dated else None
        tests: list[list[Test]] = [[] for _ in self.watches]
        if beside is None:
            self._add_baseline(tests, is_close | self._missing_is_close())
        else:
            self._add_weekday(tests, beside)
        if beside is None or not self._has_numbers:
            for year in np.flatnonzero(windows.strange()):
                self._add_strange(tests[year], int(year))
        if self._is_slow:
            self._add_slow(tests, beside)
        return tests

    def _missing_is_close(self) -> NDArray[np.bool_]:
        then = np.array([one.missing / one.rows for one in self._baselines])
        rows = self.windows.missing + self.windows.present
        error = np.sqrt(np.maximum(then * (1 - then), 1e-9) * (1 / rows + 1 / BASELINE_ROWS))
        return np.asarray(np.abs(self.windows.missing / rows - then) > _CLOSE_MISSING * error)

    def _add_baseline(self, tests: list[list[Test]], is_close: NDArray[np.bool_]) -> None:
        for year in np.flatnonzero(is_close):
            watch, window = self.watches[year], self.windows.profile(int(year))
            scores: Scores | None = None
            if watch._numbers is not None:
                scores = watch._numbers.score(window)
            tests[year] += watch._beside_baseline(window, scores, self.windows.present)

    def _add_strange(self, tests: list[Test], year: int) -> None:
        watch, window = self.watches[year], self.windows.profile(year)
        found = watch._strange_outcome(window, self.windows.present)
        if found is not None and not any(one.name == found.test for one in tests):
            tests.append(watch._strange(found, window))

    def _beside(self, weekday: int) -> dict[str, Floats] | None:
        values, deviations = self._summaries()
        found = None
        if len(self._weekdays) == WINDOWS:
            history = np.array(self._history).reshape(WINDOWS, -1)
            found = weekday_statistics(
                np.array(self._weekdays), history, weekday, values.ravel(), deviations.ravel()
            )
        self._weekdays = [*self._weekdays[-WINDOWS + 1 :], weekday]
        self._history = [*self._history[-WINDOWS + 1 :], values]
        if found is None:
            return None
        names = ("t", "degrees", "expected", "phi", "over", "raw")
        made = {name: one.reshape(values.shape) for name, one in zip(names, found, strict=True)}
        return {**made, "values": values}

    def _summaries(self) -> tuple[Floats, Floats]:
        windows = self.windows
        rows, n = windows.missing + windows.present, windows.present
        error = 0.5 * rows**-0.5
        values, deviations = [_angle(windows.missing, rows)], [error]
        if self._has_numbers:
            values += [_angle(windows.outside, rows), windows.location]
            values += [np.log(np.maximum(1e-9, 1 + windows.spread)) / 2]
            deviations += [error, np.full(len(rows), n**-0.5), np.full(len(rows), (2 * n) ** -0.5)]
        else:
            shown = np.take_along_axis(windows.counts, windows.shown, 1)
            values += list(_angle(shown, n).T)
            deviations += [np.full(len(rows), 0.5 * n**-0.5)] * shown.shape[1]
        return np.column_stack(values), np.column_stack(deviations)

    def _add_weekday(self, tests: list[list[Test]], beside: dict[str, Floats]) -> None:
        for year in np.flatnonzero((np.abs(beside["t"]) > _CLOSE_T).any(axis=1)):
            one = {name: values[year].tolist() for name, values in beside.items()}
            outcomes = tuple(
                WeekdayOutcome(
                    2 * student_tail(abs(t), degrees), t, mean, phi, over,
                    raw < ALARMABLE_CORRELATION,
                )
                for t, degrees, mean, phi, over, raw in zip(
                    one["t"], one["degrees"], one["expected"], one["phi"], one["over"], one["raw"],
                    strict=True,
                )
            )  # fmt: skip
            tests[year] += self.watches[year]._weekday_tests(np.array(one["values"]), outcomes)

    def _add_slow(self, tests: list[list[Test]], beside: dict[str, Floats] | None) -> None:
        n, location = self.windows.present, self.windows.location
        moved = np.copysign(np.maximum(0, np.abs(location) - self.windows.slack), location)
        gains = self._tilts * moved[:, None] - np.abs(self._tilts) * self._tolerance
        self._logs = np.logaddexp(0.0, self._logs) + n * (gains - self._cumulants)
        evidence = np.logaddexp.reduce(self._logs, axis=1) - math.log(len(self._tilts[0]))
        self._judge_independence(beside)
        is_independent = self._verdicts[0] if self._verdicts else np.ones(len(tests), bool)
        effects = np.mean(self._locations[-_SLOW:], axis=0)
        level = math.exp(-self._limit)
        for year in np.flatnonzero(evidence >= self._limit):
            self._logs[year] = -math.inf
            if is_independent[year]:
                e_value, effect = math.exp(min(700.0, evidence[year])), float(effects[year])
                tests[year].append(Test("slow", e_value, None, e_value, level, effect, 0.0, True))

    def _judge_independence(self, beside: dict[str, Floats] | None) -> None:
        if len(self._locations) < 8:
            return
        values = np.array(self._locations)
        total = self.windows.present * values.var(axis=0, ddof=1)
        verdict = total <= MAX_EARLY_OVERDISPERSION
        if beside is not None:
            over, phi = beside["over"][:, 2], beside["phi"][:, 2]
            verdict = (total <= 1.5 * over) & (phi <= MAX_SLOW_CORRELATION)
            verdict &= over <= MAX_OVERDISPERSION
        self._verdicts = [*self._verdicts[-_SLOW + 1 :], verdict]


def _between_ends(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The levels from the least to the largest one that was there."""
    there = np.flatnonzero(counts)
    places = np.arange(len(counts))
    return np.asarray((places >= there[0]) & (places <= there[-1]))


def _score_by_place(one: Any) -> Floats:
    """The score of a value with so many values of the baseline below it."""
    edges = np.searchsorted(one.edges, one._values, side="right")
    return np.asarray(one._scores[2 * np.append(0, edges)])


def _ends(watches: list[ColumnWatch]) -> Floats:
    return np.array([[one.baseline.moments.least, one.baseline.moments.most] for one in watches])


_GRID = np.linspace(-6.5, 6.5, 20_001)
_GRID_SHARES = np.array([math.erfc(-one / math.sqrt(2)) / 2 for one in _GRID])


def _share(values: Floats) -> Floats:
    return np.asarray(np.interp(values, _GRID, _GRID_SHARES))


def _angle(counts: Any, rows: Any) -> Floats:
    return np.asarray(np.arcsin(np.sqrt(np.minimum(1.0, counts / rows))))


def some_years(
    counted: Counted, rows: int, kind: str, budget: float, years: int, random: np.random.Generator
) -> None:
    """So many years of 30 columns and 365 windows."""
    split, limits = Budget(budget, DAYS, COLUMNS, 2), Effect()
    dated = kind != UNDATED
    for column in columns():
        made = Years(column, rows, years, split, random)
        shifts = np.array([KINDS[kind](DAYS, random) for _ in range(years)])
        for day in range(DAYS):
            for tests in made.day(day, shifts[:, day], dated=dated):
                alarms = [one for one in tests if one.is_alarm]
                counted.add(
                    dated and day >= BURN_IN,
                    [one.name for one in alarms],
                    mattering=any(abs(one.effect) >= limits.limit(one.name) for one in alarms),
                )
    counted.years += years


def _turn(cell: tuple[tuple[str, int], Counted], years: int) -> tuple[bool, bool, float]:
    """Sorts cells by whose turn it is: independent windows first, then the fewest years."""
    (kind, _), counted = cell
    return counted.years >= years, kind != UNDATED, counted.years


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--budget", type=float, default=4.0)
    parser.add_argument("--years", type=int, default=200, help="of each cell")
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, help="keeps the counts, and goes on from them")
    asked = parser.parse_args(arguments)
    cells = {(kind, rows): Counted() for kind in KINDS if kind != "independent" for rows in ROWS}
    if asked.to is not None and asked.to.exists():
        for kind, rows, counted in json.loads(asked.to.read_text()):
            cells[kind, rows] = Counted(**counted)
    end = time.monotonic() + asked.minutes * 60
    while time.monotonic() < end:
        (kind, rows), counted = min(cells.items(), key=lambda one: _turn(one, asked.years))
        if counted.years >= asked.years:
            break
        random = np.random.default_rng([asked.seed, int(sum(one.years for one in cells.values()))])
        some_years(counted, rows, kind, asked.budget, asked.at_once, random)
        if asked.to is not None:
            kept = [[*key, asdict(one)] for key, one in cells.items()]
            asked.to.write_text(json.dumps(kept))
    for line in report(cells, asked.budget):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
