"""False alarms of drift in hundreds of simulated years, for `bench.drift`.

`ColumnWatch` judges a window in 0.3 ms. Here many years of a column go in step. What a watch keeps
from window to window (the history of weekdays, how much windows vary, slow detectors) is one array
over all years. A window is judged by the tests of `ColumnWatch` itself, if a statistic is so large
that any of its p-values may be under 1e-3; all others cannot raise an alarm. Their p-values are
held against the levels of several numbers of columns.

Windows have the law of their sketch: above 512 values, one order statistic of each group. As many
values are missing as drawn, but the numbers of a window are as many as are expected.
`test_bench_drift.py` compares the alarms with those of `ColumnWatch`, window by window.
"""

from __future__ import annotations

import base64
import json
import math
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.monitoring import Budget, ColumnWatch, Effect
from bascule.monitoring.drift import Test
from bascule.monitoring.drift.deciding import (
    DAY_DEVIATION,
    LONG_RUN,
    MAX_EARLY_OVERDISPERSION,
    MAX_OVERDISPERSION,
    MAX_SLOW_CORRELATION,
    variance_between,
)
from bascule.stats import (
    WINDOWS,
    ColumnProfile,
    Scores,
    WeekdayOutcome,
    exact_interval,
)
from bascule.stats.detectors import ALARMABLE_CORRELATION, weekday_statistics
from bascule.stats.tails import student_tail
from bascule.stats.two_sample import BINS
from bench.drift import (
    BASELINE_ROWS,
    BASELINES,
    BUDGET,
    COLUMNS,
    ROWS,
    STREAMS,
    WINDOWS as DAYS,
    Column,
    columns,
    latent,
    shares_of_levels,
)

Floats = NDArray[np.float64]
_START = date(2026, 1, 5)
_CLOSE_LOCATION, _CLOSE_SPREAD, _CLOSE_KS, _CLOSE_T, _CLOSE_MISSING = 3.0, 2.4, 1.75, 3.5, 3.0
_CLOSE_CATEGORY = 2.6
"""Standard errors, and root n times the distance: p-values of about 1e-3 to 1e-2."""

