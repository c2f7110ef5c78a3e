"""The bench of drift draws what it says, and reports what it counted."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from bench.drift import KINDS, UNDATED, Column, Counted, a_year, columns, power, report
from bench.drift_years import Years, some_years
from scipy import stats

from bascule.monitoring import Budget, ColumnWatch, Effect
from bascule.stats import NumberBaseline


@pytest.mark.parametrize("rows", [5_000, 50_000])
def test_windows_drawn_from_the_law_of_their_sketch_have_the_law_of_rows(rows):
    random = np.random.default_rng(0)
    baseline = Column().draw(200_000, 0.0, random)
    prepared = NumberBaseline(baseline)
    means = [prepared.score(Column().draw(rows, 0.0, random)).location for _ in range(300)]
    assert stats.kstest(np.array(means) * np.sqrt(rows), stats.norm(0, 1.03).cdf).pvalue > 1e-3


def test_a_year_has_30_columns_and_365_windows():
    counted = Counted()
    a_year(counted, 50, UNDATED, 4, np.random.default_rng(1))
    assert len(columns()) == 30
    assert (counted.early_tests, counted.late_tests, counted.years) == (30 * 365, 0, 1)
    assert counted.psi == counted.plain_windows == 365
    lines = list(report({(UNDATED, 50): counted}, 4))
    assert any(line.startswith(f"| {UNDATED} | 50 | 1 |") for line in lines)


@pytest.mark.parametrize(
    ("kind", "rows", "times"),
    [
        (UNDATED, 50, 1),
        ("AR(.7)", 500, 3),
        ("AR(.7) and weekend", 5_000, 1),
        ("weekend", 50_000, 1),
    ],
)
def test_years_in_step_raise_the_alarms_of_a_watch_for_each_window(kind, rows, times):
    random, found = np.random.default_rng(rows), 0
    budget = Budget(4, 365, 30, 2)
    for column in columns()[::4]:
        years = Years(column, rows, 2, budget, random)
        watches = [ColumnWatch(one.baseline, budget, Effect(0, 0, 0)) for one in years.watches]
        shifts = np.array([KINDS[kind](90, random) for _ in watches]) * times
        for day in range(90):
            dated = None if kind == UNDATED else date(2026, 1, 5) + timedelta(days=day)
            tests = years.day(day, shifts[:, day], dated=dated is not None)
            for year, watch in enumerate(watches):
                judged = watch.judge(years.windows.profile(year), dated)
                alarms = sorted(one.name for one in judged if one.is_alarm)
                assert alarms == sorted(one.name for one in tests[year] if one.is_alarm)
                found += bool(alarms)
    assert found > 20 or kind == UNDATED


def test_some_years_are_counted_as_a_year_is():
    counted = Counted()
    some_years(counted, 50, "weekend", 4, 2, np.random.default_rng(1))
    assert (counted.years, counted.early_tests) == (2, 2 * 30 * 56)
    assert counted.late_tests == 2 * 30 * 309


def test_power_is_reported_for_every_change():
    lines = list(power(10))
    assert sum(line.startswith(("| shift", "| deviation")) for line in lines) == 3
