"""Drift of explanations: attributions of production days beside inputs and answers."""

from __future__ import annotations

import json
from datetime import date, timedelta

import numpy as np
import pytest
from tests.production import Day, fill, packed

from bascule.bundle.explaining import open_explainer, read_explanation
from bascule.bundle.statements import profile_columns, profile_of
from bascule.monitoring import measure_production_drift, watch_windows
from bascule.monitoring.drift.explained import attributed
from bascule.monitoring.ledger import Ledger
from bascule.monitoring.replaying import explain_prediction
from bascule.stats import WindowProfile


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("explained"))


@pytest.fixture(scope="module")
def home(tmp_path_factory, bundle):
    made = tmp_path_factory.mktemp("home")
    days = [Day(back, rows=100, wind=14 if back < 2 else 10) for back in range(5, -1, -1)]
    fill(made, bundle, "1", days)
    return made


def test_attributions_of_a_day_are_compared_with_those_of_held_out_rows(home, bundle):
    found = measure_production_drift(home, "late", lambda _: bundle)
    (report,) = found.versions
    names = [column.name for column in report.windows[-1].columns if column.where == "explanation"]
    assert names == ["attribution.wind", "attribution.distance", "attribution.carrier"]
    moved = {column.name for window in report.windows[-2:] for column in window.alarms}
    assert "attribution.wind" in moved
    assert not {"attribution.distance", "attribution.carrier"} & moved
    before = [column.name for window in report.windows[:-2] for column in window.alarms]
    assert not [name for name in before if name.startswith("attribution.")]
    shown = json.dumps(found.to_json())
    assert '"explanation"' in shown
    assert measure_production_drift(home, "late", lambda _: bundle).to_json() == found.to_json()


def test_attributions_share_the_budget_and_nothing_is_compared_without_explanations():
    random = np.random.default_rng(0)
    inputs = profile_of({"x": random.normal(size=2_000)})
    reasons = profile_of({"attribution.x": random.normal(size=2_000)})
    day = date(2026, 1, 5)
    windows = [WindowProfile("late", "1", str(day), 100, 100, inputs, inputs)]
    without = watch_windows({"input": inputs, "answer": None, "explanation": None}, windows)
    with_them = watch_windows(
        {"input": inputs, "answer": None, "explanation": reasons}, windows,
        explained={day: reasons},
    )  # fmt: skip
    assert with_them.level == pytest.approx(without.level / 2)
    assert [column.where for column in without.windows[0].columns] == ["input"]
    absent = watch_windows({"input": inputs, "answer": None, "explanation": reasons}, windows)
    assert [column.where for column in absent.windows[0].columns] == ["input"]


def test_a_recorded_prediction_is_explained_by_the_version_that_answered(home, bundle):
    (row,) = Ledger(home).query("SELECT id FROM predictions LIMIT 1").to_pylist()
    asked = []

    def opened(version):
        asked.append(version)
        return bundle

    plots = explain_prediction(Ledger(home), row["id"], opened)
    assert asked == ["late/1"]
    assert len(plots) == 3
    assert "wind = " in plots[0].svg
    assert "Shapley values of a linear model" in plots[0].caption


@pytest.mark.slow
def test_false_alarms_stay_within_the_budget_with_attributions(bundle):
    """Ten runs of 120 days without drift: 3.3 years, so 13 false alarms are budgeted."""
    from tests.production import flights

    random, signature = np.random.default_rng(7), bundle.signature
    explainer = open_explainer(
        bundle.path, bundle.manifest, read_explanation(bundle.path, bundle.manifest)
    )
    baseline = {
        "input": bundle.baseline.inputs,
        "answer": None,
        "explanation": attributed(explainer, signature, bundle.test_data()[0]),
    }
    alarms = []
    for _ in range(10):
        windows, explained = [], {}
        for number in range(120):
            day = date(2026, 1, 5) + timedelta(days=number)
            rows = flights(random, 300, fresh=0.01)
            inputs = profile_of(profile_columns(rows, signature.inputs))
            windows.append(WindowProfile("late", "1", str(day), 300, 300, inputs, inputs))
            explained[day] = attributed(explainer, signature, rows)
        report = watch_windows(baseline, windows, explained=explained)
        alarms += [column.where for window in report.windows for column in window.alarms]
    assert len(alarms) <= 13
