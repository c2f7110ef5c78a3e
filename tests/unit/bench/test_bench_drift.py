"""The bench of drift draws what it says, and reports what it counted."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from bench.drift import (
    COLUMNS,
    STREAMS,
    Column,
    by_rows,
    columns,
    found_within,
    power,
)
from bench.drift_years import Cell, Counted, cells, in_step, report, some_years
from scipy import stats

from bascule.monitoring import Budget, ColumnWatch
from bascule.stats import ColumnProfile, NumberBaseline


@pytest.mark.parametrize("rows", [5_000, 50_000])
def test_windows_drawn_from_the_law_of_their_sketch_have_the_law_of_rows(rows):
    random = np.random.default_rng(0)
    baseline = Column().draw(200_000, 0.0, random)
    prepared = NumberBaseline(baseline)
    means = [prepared.score(Column().draw(rows, 0.0, random)).location for _ in range(300)]
    assert stats.kstest(np.array(means) * np.sqrt(rows), stats.norm(0, 1.03).cdf).pvalue > 1e-3


def test_heavy_tails_are_the_same_draws():
    """No test of numbers but of ranks: a monotone change of all values changes no p-value."""
    random = np.random.default_rng(0)
    then, windows = random.normal(size=2_000), random.normal(0.2, 1, (20, 300))
    found = []
    for change in (np.asarray, lambda values: np.sinh(3 * values)):
        watch = ColumnWatch(of_values(change(then)), Budget())
        found.append([
            [(one.name, one.p_value) for one in watch.judge(of_values(change(values)))]
            for values in windows
        ])  # fmt: skip
    assert found[0] == found[1]


def of_values(values):
    made = ColumnProfile("number")
    made.add(values)
    return made


@pytest.mark.parametrize(
    ("stream", "rows", "baseline", "times"),
    [
        ("independent tables", 50, 20_000, 8),
        ("independent tables", 500, 100, 1),
        ("days, AR(.7)", 500, 20_000, 8),
        ("days, AR(.7) and weekend", 5_000, 20_000, 6),
        ("days, weekend", 50_000, 20_000, 6),
    ],
)
def test_years_in_step_raise_the_alarms_of_a_watch_for_each_window(stream, rows, baseline, times):
    random, found = np.random.default_rng(rows), 0
    budget = Budget(4, 365, COLUMNS[0], 2)
    for column in columns()[::4]:
        for years in in_step(column, rows, 2, baseline, random):
            watches = [ColumnWatch(one.baseline, budget) for one in years.watches]
            shifts = np.array([STREAMS[stream].shifts(90, random) for _ in watches]) * times
            shifts[:, 40:44] += 0.2 * times  # a change that is found
            for day in range(90):
                dated = date(2026, 1, 5) + timedelta(days=day) if STREAMS[stream].dated else None
                alarms = years.day(day, shifts[:, day], dated=dated is not None)[0]
                for year, watch in enumerate(watches):
                    judged = watch.judge(years.windows.profile(year), dated)
                    assert alarms[year] == {one.name for one in judged if one.is_alarm}
                    found += bool(alarms[year])
    assert found > 10 or times == 1


def test_some_years_are_counted_and_reported():
    cell = Cell("days, weekend", 50)
    counted = some_years(cell, 2, [1])
    assert counted.years == 2 * len(columns())
    assert counted.alarms == sorted(counted.alarms, reverse=True)
    both = Counted()
    both.add(counted)
    both.add(counted)
    assert both.years == 2 * counted.years
    assert any(line.startswith("| days, weekend | 20,000 | 50 |") for line in report({cell: both}))


def test_every_stream_and_size_is_a_cell():
    assert {one.stream for one in cells()} == set(STREAMS)
    assert {one.baseline for one in cells()} == {30, 100, 500, 20_000, 100_000}


def test_rows_are_judged_by_the_watch_itself():
    assert sum(by_rows("independent tables", 60, 1, np.random.default_rng(0)).values()) <= 1


def test_power_is_reported_for_every_change():
    lines = list(power(10))
    assert sum(line.startswith(("| shift", "| deviation")) for line in lines) == 3


def test_half_a_deviation_is_found_within_three_windows():
    (line,) = found_within(500, 500, 30)
    shares = [int(cell.strip().rstrip("%")) for cell in line.split("|")[3:-1]]
    assert min(shares) >= 70
