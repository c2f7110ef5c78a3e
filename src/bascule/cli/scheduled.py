"""Runs a batch job in a process of its own: `python -m bascule.cli.scheduled`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bascule.cli.children import answer_parent, told_settings

if TYPE_CHECKING:
    from bascule.batch import Schedule
    from bascule.bundle import Bundle
    from bascule.settings import Settings


def command_of(settings: Settings) -> Callable[[Schedule], tuple[Sequence[str], bytes]]:
    """What runs jobs by these settings; see `control.scheduling.ScheduleCommand`."""
    told = told_settings(settings)

    def command(schedule: Schedule) -> tuple[Sequence[str], bytes]:
        asked = {"settings": told, "job": schedule.job, "folder": schedule.folder}
        argv = (sys.executable, "-m", "bascule.cli.scheduled", str(os.getpid()))
        return argv, json.dumps(asked).encode()

    return command


def run(settings: Settings, asked: dict[str, Any]) -> dict[str, Any]:
    """Run the job of a question, or go on with its `expected_run`; the run as JSON."""
    from bascule.batch import job_of, run_job

    enter(asked["folder"])
    job = job_of(asked["job"])
    bundle, version = bundle_of(settings, job.model)
    expected = asked.get("expected_run", "")
    return run_job(job, bundle, settings.home, version=version, expected_run=expected).to_json()


def enter(folder: str) -> None:
    """Go to the folder that a job's paths are relative to. Raises `Invalid`."""
    from bascule.core import Invalid

    try:
        os.chdir(folder)
    except OSError as error:
        raise Invalid(
            f"the folder of the job cannot be entered: {error}", hint="make it, or change the job"
        ) from None


def bundle_of(settings: Settings, reference: str) -> tuple[Bundle, str]:
    """A bundle, and the number of its version; empty for a folder."""
    from bascule.app import open_registry
    from bascule.bundle import load
    from bascule.control import is_path, registered

    if is_path(reference):
        return load(reference), ""
    registry, version = registered(lambda: open_registry(settings), reference)
    return load(registry.path(version)), str(version.number)


if __name__ == "__main__":
    answer_parent(run)
