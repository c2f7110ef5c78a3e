"""A finished day of production is judged from ledger and registry: drift and performance."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from tests.ledger_rows import take_in
from tests.production import Day, fill, packed

from bascule.app import judge
from bascule.core import Untrusted
from bascule.kinds import judging, runner_of
from bascule.monitoring.alerts.sources import contacts_of, finished_days, rows_by_hour
from bascule.registry import open_registry
from bascule.settings import load_settings

DAYS = 9


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """late/1 in the registry and 9 finished days, with a storm and noise in the last three."""
    made = tmp_path_factory.mktemp("home")
    bundle = packed(made)
    registry = open_registry(made)
    registry.push(bundle.path, by="ada")
    days = [
        Day(back, rows=300, wind=14 if back < 4 else 10, noise=25 if back < 4 else 3)
        for back in range(DAYS, 0, -1)
    ]
    fill(made, bundle, "1", days)
    take_in(made)
    return made


@pytest.fixture(scope="module")
def settings(home):
    return load_settings(home, {"BASCULE_HOME": str(home)})


def test_yesterday_is_the_newest_finished_day(home):
    now = datetime.now(UTC).replace(hour=12)  # minutes after midnight, a day is not finished yet
    assert finished_days(home, now) == {"late": (now - timedelta(days=1)).date()}
    assert finished_days(home, now - timedelta(days=DAYS)) == {}


def test_the_columns_that_drift_on_the_day_are_found(settings):
    now = datetime.now(UTC)
    found = judge(settings, "drift", "late", (now - timedelta(days=1)).date(), now)
    wind = next(one for one in found if one.column == "wind")
    assert (wind.source, wind.version, wind.severity) == ("drift", "1", "warning")
    assert "baseline deviations higher" in wind.sentence
    assert wind.value > wind.limit > 0
    quiet = judge(settings, "drift", "late", (now - timedelta(days=DAYS - 2)).date(), now)
    assert [one for one in quiet if one.column == "wind"] == []


def test_a_performance_that_is_worse_than_on_held_out_rows_is_found(settings):
    now = datetime.now(UTC)
    found = judge(settings, "performance", "late", (now - timedelta(days=1)).date(), now)
    assert {one.source for one in found} == {"performance"}
    assert "accuracy" in {one.kind for one in found}
    assert all(one.sentence.startswith("late: ") for one in found)


def test_a_gate_on_groups_that_production_fails_for_sure_is_found(home):
    """Carriers lie apart by less than all: one limit is met, the other one is not."""
    text = '["accuracy_difference[carrier] <= 0.9", "selection_rate_ratio[carrier] > 1", {}]'
    unknown = '"accuracy_difference[age] <= 0"'
    chosen = load_settings(
        home, {"BASCULE_HOME": str(home), "BASCULE_GATES__CRITERIA": text.format(unknown)}
    )
    now = datetime.now(UTC)
    (finding,) = judge(chosen, "fairness", "late", (now - timedelta(days=1)).date(), now)
    assert (finding.source, finding.kind) == ("fairness", "selection_rate_ratio")
    assert (finding.version, finding.column, finding.limit) == ("1", "carrier", 1)
    assert finding.value <= 1
    assert "nearer end of its 95 % interval" in finding.sentence


def test_a_model_that_is_not_in_the_registry_has_nothing_to_be_judged_by(settings):
    now = datetime.now(UTC)
    assert judge(settings, "drift", "other", (now - timedelta(days=1)).date(), now) == []


def test_a_process_of_its_own_finds_the_same(settings):
    now = datetime.now(UTC)
    day = (now - timedelta(days=1)).date()
    elsewhere = judging(partial(runner_of, settings))
    assert elsewhere("drift", "late", day, now) == judge(settings, "drift", "late", day, now)


@pytest.mark.slow
def test_an_error_of_that_process_is_raised_here(settings, home, tmp_path):
    now = datetime.now(UTC)
    day = (now - timedelta(days=1)).date()
    copy = shutil.copytree(home, tmp_path / "home")
    (copy / "ledger" / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(Untrusted, match="has format 99"):
        judging(partial(runner_of, replace(settings, home=copy)))("drift", "late", day, now)


def test_rows_are_counted_by_the_hour(home):
    last = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [last - timedelta(hours=back) for back in range(48)]
    counted = rows_by_hour(home, hours)["late"]
    assert set(counted) <= set(hours)
    assert sum(counted.values()) == 300


def test_the_contacts_of_a_model_are_its_newest_tags(home):
    registry = open_registry(home)
    registry.set_tag("late/1", "owner", "risk", by="ada")
    registry.set_tag("late/1", "on_call", "pager", by="ada")
    found = contacts_of(lambda: registry, ["late", "unknown"])
    assert list(found) == ["late"]
    assert (found["late"].owner, found["late"].on_call, found["late"].team) == ("risk", "pager", "")
