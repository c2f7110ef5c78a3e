"""Drift over the days of production: windows from the ledger, truths, and volume."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from tests.chat_models import answered_texts
from tests.production import Day, fill, packed

from bascule.bundle import load
from bascule.core import Invalid, NotFound
from bascule.monitoring import measure_drift, measure_production_drift, watch_windows
from bascule.monitoring.drift.quality import volume_findings
from bascule.monitoring.drift.windows import windows_of_rows
from bascule.monitoring.profiles import read_windows
from bascule.stats import Profile, WindowProfile

MONDAY = date(2026, 1, 5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def home(tmp_path_factory, bundle):
    """Version 1 has 20 days, the last four of stormy weather, and 8 of labels that are noise."""
    made = tmp_path_factory.mktemp("home")
    days = [
        Day(back, wind=13 if back < 4 else 10, noise=12 if back < 8 else 3, fresh=0.01)
        for back in range(19, -1, -1)
    ]
    fill(made, bundle, "1", days)
    return made


def measured(home, bundle, **options):
    return measure_production_drift(home, "late", lambda _: bundle, **options)


def alarms(report, name):
    return [window.day for window in report.windows if name in [c.name for c in window.alarms]]


def test_each_day_of_a_version_is_a_window(home, bundle):
    (report,) = measured(home, bundle).versions
    assert (report.model, report.version, len(report.windows)) == ("late", "1", 20)
    assert {window.rows for window in report.windows} == {200}
    assert [window.is_finished for window in report.windows] == [True] * 19 + [False]
    today = report.windows[-1].day
    assert alarms(report, "wind") == [today - timedelta(days=back) for back in (3, 2, 1, 0)]


def test_labels_that_turn_to_noise_are_a_harm_and_not_a_drift_of_inputs(home, bundle):
    (report,) = measured(home, bundle).versions
    today = report.windows[-1].day
    days = alarms(report, "loss")
    assert today - timedelta(days=8) < days[0] <= today - timedelta(days=4)
    sentence = next(
        column.sentence
        for window in report.windows
        for column in window.alarms
        if column.name == "loss"
    )
    assert "the mean loss is 0." in sentence
    assert "on the held-out rows: harmful (e = " in sentence


def test_the_days_before_since_are_seen_and_not_reported(home, bundle):
    (report,) = measured(home, bundle, since=timedelta(days=5)).versions
    assert len(report.windows) == 6


def test_rows_and_profiles_give_the_same_windows(home, bundle):
    profiled = read_windows(home, "late")
    assert len(profiled) == 20
    for one, other in zip(profiled, windows_of_rows(home, bundle, "late", "1"), strict=True):
        assert (one.day, one.rows) == (other.day, other.rows)
        assert one.inputs.to_json() == other.inputs.to_json()
        assert one.outputs.to_json() == other.outputs.to_json()


def test_versions_are_compared_each_with_its_own_baseline(tmp_path, bundle):
    fill(tmp_path, bundle, "1", [Day(2), Day(1)])
    fill(tmp_path, bundle, "2", [Day(1), Day(0)])

    fill(tmp_path, bundle, "3", [Day(0)])

    def opened(version):
        if version == "3":
            raise NotFound("version 3 is on no disk")
        return bundle if version == "1" else None

    found = measure_production_drift(tmp_path, "late", opened)
    assert [report.version for report in found.versions] == ["1"]
    assert found.notes == (
        "version 2 is not compared: its bundle is not at hand",
        "version 3 is not compared: version 3 is on no disk",
    )
    assert found.to_json()["versions"][0]["version"] == "1"
    assert "version 2 is not compared" in repr(found)


@pytest.mark.slow
def test_weights_that_write_texts_are_not_told_to_be_packed_with_rows(tmp_path, chat):
    moments = [datetime.now(UTC) - timedelta(hours=1)] * 2
    answered_texts(tmp_path, ["a", "b"], moments, ["hi", "ho"], arm="", version="1")
    found = measure_production_drift(tmp_path, "chat", lambda _: load(chat))
    assert "thumbs, judges and gates" in repr(found)
    assert "train=" not in repr(found)
    with pytest.raises(Invalid, match="no baseline") as refused:
        measure_drift(load(chat), {"request": ["hello"]})
    assert "thumbs, judges and gates" in refused.value.hint


def test_a_model_without_answers_is_not_found(tmp_path, bundle):
    with pytest.raises(NotFound, match="the ledger has no answers of 'late'") as caught:
        measured(tmp_path, bundle)
    assert "--current" in caught.value.hint


def profile(random, rows, shift, **more):
    made = Profile()
    text = random.choice(np.array(["a", "b", "c"], object), rows)
    made.add({"x": random.normal(shift, 1, rows), "kind": text, **more})
    return made


@pytest.fixture(scope="module")
def baseline():
    return {"input": profile(np.random.default_rng(0), 2_000, 0), "answer": None}


def windows(shifts, seed=0):
    random = np.random.default_rng(seed)
    return [
        WindowProfile("m", "1", str(MONDAY + timedelta(days=day)), 60, 60,
                      profile(random, 60, shift), Profile())
        for day, shift in enumerate(shifts)
    ]  # fmt: skip


def test_the_window_of_today_is_judged_and_not_finished(baseline):
    today = MONDAY + timedelta(days=2)
    report = watch_windows(baseline, windows([0.0, 0.0, 2.0]), today=today)
    assert [window.is_finished for window in report.windows] == [True, True, False]
    assert report.windows[-1].alarms


def volumes(*rows):
    days = [str(MONDAY + timedelta(days=day)) for day in range(len(rows))]
    return [
        WindowProfile("m", "1", day, n, n, Profile(), Profile())
        for day, n in zip(days, rows, strict=True)
        if n
    ]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (26, []),
        (24, ["2026-01-13: 24 rows, 100 on usual days"]),
        (400, []),
        (401, ["2026-01-13: 401 rows, 100 on usual days"]),
        (0, ["2026-01-13: silence: no row, 100 on usual days"]),
    ],
)
def test_a_day_of_four_times_fewer_or_more_rows_is_reported(now, said):
    made = volumes(*[100] * 8, now, 100)
    assert list(volume_findings(made)) == said


def test_today_and_the_first_week_are_not_judged_by_volume():
    made = volumes(1, 900, 5, 100, 100, 100, 100, 100, 3)
    today = date(2026, 1, 13)
    assert list(volume_findings(made, today)) == []
    assert list(volume_findings(made, today + timedelta(days=1))) != []


def test_weekends_without_requests_are_no_silence():
    weeks = [100, 100, 100, 100, 100, 0, 0] * 6
    assert [one for one in volume_findings(volumes(*weeks)) if one > "2026-02-02"] == []
