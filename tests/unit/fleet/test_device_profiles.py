"""Profiles and rows that devices report: each counted once, on the right day, kept as long."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from tests.unit.catalogue.conftest import (  # noqa: F401  # migrations run once for all tests
    catalogue,
    current,
    new_file,
    new_server_database,
)
from tests.unit.fleet.fleets import T0, Clocked, counts, report

from bascule.core import Invalid
from bascule.fleet import read_reports
from bascule.fleet.reports import day_of
from bascule.monitoring.profiles import read_windows
from bascule.privacy.catalogue_rows import CatalogueRows
from bascule.privacy.persons import ERASED, Person
from bascule.stats import WindowProfile

FIRST = datetime(1970, 1, 1, tzinfo=UTC)
ROWS = [[{"x": 1.0}, {"label": True}], [{"x": float("nan")}, {"label": False}]]


@pytest.fixture
def clocked(catalogue):  # noqa: F811
    clocked = Clocked(catalogue)
    clocked.enroll("camera-1", "camera-2")
    return clocked


def profiled(values, at=T0):
    """What a report of these values of one column has besides its numbers."""
    window = WindowProfile(rows=len(values), profiled_rows=len(values))
    window.inputs.add({"x": np.array(values)})
    return {**counts(len(values)), "profile": window.to_json(), "at": at.isoformat()}


def windows(clocked, home):
    clocked.fleet.copy_windows(home, FIRST)
    return read_windows(home, "late")


def test_profiles_of_devices_become_the_window_of_their_version_channel_and_day(clocked, tmp_path):
    clocked.enroll("robot-1", group="beta")
    for device, values in (("camera-1", [1.0, 2.0]), ("camera-2", [3.0]), ("robot-1", [4.0])):
        clocked.report(device, 1, **profiled(values))
    beta, stable = sorted(windows(clocked, tmp_path), key=lambda window: window.version)
    assert (beta.version, stable.version) == ("1@beta", "1@stable")
    assert (stable.model, stable.day, stable.rows) == ("late", "2026-03-01", 3)
    assert stable.inputs.columns["x"].frequent.counts == {1.0: 1, 2.0: 1, 3.0: 1}
    assert beta.inputs.columns["x"].frequent.counts == {4.0: 1}


def test_a_profile_that_comes_twice_or_late_counts_once(clocked, tmp_path):
    for _ in range(2):
        clocked.report("camera-1", 2, **profiled([1.0, 2.0]))
    clocked.report("camera-1", 1, **profiled([9.0]))
    (window,) = windows(clocked, tmp_path)
    assert window.rows == 2
    (again,) = windows(clocked, tmp_path)
    assert (again.rows, again.inputs.columns["x"].rows) == (2, 2)


def test_only_windows_that_changed_are_copied_again(clocked, tmp_path):
    clocked.report("camera-1", 1, **profiled([1.0]))
    clocked.pass_hours(1)
    since = clocked.fleet.copy_windows(tmp_path, FIRST)
    shutil.rmtree(tmp_path / "channels")
    clocked.pass_hours(24)
    clocked.report("camera-1", 2, **profiled([2.0]))
    clocked.fleet.copy_windows(tmp_path, since)
    assert [window.day for window in read_windows(tmp_path, "late")] == ["2026-03-02"]
    assert [window.rows for window in windows(clocked, tmp_path)] == [1, 1]


HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("at", "sent_at", "day"),
    [
        (T0 - DAY, T0, "2026-02-28"),  # a clock that is right
        (T0 + 400 * DAY, T0 + 401 * DAY, "2026-02-28"),  # fast, and a day passed
        (FIRST, FIRST + DAY, "2026-02-28"),  # never set
        (FIRST, T0, "2026-03-01"),  # set between: older than the device
        (T0 + DAY, T0, "2026-03-01"),  # set back between
        ("", T0, "2026-03-01"), ("yesterday", T0, "2026-03-01"),
        ("2026-02-28T12:00:00", T0, "2026-03-01"),  # without a zone
    ],
)  # fmt: skip
def test_a_report_is_of_the_day_that_the_device_has_measured_whatever_its_clock_shows(
    at, sent_at, day
):
    at, sent_at = (str(moment) for moment in (at, sent_at))
    assert day_of(at, sent_at, T0 - 10 * DAY, T0) == day


def test_the_days_of_reports_that_waited_are_told_from_when_they_were_sent(clocked, tmp_path):
    clocked.pass_hours(24 * 5)
    sent = [report("camera-1", day + 1, **profiled([1.0], FIRST + day * DAY)) for day in range(3)]
    sent_at = (FIRST + 3 * DAY).isoformat()
    clocked.fleet.receive({"camera-1": read_reports(sent)}, sent_at=sent_at)
    days = [window.day for window in windows(clocked, tmp_path)]
    assert days == ["2026-03-03", "2026-03-04", "2026-03-05"]


def test_a_profile_of_another_kind_changes_no_column_of_others(clocked, tmp_path):
    clocked.report("camera-1", 1, **profiled([1.0]))
    wrong = profiled([1.0])
    column = wrong["profile"]["inputs"]["columns"][0]
    column |= {"kind": "text", "frequent": {"error": 0, "counts": [["a", 1]]}}
    clocked.report("camera-2", 1, **wrong)
    (window,) = windows(clocked, tmp_path)
    assert window.inputs.columns["x"].frequent.counts == {1.0: 1}
    assert clocked.device("camera-2").sequence == 1


@pytest.mark.parametrize(
    "wrong",
    [{"rows": 0}, {"rows": 2**60}, {"format": 2}, {"inputs": {}}, {"outputs": None}],
)
def test_a_profile_that_is_malformed_is_refused(wrong):
    content = profiled([1.0])
    content["profile"] |= wrong
    with pytest.raises(Invalid):
        read_reports([report("camera-1", 1, **content)])


@pytest.mark.parametrize("version", ["late", "../late/1", "late@champion", "late/x"])
def test_a_profile_is_of_a_version_in_the_registry(version):
    running = {"running": {"version": version, "digest": "sha256:1"}}
    with pytest.raises(Invalid):
        read_reports([report("camera-1", 1, **profiled([1.0])) | running])


def test_sampled_rows_are_kept_as_long_as_their_reports_with_what_was_dropped(clocked):
    sample = {"share": 0.02, "rows": ROWS}
    clocked.report("camera-1", 1, **counts(100), sample=sample, dropped={"sample": 7})
    clocked.report("camera-1", 2, **counts(100))
    clocked.report("camera-2", 1, **counts(100), dropped={"profile": 3})
    (rows,) = clocked.fleet.rows("camera-1")
    assert (rows.sequence, rows.version, rows.share) == (1, "late/1", 0.02)
    assert [inputs for inputs, _ in rows.rows] == [{"x": 1.0}, {"x": None}]
    assert rows.dropped == {"sample": 7}
    assert [(rows.rows, rows.dropped) for rows in clocked.fleet.rows("camera-2")] == [
        ([], {"profile": 3})
    ]
    clocked.pass_hours(24 * 31)
    clocked.fleet.forget()
    assert clocked.fleet.rows("camera-1") == []


def test_windows_are_deleted_after_their_time_here_and_in_homes(clocked, tmp_path):
    clocked.report("camera-1", 1, **profiled([1.0]))
    assert len(windows(clocked, tmp_path)) == 1
    clocked.pass_hours(24 * 402)
    clocked.report("camera-1", 2, **profiled([2.0], clocked.now))
    clocked.fleet.forget()
    assert [window.day for window in windows(clocked, tmp_path)] == [str(clocked.now.date())]


def test_an_erased_person_is_in_no_row_and_in_no_profile_of_devices(clocked, tmp_path):
    window = WindowProfile(rows=2, profiled_rows=2)
    window.inputs.add({"customer": np.array(["ada@example.com", "bob@example.com"], object)})
    rows = [[{"customer": "ada@example.com"}, {}], [{"customer": "bob@example.com"}, {}]]
    clocked.report(
        "camera-1", 1, **counts(2), profile=window.to_json(), at=str(T0),
        sample={"share": 1.0, "rows": rows},
    )  # fmt: skip
    person = Person("customer", "ada@example.com")
    CatalogueRows(clocked.fleet.catalogue, person, lambda _: False, own="").erase()
    (sampled,) = clocked.fleet.rows("camera-1")
    assert [inputs for inputs, _ in sampled.rows] == [
        {"customer": ERASED}, {"customer": "bob@example.com"},
    ]  # fmt: skip
    (kept,) = windows(clocked, tmp_path)
    assert kept.inputs.columns["customer"].frequent.counts == {ERASED: 1, "bob@example.com": 1}
    clocked.report("camera-2", 1, **profiled([1.0]))
    assert windows(clocked, tmp_path)[0].rows == 3