_SLOW = 28
_BURN_IN = 56
_LIMITS = Effect()
_EVEN = np.array([NormalDist().inv_cdf((place + 0.5) / BINS) for place in range(BINS)])
"""Normal scores of the pooled ranks, as the product gives them."""


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
        reached = [np.append(0, np.cumsum(one._weights)) / one.rows for one in made]
        self._reached = np.array(reached)
        self._scores = np.array([_score_by_place(one) for one in made])
        self._others, self._ends = made[0].rows, _ends(watches)
        self._rank_slack = self._group // 2 / self.present + made[0].error / self._others
        self.slack = self._rank_slack * np.array([one._reach for one in made])

    def draw(self, shifts: Floats, between: Floats) -> NDArray[np.bool_]:
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
        n, others = self.present, self._others
        middles = (np.arange(kept) * g + g / 2 + at * others) / (n + others)
        pooled = _EVEN[np.minimum((middles * BINS).astype(np.int64), BINS - 1)]
        is_close = _are_far(
            pooled.mean(axis=1) * (1 + n / others),
            ((pooled**2).mean(axis=1) - float((_EVEN**2).mean())) * (1 + n / others),
            distance - self._rank_slack, between, n, others, 1.0, float((_EVEN**2).var()),
        )  # fmt: skip
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
        self._others = watches[0]._categories.rows
        self._slack = np.array([[one._categories.error] for one in watches])
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
            counts_then = [
                [int(one._weights[one._values == level].sum()) for level in levels] for one in made
            ]
            self._then = np.array(counts_then)
        self.shown = np.array(
            [[self._names.index(one) for one in getattr(watch, "_shown", [])] for watch in watches]
        )

    def draw(self, shifts: Floats, between: Floats) -> NDArray[np.bool_]:
        years = len(self._watches)
        shares = shares_of_levels(self._column.shares, shifts)
        self.counts = self._random.multinomial(self.present, shares)
        self.missing = self._random.binomial(self._rows, self._column.missing, years)
        if self.is_categorical:
            self.location = self.spread = np.zeros(years)
            return self._close_categories(between.max(axis=1))
        outside = np.where(self._is_inside, 0, self.counts).sum(axis=1)
        self.outside = np.where(outside, np.maximum(1, outside - self._error), 0)
        n, others = self.present, self._others
        self.location = (self.counts * self._scores).sum(axis=1) / n
        self.spread = (self.counts * self._scores**2).sum(axis=1) / n - 1
        far = np.cumsum(self.counts, axis=1) / n - np.cumsum(self._then, axis=1) / others
        both = self.counts + self._then
        middles = (np.cumsum(both, axis=1) - both / 2) / (n + others)
        pooled = _EVEN[np.minimum((middles * BINS).astype(np.int64), BINS - 1)]
        moved, weights = self.counts / n - self._then / others, both / (n + others)
        pooled = pooled - (weights * pooled).sum(axis=1, keepdims=True)
        squares = pooled**2
        mean = (weights * squares).sum(axis=1)
        return _are_far(
            (moved * pooled).sum(axis=1), (moved * squares).sum(axis=1), np.abs(far).max(axis=1),
            between, n, others, mean, (weights * squares**2).sum(axis=1) - mean**2,
        )  # fmt: skip

    def _close_categories(self, between: Floats) -> NDArray[np.bool_]:
        """Whether the share of any category is far from those that the baseline allows."""
        n, others = self.present, self._others
        now = np.where((self._then > 0) | (self._slack > 0), self.counts, 0) / n
        then = np.clip(now, self._then / others, (self._then + self._slack) / others)
        pooled = (now * n + then * others) / (n + others)
        sampling = between + 1 / n + 1 / others
        errors = np.sqrt(pooled * (1 - pooled) * sampling[:, None])
        return np.asarray((np.abs(now - then) > _CLOSE_CATEGORY * errors).any(axis=1))

    def strange(self) -> NDArray[np.bool_]:
        fresh = np.where(self._then == 0, self.counts, 0).sum(axis=1)
        return np.asarray(fresh > 0)

    def profile(self, year: int) -> ColumnProfile:
        made = ColumnProfile("text" if self._column.is_text else "number")
        made.missing = int(self.missing[year])
        made.rows = made.missing + self.present
        counts = self.counts[year]
        there = np.flatnonzero(counts)
        made.frequent.add([self._names[place] for place in there], counts[there])
        if not self._column.is_text:
            levels = np.arange(len(counts), dtype=np.float64)
            made.quantiles.add(np.repeat(levels, counts))
            there = levels[counts > 0]
            made.moments.rows = self.present
            made.moments.least, made.moments.most = float(there[0]), float(there[-1])
        return made


