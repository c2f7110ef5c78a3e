from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.homes import jobs_in
from tests.waiting import until

from bascule.catalogue import Catalogue
from bascule.core import Conflict, NotFound
from bascule.jobs import JobRunner, Jobs, Schedule, Schedules

from .conftest import task

T0 = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
HOUR = timedelta(hours=1)


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return jobs_in(tmp_path / "home").catalogue


def hourly(name: str = "n", **job: Any) -> Schedule:
    return Schedule(name=name, cron="0 * * * *", kind="echo", job=job, created_at=T0)


def test_a_schedule_is_kept_until_it_is_removed(catalogue):
    schedules = Schedules(catalogue)
    assert schedules.list() == []
    schedules.add(hourly(), by="me")
    assert schedules.get("n").schedule == hourly()
    with pytest.raises(Conflict):
        schedules.add(hourly(), by="me")
    schedules.remove("n", by="me")
    with pytest.raises(NotFound):
        schedules.get("n")
    schedules.add(hourly(), by="me")


def test_a_schedule_is_paused_and_resumed(catalogue):
    schedules = Schedules(catalogue)
    schedules.add(hourly(), by="me")
    schedules.pause("n", by="me")
    assert schedules.get("n").schedule.is_paused
    schedules.resume("n", by="me")
    assert not schedules.get("n").schedule.is_paused
    with pytest.raises(NotFound):
        schedules.pause("x", by="me")


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def outcome_of(schedules: Schedules, *runners: JobRunner) -> dict[str, Any]:
    """Turn until the run of the schedule has ended."""

    def is_ended() -> bool:
        for runner in runners:
            runner.turn()
        return schedules.get("n").outcome is not None

    until(is_ended)
    return dict(schedules.get("n").outcome or {})


def test_what_is_due_runs_once_and_its_outcome_is_kept(catalogue, make_runner, clock, tmp_path):
    schedules, ran = Schedules(catalogue), tmp_path / "ran"
    schedules.add(hourly(ran=str(ran)), by="me")
    runner = make_runner(clock=clock)
    runner.turn()
    assert not schedules.get("n").is_under_way
    clock.now = T0 + HOUR
    assert outcome_of(schedules, runner)["rows"] == 3
    for _ in range(3):
        runner.turn()
    found = schedules.get("n")
    assert (found.due, found.is_under_way) == (T0 + HOUR, False)
    assert ran.read_text() == "x\n"
    (job,) = runner.find(kind="echo")
    assert (job.by, job.schedule, job.due) == ("schedule n", "n", T0 + HOUR)
    assert json.dumps(schedules.get("n").to_json())


def test_one_controller_of_several_runs_what_is_due(catalogue, make_runner, clock, tmp_path):
    schedules, ran = Schedules(catalogue), tmp_path / "ran"
    schedules.add(hourly(ran=str(ran)), by="me")
    clock.now = T0 + HOUR
    first, second = make_runner(clock=clock), make_runner(clock=clock)
    outcome_of(schedules, first, second)
    assert ran.read_text() == "x\n"


def test_a_run_under_way_is_not_started_beside_itself(catalogue, make_runner, clock, tmp_path):
    schedules, ran = Schedules(catalogue), tmp_path / "ran"
    schedules.add(hourly(ran=str(ran), to=600, every_s=0.1), by="me")
    runner = make_runner(clock=clock)
    clock.now = T0 + HOUR
    until(lambda: runner.turn() or ran.exists())
    clock.now = T0 + 2 * HOUR
    runner.turn()
    assert schedules.get("n").due == T0 + HOUR
    runner.command(runner.find()[0].id, "cancel")
    assert outcome_of(schedules, runner)["error"] == "cancelled"


def test_a_run_that_a_former_release_began_is_run_again(catalogue, make_runner, clock, tmp_path):
    """It wrote an event and no job, and its process is gone."""
    schedules, ran = Schedules(catalogue), tmp_path / "ran"
    schedules.add(hourly(ran=str(ran)), by="me")
    schedules.started("n", T0 + HOUR, by="old", lease=None)
    clock.now = T0 + HOUR
    assert outcome_of(schedules, make_runner(clock=clock))["rows"] == 3
    assert (schedules.get("n").due, ran.read_text()) == (T0 + HOUR, "x\n")


@pytest.mark.slow
def test_a_run_stops_when_its_hours_end_and_goes_on_in_the_next(
    catalogue, make_runner, clock, tmp_path
):
    schedules, ran = Schedules(catalogue), tmp_path / "ran"
    opens, closes = T0 + HOUR, T0 + 2 * HOUR
    slow = msgspec.structs.replace(
        hourly(ran=str(ran), to=20, every_s=0.1), window=f"{opens:%H:%M}-{closes:%H:%M}"
    )
    schedules.add(slow, by="me")
    runner = make_runner(clock=clock)
    clock.now = opens
    until(lambda: runner.turn() or ran.exists())
    clock.now = closes
    until(lambda: runner.find()[0].state == "queued")
    runner.turn()
    assert runner.find()[0].state == "queued"
    clock.now = opens + 24 * HOUR
    assert outcome_of(schedules, runner)["rows"] == 20
    assert ran.read_text() == "x\nx\n"


def test_a_run_that_fails_has_an_error_as_its_outcome(catalogue, make_runner, clock):
    schedules = Schedules(catalogue)
    schedules.add(hourly(refuses=True), by="me")
    clock.now = T0 + HOUR
    assert outcome_of(schedules, make_runner(clock=clock))["error"] == "it is refused"


def test_a_schedule_whose_key_has_ended_runs_no_more(catalogue, make_runner, clock, tmp_path):
    schedules, ran = Schedules(catalogue), tmp_path / "ran"
    schedules.add(msgspec.structs.replace(hourly(ran=str(ran)), key="gone"), by="me")
    clock.now = T0 + HOUR
    assert "is gone" in outcome_of(schedules, make_runner(clock=clock))["error"]
    assert not ran.exists()


def test_what_waits_of_a_schedule_that_is_removed_is_cancelled(catalogue, make_runner, clock):
    schedules = Schedules(catalogue)
    schedules.add(hourly(), by="me")
    clock.now = T0 + HOUR
    runner = make_runner(clock=clock)
    schedules.started("n", T0 + HOUR, by="me", lease=None)
    job = Jobs(catalogue).submit(task(schedule="n", due=T0 + HOUR))
    schedules.remove("n", by="me")
    runner.turn()
    assert runner.get(job.id).state == "cancelled"
