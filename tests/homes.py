"""What is recorded in a home: its catalogue, jobs and batch runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.waiting import until

from bascule.app import open_catalogue
from bascule.batch import Runs
from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.core import load_named
from bascule.jobs import JobRunner, Jobs, Task
from bascule.kinds import KINDS
from bascule.kinds.child import Told, do
from bascule.settings import Settings


def jobs_in(home: Path) -> Jobs:
    """The jobs of a home."""
    return Jobs(Catalogue(SqliteDatabase(home / "catalogue.db")))


def runs_in(home: Path) -> Runs:
    """The batch runs of a home."""
    return Runs(jobs_in(home))


class Inline:
    """What stands in for a child: the kind runs in this process."""

    def __init__(self, settings: Settings, place: str, task: Task) -> None:
        self._settings, self._place, self._task = settings, place, task

    def answer(self, take: Callable[[Any], None] = lambda _: None) -> dict[str, Any]:
        reply = do(self._settings, load_named(self._place), self._task, Told(take))
        plain: dict[str, Any] = json.loads(json.dumps(reply, default=str))
        return plain

    def stop(self, within_s: float) -> None:
        """It ends by itself."""


def inline_jobs(settings: Settings) -> JobRunner:
    """A runner whose jobs are done in this process, on a thread each."""
    return JobRunner(open_catalogue(settings), KINDS, partial(Inline, settings))


def finished(jobs: Jobs, within_s: float = 180.0) -> None:
    """Wait until no job is under way; the jobs themselves may have failed.

    Looks seldom enough to leave the processor to jobs that are done in this process.
    """
    until(lambda: all(job.is_ended for job in jobs.find()), within_s)