class Years:
    """The watches of one column over some years that go in step; see `in_step`."""

    def __init__(
        self, column: Column, rows: int, watches: list[ColumnWatch], random: np.random.Generator
    ) -> None:
        self.watches, self._baselines = watches, [one.baseline for one in watches]
        made = Levels if column.shares else Numbers
        self.windows: Any = made(column, rows, self.watches, random)
        self._baseline_rows = np.array([one.rows for one in self._baselines])
        self._has_numbers = self.watches[0]._numbers is not None
        self._history: list[Floats] = []
        self._counts: list[Floats] = []
        self._weekdays: list[int] = []
        self._locations: list[Floats] = []
        self._verdicts: list[NDArray[np.bool_]] = []
        self._limits = [math.log(count / COLUMNS[0] / _budget().level) for count in COLUMNS]
        self._is_slow = self.watches[0]._slow is not None
        if self._is_slow:
            detectors: list[Any] = [one._slow for one in self.watches]
            self._tolerance = np.array([[one.tolerance] for one in detectors])
            self._tilts = np.array([one._tilts for one in detectors])
            self._cumulants = np.array([one._cumulants for one in detectors])
            self._logs = np.full((len(COLUMNS), *self._tilts.shape), -math.inf)

    def day(self, number: int, shifts: Floats, *, dated: bool) -> list[list[set[str]]]:
        """The names of the alarms, by the numbers of columns and the years."""
        windows, weekday = self.windows, (_START + timedelta(days=number)).weekday()
        between = self._between()
        is_close = windows.draw(shifts, between)
        if self._has_numbers:
            self._locations = [*self._locations[-WINDOWS + 1 :], windows.location]
        values, deviations = self._summaries()
        beside = self._beside(weekday, values, deviations) if dated else None
        tests: list[list[Test]] = [[] for _ in self.watches]
        if beside is None:
            self._add_baseline(tests, is_close | self._missing_is_close())
        else:
            self._add_weekday(tests, beside)
        if beside is None or not self._has_numbers:
            for year in np.flatnonzero(windows.strange()):
                self._add_strange(tests[year], int(year))
        alarms = [
            [
                {t.name for t in one if t.is_alarm and (t.p_value or 0) < t.level * COLUMNS[0] / k}
                for one in tests
            ]
            for k in COLUMNS
        ]
        if self._is_slow:
            self._add_slow(alarms, beside, between[:, 2])
        self._history = [*self._history[-WINDOWS + 1 :], values]
        rows = windows.missing + windows.present
        self._counts = [*self._counts[-WINDOWS + 1 :], rows]
        return alarms

    def _between(self) -> Floats:
        """As `ColumnWatch._between`. Shape (years, numbers)."""
        watch, years = self.watches[0], len(self.watches)
        if len(self._history) < 2:
            return np.full((years, len(watch._names)), DAY_DEVIATION**2)
        of_rows = (1 / np.array(self._counts)).mean(axis=0)[:, None]
        sampling = np.where(watch._are_of_rows, of_rows, 1 / self.windows.present)
        history = np.array(self._history) * watch._scales
        found = variance_between(history.reshape(len(history), -1), sampling.ravel())
        return found.reshape(years, -1)

    def _missing_is_close(self) -> NDArray[np.bool_]:
        then = np.array([one.missing / one.rows for one in self._baselines])
        rows = self.windows.missing + self.windows.present
        error = np.sqrt(np.maximum(then * (1 - then), 1e-9) * (1 / rows + 1 / self._baseline_rows))
        return np.asarray(np.abs(self.windows.missing / rows - then) > _CLOSE_MISSING * error)

    def _add_baseline(self, tests: list[list[Test]], is_close: NDArray[np.bool_]) -> None:
        for year in np.flatnonzero(is_close):
            watch, window = self.watches[year], self.windows.profile(int(year))
            watch._history = deque(one[year] for one in self._history)
            watch._rows = deque((int(one[year]), self.windows.present) for one in self._counts)
            scores: Scores | None = None
            if watch._numbers is not None:
                scores = watch._numbers.score(window)
            tests[year] += watch._beside_baseline(window, scores, self.windows.present)

    def _add_strange(self, tests: list[Test], year: int) -> None:
        watch, window = self.watches[year], self.windows.profile(year)
        found = watch._strange_outcome(window, self.windows.present)
        if found is not None and not any(one.name == found.test for one in tests):
            tests.append(watch._strange(found, window))

    def _beside(self, weekday: int, values: Floats, deviations: Floats) -> dict[str, Floats] | None:
        found = None
        if len(self._weekdays) == WINDOWS:
            history = np.array(self._history).reshape(WINDOWS, -1)
            found = weekday_statistics(
                np.array(self._weekdays), history, weekday, values.ravel(), deviations.ravel()
            )
        self._weekdays = [*self._weekdays[-WINDOWS + 1 :], weekday]
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

    def _add_slow(
        self, alarms: list[list[set[str]]], beside: dict[str, Floats] | None, between: Floats
    ) -> None:
        location = self.windows.location
        rows = self.windows.present / (1 + self.windows.present * LONG_RUN * between)
        moved = np.copysign(np.maximum(0, np.abs(location) - self.windows.slack), location)
        gains = self._tilts * moved[:, None] - np.abs(self._tilts) * self._tolerance
        self._logs = np.logaddexp(0.0, self._logs) + rows[:, None] * (gains - self._cumulants)
        self._judge_independence(beside)
        if not self._verdicts:
            return
        matters = np.abs(np.mean(self._locations[-_SLOW:], axis=0)) >= _LIMITS.limit("slow")
        for logs, limit, names in zip(self._logs, self._limits, alarms, strict=True):
            evidence = np.logaddexp.reduce(logs, axis=1) - math.log(len(self._tilts[0]))
            for year in np.flatnonzero((evidence >= limit) & matters):
                logs[year] = -math.inf
                if self._verdicts[0][year]:
                    names[year].add("slow")

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


