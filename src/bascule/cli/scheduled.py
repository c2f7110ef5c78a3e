"""Runs a scheduled job, or one that a caller started, in a process of its own.

`python -m bascule.cli.scheduled PARENT_PID` reads the job from standard input. It writes one line
of JSON when the run begins, and one at its end: the run, or the error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bascule.core import KINDS, BasculeError, NotFound

if TYPE_CHECKING:
    from bascule.batch import Places, Schedule, Status
    from bascule.settings import Settings


def run_command_of(
    settings: Settings,
) -> Callable[[Mapping[str, Any]], tuple[Sequence[str], bytes]]:
    """What runs jobs by these settings; see `control.batch_runs.RunCommand`."""
    from pydantic import TypeAdapter

    from bascule.settings import Settings as Kind

    told = TypeAdapter(Kind).dump_python(settings, mode="json")

    def command(asked: Mapping[str, Any]) -> tuple[Sequence[str], bytes]:
        argv = (sys.executable, "-m", "bascule.cli.scheduled", str(os.getpid()))
        return argv, json.dumps({**asked, "settings": told}).encode()

    return command


def command_of(settings: Settings) -> Callable[[Schedule], tuple[Sequence[str], bytes]]:
    """What runs schedules by these settings; see `control.scheduling.ScheduleCommand`."""
    from bascule.batch import OF_SCHEDULE

    run = run_command_of(settings)

    def command(schedule: Schedule) -> tuple[Sequence[str], bytes]:
        by = f"{OF_SCHEDULE}{schedule.name}"
        places = list(settings.batch.places) if schedule.is_confined else None
        return run({"job": schedule.job, "folder": schedule.folder, "by": by, "places": places})

    return command


def main() -> None:
    """Run the job that standard input names."""
    from pydantic import TypeAdapter

    from bascule.batch import Places
    from bascule.bundle.programs import die_with
    from bascule.cli.screen import error_json
    from bascule.settings import Settings as Kind

    die_with(int(sys.argv[1]))
    asked = json.loads(sys.stdin.read())
    settings = TypeAdapter(Kind).validate_python(asked["settings"])
    try:
        given = asked.get("places")  # relative to the server's folder, which this is so far
        places = None if given is None else Places(given)
        try:
            os.chdir(asked["folder"])
        except OSError as problem:
            raise NotFound(f"the folder of the job cannot be entered: {problem}") from None
        _say(_run(settings, asked, places))
    except BasculeError as error:
        kind = next(one for one in type(error).__mro__ if one in KINDS)
        said = {**error_json(error), "kind": kind.__name__}
        if "under_way" in error.facts:
            said["run"] = str(error.facts["under_way"])
        _say(said)


def _run(settings: Settings, asked: Mapping[str, Any], places: Places | None) -> dict[str, Any]:
    from bascule.app import batch_model
    from bascule.batch import job_of, run_job

    has_begun = False

    def watch(status: Status) -> None:
        nonlocal has_begun
        if not has_begun:
            has_begun = True
            _say({"run": status.run})

    job = job_of(asked["job"])
    if places is not None:
        places.check(job)  # before the model is opened
    bundle, version, rules = batch_model(settings, job.model)
    return run_job(
        job, bundle, settings.home, version=version, monitoring=rules, by=asked.get("by", ""),
        expected_run=asked.get("expected_run", ""), watch=watch, places=places,
    ).to_json()  # fmt: skip


def _say(content: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
