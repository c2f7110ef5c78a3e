from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bascule.batch import Schedule, Schedules
from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.control.scheduling import ScheduleRunner
from bascule.core import Conflict, NotFound

T0 = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
HOUR = timedelta(hours=1)


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(SqliteDatabase(tmp_path / "catalogue.db"))


def hourly(name: str = "n") -> Schedule:
    return Schedule(name=name, cron="0 * * * *", job={"model": "m"}, created_at=T0)


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


def writes(path: Path, *, seconds: float = 0.0) -> Callable[[Schedule], Any]:
    """A command that adds a line to a file, and says so as a run does."""
    script = (
        f"import time; print('x', file=open({str(path)!r}, 'a'), flush=True); "
        f"time.sleep({seconds}); print('{{\"rows\": 3}}')"
    )
    return lambda _: ((sys.executable, "-c", script), b"")


def turn_until(runner: ScheduleRunner, is_so: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 30
    while not is_so():
        runner.turn()
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_what_is_due_runs_once_and_its_outcome_is_kept(catalogue, tmp_path):
    schedules, clock, ran = Schedules(catalogue), Clock(), tmp_path / "ran"
    schedules.add(hourly(), by="me")
    runner = ScheduleRunner(catalogue, writes(ran), clock=clock)
    runner.turn()
    assert not schedules.get("n").is_under_way
    clock.now = T0 + HOUR
    turn_until(runner, lambda: schedules.get("n").outcome is not None)
    for _ in range(3):
        runner.turn()
    found = schedules.get("n")
    assert (found.due, found.outcome, found.is_under_way) == (T0 + HOUR, {"rows": 3}, False)
    assert ran.read_text() == "x\n"


def test_one_controller_of_several_runs_what_is_due(catalogue, tmp_path):
    schedules, clock, ran = Schedules(catalogue), Clock(), tmp_path / "ran"
    schedules.add(hourly(), by="me")
    clock.now = T0 + HOUR
    first, second = (ScheduleRunner(catalogue, writes(ran), clock=clock) for _ in range(2))
    first.turn()
    second.turn()
    turn_until(first, lambda: schedules.get("n").outcome is not None)
    second.turn()
    assert ran.read_text() == "x\n"


def test_a_run_under_way_is_not_started_beside_itself(catalogue, tmp_path):
    schedules, clock, ran = Schedules(catalogue), Clock(), tmp_path / "ran"
    schedules.add(hourly(), by="me")
    runner = ScheduleRunner(catalogue, writes(ran, seconds=60), clock=clock)
    clock.now = T0 + HOUR
    turn_until(runner, ran.exists)
    clock.now = T0 + 2 * HOUR
    runner.turn()
    assert schedules.get("n").due == T0 + HOUR
    runner._stop()


def test_the_next_controller_runs_again_what_one_that_died_had_begun(catalogue, tmp_path):
    schedules, clock, ran = Schedules(catalogue), Clock(), tmp_path / "ran"
    schedules.add(hourly(), by="me")
    clock.now = T0 + HOUR
    dying = ScheduleRunner(catalogue, writes(ran, seconds=60), clock=clock)
    turn_until(dying, lambda: ran.exists() and ran.read_text() == "x\n")
    dying._stop()
    assert dying.leadership.lease is not None
    dying.leadership.release()
    heir = ScheduleRunner(catalogue, writes(ran), clock=clock)
    turn_until(heir, lambda: schedules.get("n").outcome is not None)
    assert (schedules.get("n").due, ran.read_text()) == (T0 + HOUR, "x\nx\n")


def test_a_run_that_dies_has_an_error_as_its_outcome(catalogue):
    schedules, clock = Schedules(catalogue), Clock()
    schedules.add(hourly(), by="me")
    clock.now = T0 + HOUR
    command = lambda _: ((sys.executable, "-c", "import sys; sys.exit(7)"), b"")  # noqa: E731
    runner = ScheduleRunner(catalogue, command, clock=clock)
    turn_until(runner, lambda: schedules.get("n").outcome is not None)
    assert "ended with 7" in schedules.get("n").outcome["error"]
    assert json.dumps(schedules.get("n").to_json())
