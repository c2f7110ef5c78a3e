from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bascule.core import Invalid
from bascule.jobs import Schedule, due, late_since, may_run, next_time
from bascule.jobs.due import opens_at

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)


def nightly(**changes: Any) -> Schedule:
    facts: dict[str, Any] = {"name": "n", "cron": "0 2 * * *", "job": {}, "created_at": T0}
    return Schedule(**(facts | changes))


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 3, day, hour, minute, tzinfo=UTC)


def test_nothing_is_due_before_the_first_time_after_it_was_added():
    assert due(nightly(), None, at(2, 1, 59)) is None
    assert due(nightly(), None, at(2, 2)) == at(2, 2)


def test_a_time_that_was_run_for_is_not_due_again():
    assert due(nightly(), at(2, 2), at(3, 1, 59)) is None
    assert due(nightly(), at(2, 2), at(3, 2)) == at(3, 2)


@pytest.mark.parametrize(
    ("catch_up", "expected"), [("one", at(5, 2)), ("all", at(3, 2)), ("none", None)]
)
def test_missed_times_are_caught_up_as_asked(catch_up, expected):
    assert due(nightly(catch_up=catch_up), at(2, 2), at(5, 9)) == expected


def test_without_catching_up_a_time_is_due_for_five_minutes():
    schedule = nightly(catch_up="none")
    assert due(schedule, None, at(2, 2, 5)) == at(2, 2)
    assert due(schedule, None, at(2, 2, 5) + timedelta(seconds=1)) is None


def test_a_paused_schedule_is_never_due():
    assert due(nightly(is_paused=True), None, at(9, 9)) is None


def test_fields_are_meant_in_the_time_zone():
    assert next_time(nightly(timezone="Asia/Tokyo"), T0) == at(1, 17)


def test_a_night_whose_hour_comes_twice_runs_once_and_one_without_it_runs():
    """Clocks in Paris go forward on 29 March 2026 at 2:00, and back on 25 October at 3:00."""
    schedule = nightly(cron="30 2 * * *", timezone="Europe/Paris")
    spring = [T0.replace(day=28, hour=20)]
    autumn = [datetime(2026, 10, 24, 20, tzinfo=UTC)]
    for times in (spring, autumn):
        while len(times) < 4:
            times.append(next_time(schedule, times[-1]))
    assert [one.astimezone(UTC).day for one in spring[1:]] == [29, 30, 31]
    assert [one.astimezone(UTC).day for one in autumn[1:]] == [25, 26, 27]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cron": "0 25 * * *"}, "cron"), ({"cron": ""}, "cron"),
        ({"timezone": "Mars/Olympus"}, "timezone"), ({"timezone": "../x"}, "timezone"),
        ({"name": "a b"}, "schedule name"), ({"catch_up": "some"}, "catch_up"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_schedule_is_refused_by_its_field(changes, said):
    with pytest.raises(Invalid, match=said):
        nightly(**changes)


# -- windows --

NIGHT = {"cron": "0 20 * * *", "window": "22:00-06:00", "timezone": "Europe/Paris"}


@pytest.mark.parametrize(
    ("hour", "minute", "may"), [(21, 59, False), (22, 0, True), (5, 59, True), (6, 0, False)]
)
def test_a_job_may_run_from_the_start_of_its_window_to_the_end(hour, minute, may):
    assert may_run(nightly(window="22:00-06:00"), at(2, hour, minute)) is may


def test_a_window_of_one_day_has_an_end_after_its_start():
    noon = nightly(window="12:00-13:30")
    assert [may_run(noon, at(2, 12)), may_run(noon, at(2, 13, 30))] == [True, False]


def test_a_time_outside_of_the_window_waits_until_it_opens():
    schedule = nightly(**NIGHT)
    assert opens_at(schedule, at(2, 19)) == at(2, 21)  # 20:00 in Paris; it opens at 22:00
    assert opens_at(schedule, at(2, 22)) == at(2, 22)
    assert opens_at(nightly(window="01:00-02:00"), at(2, 5)) == at(3, 1)


def test_a_window_opens_at_its_hour_also_when_clocks_change():
    """Paris is at UTC+1 until 29 March 2026, then at UTC+2."""
    schedule = nightly(**NIGHT)
    assert opens_at(schedule, at(28, 12)) == at(28, 21)
    assert opens_at(schedule, at(29, 12)) == at(29, 20)
    early = nightly(window="02:30-03:30", timezone="Europe/Paris")  # 2:30 does not exist that day
    assert opens_at(early, at(28, 22)) == at(29, 1)  # 3:00, right after the missing hour


def test_without_catching_up_a_time_is_due_until_five_minutes_after_the_window_opens():
    schedule = nightly(**NIGHT, catch_up="none")
    assert due(schedule, None, at(2, 21, 5)) == at(2, 19)
    assert due(schedule, None, at(2, 21, 6)) is None


@pytest.mark.parametrize("window", ["22:00", "22:00-22:00", "a-b", "25:00-26:00", "22:00Z-23:00Z"])
def test_what_is_no_window_is_refused(window):
    with pytest.raises(Invalid, match="window"):
        nightly(window=window)


# -- lateness --


def test_a_run_is_late_when_it_has_not_ended_so_long_after_its_time():
    schedule = nightly(late_after_min=30)
    assert late_since(schedule, None, at(2, 2, 30), is_under_way=False) is None
    late = late_since(schedule, None, at(2, 2, 31), is_under_way=False)
    assert late == late_since(schedule, at(2, 2), at(2, 2, 31), is_under_way=True) == at(2, 2)
    assert late_since(schedule, at(2, 2), at(2, 2, 31), is_under_way=False) is None


def test_an_hourly_schedule_that_nothing_runs_is_late_since_its_first_missed_time():
    hourly = nightly(cron="0 * * * *", late_after_min=90)
    assert late_since(hourly, at(2, 2), at(2, 9), is_under_way=False) == at(2, 3)


def test_the_time_until_the_window_opens_makes_no_run_late():
    schedule = nightly(**NIGHT, late_after_min=30)
    assert late_since(schedule, None, at(1, 21, 30), is_under_way=False) is None
    assert late_since(schedule, None, at(1, 21, 31), is_under_way=False) == at(1, 19)


def test_a_paused_schedule_is_never_late():
    assert late_since(nightly(is_paused=True), None, at(9, 9), is_under_way=False) is None
