"""The bench of drift draws what it says, and reports what it counted."""

from __future__ import annotations

import numpy as np
import pytest
from bench.drift import UNDATED, Column, Counted, a_year, columns, power, report
from scipy import stats

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


def test_power_is_reported_for_every_change():
    lines = list(power(10))
    assert sum(line.startswith(("| shift", "| deviation")) for line in lines) == 3
