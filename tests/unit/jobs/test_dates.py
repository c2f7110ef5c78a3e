"""Dates of the due time in the jobs of schedules, and retries of runs that failed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.homes import jobs_in
from tests.waiting import until

from bascule.batch import job_of, planned
from bascule.core import Invalid
from bascule.jobs import Schedule, Schedules, time_before, with_dates
from bascule.jobs.due import retry_at

DUE = datetime(2026, 3, 29, 2, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def nightly(**fields: Any) -> Schedule:
    usual: dict[str, Any] = {
        "name": "n", "cron": "30 2 * * *", "job": {}, "created_at": DUE - timedelta(days=9)
    }  # fmt: skip
    return Schedule(**usual | fields)


def test_dates_are_those_of_the_interval_that_ends_at_the_due_time():
    job = {
        "from": "s3://in/day={{ ds }}/", "to": "out/{{ds_nodash}}/", "mode": "append", "limit": 3,
        "checks": ["rows > {{ due_ds }}"],
        "where": "at >= '{{ data_interval_start }}' AND at < '{{ data_interval_end }}'",
    }  # fmt: skip
    assert with_dates(nightly(job=job), DUE) == {
        "from": "s3://in/day=2026-03-28/", "to": "out/20260328/", "mode": "append", "limit": 3,
        "checks": ["rows > 2026-03-29"],
        "where": "at >= '2026-03-28T02:30:00+00:00' AND at < '2026-03-29T02:30:00+00:00'",
    }  # fmt: skip


def test_dates_are_in_the_zone_of_the_schedule():
    """Half past one in Tokyo is still the day before in UTC."""
    schedule = nightly(cron="30 1 * * *", timezone="Asia/Tokyo", job={"from": "{{ due_ds }}"})
    due = datetime(2026, 3, 28, 16, 30, tzinfo=UTC)
    assert with_dates(schedule, due) == {"from": "2026-03-29"}


def test_the_time_before_is_found_over_a_change_of_clocks():
    schedule = nightly(cron="0 12 * * *", timezone="Europe/Paris")
    noon = datetime(2026, 3, 29, 10, tzinfo=UTC)
    assert time_before(schedule, noon) == noon - timedelta(hours=23)


@pytest.mark.parametrize("text", ["{{ today }}", "{{ ds + 1 }}", "{{ }}", "{{ __class__ }}"])
def test_a_date_that_there_is_not_is_refused_when_the_schedule_is_made(tmp_path, text):
    schedules = Schedules(jobs_in(tmp_path / "home").catalogue)
    for keep in (schedules.add, schedules.put):
        with pytest.raises(Invalid, match="there is no date"):
            keep(nightly(job={"from": f"x/{text}"}), by="me")
    assert schedules.list() == []


def test_a_run_of_no_schedule_has_no_dates(tmp_path):
    job = job_of({"model": "m", "from": f"{tmp_path}/{{{{ ds }}}}/", "to": "out/"})
    with pytest.raises(Invalid, match="a date of a schedule"), planned(job, None):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize(
    ("failures", "minutes"), [(0, None), (1, 5), (2, 10), (3, 20), (4, None)]
)  # fmt: skip
def test_retries_wait_twice_as_long_each_time(failures, minutes):
    expected = None if minutes is None else DUE + minutes * MINUTE
    assert retry_at(nightly(retries=3), failures, DUE) == expected


def test_no_retry_waits_longer_than_a_day():
    schedule = nightly(retries=50, retry_after_min=600)
    assert retry_at(schedule, 40, DUE) == DUE + timedelta(days=1)


def test_a_run_that_fails_is_tried_again_for_its_time_and_then_no_more(tmp_path, make_runner):
    catalogue = jobs_in(tmp_path / "home").catalogue
    schedules, now = Schedules(catalogue), datetime.now(UTC)
    job = {"refuses": True, "note": "{{ due_ds }}"}
    schedule = nightly(cron="* * * * *", kind="echo", job=job, retries=1, created_at=now)
    schedules.add(schedule, by="me")
    clock = [now + MINUTE]
    runner = make_runner(clock=lambda: clock[0])

    def runs() -> list[Any]:
        runner.turn()
        return list(runner.find(kind="echo"))

    until(lambda: runs() and schedules.get("n").retry_at)
    first = schedules.get("n")
    assert first.due is not None
    assert len(runs()) == 1  # neither the next time nor the retry, for five minutes
    clock[0] = now + 6 * MINUTE
    until(lambda: len(runs()) == 3)  # the retries are used up: the next time is run for
    *tried, following = sorted(runs(), key=lambda one: one.created_at)
    assert [one.due for one in tried] == [first.due, first.due]
    assert {one.input["note"] for one in tried} == {f"{first.due:%Y-%m-%d}"}
    assert following.due > first.due


def test_a_schedule_of_a_former_release_has_no_retries():
    known = msgspec.to_builtins(nightly())
    del known["retries"], known["retry_after_min"]
    assert msgspec.convert(known, Schedule).retries == 0
