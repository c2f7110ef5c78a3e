from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bascule.batch import Schedule, due, next_time
from bascule.core import Invalid

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