def _are_far(
    location: Floats, spread: Floats, distance: Floats, between: Floats, rows: int, others: int,
    variance: Any, variance_spread: Any,
) -> NDArray[np.bool_]:  # fmt: skip
    """Whether any of the three tests of numbers may have a small p-value."""
    sampling = between[:, 2] + 1 / rows + 1 / others
    of_spread = between[:, 3] + 1 / rows + 1 / others
    is_far = distance > _CLOSE_KS * np.sqrt(sampling)
    is_far |= np.abs(location) > _CLOSE_LOCATION * np.sqrt(variance * sampling)
    is_far |= np.abs(spread) > _CLOSE_SPREAD * np.sqrt(variance_spread * of_spread)
    return np.asarray(is_far)


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


@dataclass(frozen=True, order=True)
class Cell:
    """Windows of `rows` rows of a stream, beside a baseline of so many."""

    stream: str
    rows: int
    baseline: int = BASELINE_ROWS


@dataclass
class Counted:
    """What a cell has seen.

    Attributes:
        years: Of a column, over all kinds of columns alike.
        alarms: Windows of a column with an alarm, by the numbers of columns.
        early: Of these, in the first 8 weeks.
        by_test: Alarms at 30 columns, by test.
    """

    years: float = 0.0
    alarms: list[int] = field(default_factory=lambda: [0] * len(COLUMNS))
    early: list[int] = field(default_factory=lambda: [0] * len(COLUMNS))
    by_test: dict[str, int] = field(default_factory=dict)

    def add(self, other: Counted) -> None:
        self.years += other.years
        self.alarms = [sum(both) for both in zip(self.alarms, other.alarms, strict=True)]
        self.early = [sum(both) for both in zip(self.early, other.early, strict=True)]
        for name, count in other.by_test.items():
            self.by_test[name] = self.by_test.get(name, 0) + count


def _budget() -> Budget:
    """The level of the fewest columns: what is no alarm there is none at any other."""
    return Budget(BUDGET, DAYS, COLUMNS[0], 2)


def in_step(
    column: Column, rows: int, years: int, baseline_rows: int, random: np.random.Generator
) -> Iterator[Years]:
    """Years with baselines of their own; those whose watches keep the same numbers go together."""
    plain = Column(shares=column.shares, is_text=column.is_text)
    present = round(baseline_rows * (1 - column.missing))
    alike: dict[tuple[Any, ...], list[ColumnWatch]] = {}
    for _ in range(years):
        baseline = plain.draw(present, 0.0, random)
        baseline.missing = int(random.binomial(baseline_rows, column.missing))
        baseline.rows = present + baseline.missing
        watch = ColumnWatch(baseline, _budget())
        form = (watch._is_categorical, len(watch._names), watch._slow is None)
        alike.setdefault(form, []).append(watch)
    for watches in alike.values():
        yield Years(column, rows, watches, random)


