"""Growing losses raise alarms; what stays as it was raises no more than the budget."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from tests.learners import record, tell

from bascule.monitoring.alerts.sources import LossSource
from bascule.monitoring.alerts.sources.losses import LossDetectors, tilt
from bascule.monitoring.ledger import Ledger

DAY_S = 86_400.0


def alarms(losses, a_day=200, budget=4.0):
    detectors = LossDetectors(budget)
    return [
        place
        for place, loss in enumerate(losses)
        if detectors.add(bool(loss), place * DAY_S / a_day)
    ]


@pytest.mark.parametrize(("p", "shift"), [(0.02, 0.02), (0.2, 0.05), (0.5, 0.07), (0.9, 0.04)])
def test_the_tilt_makes_the_walk_a_martingale(p, shift):
    t = tilt(p, shift)
    assert t > 0
    mean = p * np.exp(t * (1 - p - shift)) + (1 - p) * np.exp(-t * (p + shift))
    assert mean == pytest.approx(1, abs=1e-9)


def test_a_step_of_fifteen_points_is_found_within_a_thousand_outcomes():
    rng = np.random.default_rng(0)
    for _ in range(5):
        losses = rng.random(6000) < np.where(np.arange(6000) < 3000, 0.2, 0.35)
        assert 3000 <= alarms(losses)[0] < 4000


def test_fewer_errors_are_no_alarm():
    rng = np.random.default_rng(0)
    assert alarms(rng.random(6000) < np.where(np.arange(6000) < 3000, 0.4, 0.1)) == []


@pytest.mark.slow  # 30 years of outcomes
@pytest.mark.parametrize("p", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("budget", [0.5, 4.0, 52.0])
def test_false_alarms_stay_within_the_budget(p, budget):
    years, a_day = 10, 200
    losses = np.random.default_rng(1).random(365 * a_day * years) < p
    assert len(alarms(losses, a_day, budget)) / years <= budget


def test_the_source_follows_the_ledger_and_shows_an_alarm_for_a_week(tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"x": 1.0}] * 2000
    truths = (rng.random(2000) < np.where(np.arange(2000) < 1200, 0.1, 0.5)).astype(int)
    ids = record(tmp_path, rows, [0] * 2000)
    source, now = LossSource(Ledger(tmp_path), 4.0), datetime.now(UTC)
    assert source.look(now) == []
    tell(tmp_path, ids[:1200], truths[:1200])
    (quiet,) = source.look(now)
    assert (quiet.model, quiet.findings) == ("late", ())
    tell(tmp_path, ids[1200:], truths[1200:])
    (observation,) = source.look(datetime.now(UTC))
    (finding,) = observation.findings
    assert finding.version == "1"
    assert "answers were wrong, usually 9.5%" in finding.sentence
    (again,) = LossSource(Ledger(tmp_path), 4.0).look(datetime.now(UTC))
    assert again.findings[0].sentence == finding.sentence
    (later,) = source.look(datetime.now(UTC) + timedelta(days=8))
    assert later.findings == ()
