"""One budget of false alarms for all models: its parts, who counts, and fifty quiet models."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from tests.production import Day, fill, packed

from bascule import app
from bascule.core import Invalid
from bascule.monitoring.drift import ModelWatch, fleet_budget
from bascule.monitoring.profiles import versions_since, write_channel_windows
from bascule.registry import open_registry
from bascule.settings import load_settings
from bascule.stats import Profile, WindowProfile

WATCHED = {("late", "1"), ("late", "2"), ("gb", "7"), ("fares", "1")}


def test_the_parts_of_all_versions_add_up_to_the_budget():
    weights = {"late": 3.0, "unknown": 9.0}
    parts = [fleet_budget(4, model, WATCHED, weights)[1] for model, _ in sorted(WATCHED)]
    assert sum(parts) == pytest.approx(4)
    assert fleet_budget(4, "late", WATCHED, weights) == pytest.approx((2.4, 1.2))
    assert fleet_budget(4, "gb", WATCHED, {}) == pytest.approx((4 / 3, 4 / 3))


def test_a_model_that_is_not_counted_yet_takes_its_part():
    assert fleet_budget(4, "new", WATCHED, {}) == pytest.approx((1, 1))
    assert fleet_budget(4, "only", set(), {}) == pytest.approx((4, 4))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """late/1 and gb/1 answer now; late/2 ended 40 days ago; late/1 answers on devices too."""
    made = tmp_path_factory.mktemp("fleet")
    bundle = packed(made)
    fill(made, bundle, "1", [Day(1, rows=100, wind=16)])
    fill(made, bundle, "2", [Day(40, rows=50)])
    fill(made, packed(made, "gb"), "1", [Day(2, rows=50)])
    today = str(datetime.now(UTC).date())
    window = WindowProfile("late", "1@stable", today).to_json()
    write_channel_windows(made, [("late/1", "stable", today, window)], today)
    return made


def test_versions_that_answered_lately_are_counted_on_devices_too(home):
    today = datetime.now(UTC).date()
    lately = {("late", "1"), ("late", "1@stable"), ("gb", "1")}
    assert versions_since(home, today - timedelta(days=30)) == lately
    assert versions_since(home, date(2020, 1, 1)) == {*lately, ("late", "2")}


@pytest.mark.parametrize(("of", "what", "model", "budget"), [
    ("version", "drift", "late", 6.0), ("version", "performance", "gb", 6.0),
    ("fleet", "drift", "late", 2.0), ("fleet", "performance", "late", 4.0),
    ("fleet", "drift", "gb", 2.0), ("fleet", "performance", "gb", 2.0),
])  # fmt: skip
def test_a_part_is_what_the_settings_say(home, of, what, model, budget):
    (home / "bascule.toml").write_text(
        f'[alerts]\nfalse_alarms_a_year = 6\nfalse_alarms_of = "{of}"\nweights = {{ late = 2 }}\n'
    )
    settings = load_settings(home, {"BASCULE_HOME": str(home)})
    found = app.false_alarms_of(settings, what, model, datetime.now(UTC))
    assert found == pytest.approx(budget)


def test_a_drift_of_one_day_raises_an_alarm_under_the_budget_of_a_fleet(home):
    open_registry(home).push(home / "late.bundle", by="ada")
    (home / "bascule.toml").write_text('[alerts]\nfalse_alarms_of = "fleet"\n')
    settings, now = load_settings(home, {"BASCULE_HOME": str(home)}), datetime.now(UTC)
    found = app.judge(settings, "drift", "late", (now - timedelta(days=1)).date(), now)
    assert ("1", "wind") in {(finding.version, finding.column) for finding in found}


def test_weights_are_over_nought(tmp_path):
    (tmp_path / "bascule.toml").write_text("[alerts]\nweights = { late = 0 }\n")
    with pytest.raises(Invalid, match="late"):
        load_settings(tmp_path, {})


def profile(random, rows):
    made = Profile()
    texts = random.choice(np.array(["a", "b", "c"], object), rows)
    made.add({"x": random.gamma(2, 1, rows), "c": texts})
    return made


def quiet_alarms(models, budget, watched, days=365):
    """Of models that do not drift, in a year of days of 100 rows each."""
    found = 0
    for place in range(models):
        random = np.random.default_rng([3, place])
        part = fleet_budget(budget, f"m{place}", watched, {})[1]
        watch = ModelWatch({"input": profile(random, 5_000)}, part)
        for day in range(days):
            at = date(2026, 1, 1) + timedelta(days=day)
            found += len(watch.judge({"input": profile(random, 100)}, at).alarms)
    return found


def test_a_column_is_tested_at_its_part_of_the_level():
    random, watched = np.random.default_rng(0), {(f"m{place}", "1") for place in range(50)}
    alone, of_fifty = (
        ModelWatch({"input": profile(random, 600)}, fleet_budget(4, "m0", counted, {})[1]).level
        for counted in ({("m0", "1")}, watched)
    )
    assert of_fifty == pytest.approx(alone / 50)


@pytest.mark.slow
def test_fifty_quiet_models_stay_within_one_budget_for_a_year():
    watched = {(f"m{place}", "1") for place in range(50)}
    assert quiet_alarms(50, 12, watched) <= 12