def some_years(cell: Cell, years: int, seed: list[int]) -> Counted:
    """So many years of each kind of column."""
    random, stream, counted = np.random.default_rng(seed), STREAMS[cell.stream], Counted()
    parts = [
        part
        for column in columns()
        for part in in_step(column, cell.rows, years, cell.baseline, random)
    ]
    for made in parts:
        shifts = np.array([stream.shifts(DAYS, random) for _ in made.watches])
        for day in range(DAYS):
            alarms = made.day(day, shifts[:, day], dated=stream.dated)
            for place, names in enumerate(alarms):
                hits = sum(map(bool, names))
                counted.alarms[place] += hits
                counted.early[place] += hits if day < _BURN_IN else 0
            for name in [name for names in alarms[1] for name in names]:
                counted.by_test[name] = counted.by_test.get(name, 0) + 1
        counted.years += len(made.watches)
    return counted


def cells() -> list[Cell]:
    """Every stream and size beside the usual baseline, and other baselines of one stream."""
    first = next(iter(STREAMS))
    usual = [Cell(stream, rows) for stream in STREAMS for rows in ROWS]
    return usual + [Cell(first, rows, baseline) for baseline in BASELINES for rows in ROWS]


def grid(
    minutes: float, years: int, seed: int, kept: Path | None = None, at_once: int = 48
) -> dict[Cell, Counted]:
    """Count until every cell has its years at the usual number of columns, or the time is over."""
    counted = {cell: Counted() for cell in cells()}
    if kept is not None and kept.exists():
        for place, one in json.loads(kept.read_text()):
            counted[Cell(*place)] = Counted(**one)
    end, round_ = time.monotonic() + minutes * 60, 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        while time.monotonic() < end:
            open_ = [cell for cell, one in counted.items() if one.years < years * COLUMNS[1]]
            if not open_:
                break
            size = max(1, os.cpu_count() or 1)
            chosen = sorted(open_, key=lambda cell: counted[cell].years)[:size]
            seeds = [[seed, round_, int(counted[cell].years)] for cell in chosen]
            done = pool.map(some_years, chosen, [at_once] * len(chosen), seeds)
            for cell, found in zip(chosen, done, strict=True):
                counted[cell].add(found)
            round_ += 1
            if kept is not None:
                made = [[[c.stream, c.rows, c.baseline], asdict(one)] for c, one in counted.items()]
                kept.write_text(json.dumps(made))
    return counted


def report(counted: dict[Cell, Counted]) -> Iterator[str]:
    yield (
        f"Alarms a year at the defaults (budget {BUDGET:g}), with the exact 95 % interval and the "
        "years that were simulated, by the columns of the model."
    )
    yield ""
    heads = " | ".join(f"{count} columns" for count in COLUMNS)
    yield f"| stream | baseline | rows | {heads} | of these in 8 weeks | tests at 30 |"
    yield "|---|---|---|" + "---|" * (len(COLUMNS) + 2)
    for cell, one in counted.items():
        if one.years:
            rates = " | ".join(
                _rate(alarms, one.years, count)
                for alarms, count in zip(one.alarms, COLUMNS, strict=True)
            )
            early = one.early[1] / one.years * COLUMNS[1]
            yield (
                f"| {cell.stream} | {cell.baseline:,} | {cell.rows:,} | {rates} | {early:.2f} | "
                f"{one.by_test} |"
            )


def _rate(alarms: int, years: float, count: int) -> str:
    low, high = exact_interval(alarms, round(years * DAYS))
    a_year = DAYS * count
    rate = alarms / years * count
    return f"{rate:.2f} [{low * a_year:.2f}, {high * a_year:.2f}] ({years / count:,.0f})"
