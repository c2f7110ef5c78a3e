"""Runs a scheduled job in a process of its own: `python -m bascule.cli.scheduled`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bascule.core import BasculeError

if TYPE_CHECKING:
    from bascule.batch import Schedule
    from bascule.settings import Settings


def command_of(settings: Settings) -> Callable[[Schedule], tuple[Sequence[str], bytes]]:
    """What runs jobs by these settings; see `control.scheduling.ScheduleCommand`."""
    from pydantic import TypeAdapter

    from bascule.settings import Settings as Kind

    told = TypeAdapter(Kind).dump_python(settings, mode="json")

    def command(schedule: Schedule) -> tuple[Sequence[str], bytes]:
        asked = {"settings": told, "job": schedule.job, "folder": schedule.folder}
        argv = (sys.executable, "-m", "bascule.cli.scheduled", str(os.getpid()))
        return argv, json.dumps(asked).encode()

    return command


def main() -> None:
    """Run the job that standard input names; says the run, or the error."""
    from pydantic import TypeAdapter

    from bascule.app import open_registry
    from bascule.batch import job_of, run_job
    from bascule.bundle import load
    from bascule.bundle.programs import die_with
    from bascule.cli.screen import error_json, print_json
    from bascule.control import is_path, registered
    from bascule.settings import Settings as Kind

    die_with(int(sys.argv[1]))
    asked = json.loads(sys.stdin.read())
    settings = TypeAdapter(Kind).validate_python(asked["settings"])
    try:
        os.chdir(asked["folder"])
        job = job_of(asked["job"])
        if is_path(job.model):
            path, version = job.model, ""
        else:
            registry, found = registered(lambda: open_registry(settings), job.model)
            path, version = str(registry.path(found)), str(found.number)
        print_json(run_job(job, load(path), settings.home, version=version).to_json())
    except BasculeError as error:
        print_json(error_json(error))
    except OSError as error:
        print_json({"error": f"the folder of the job cannot be entered: {error}", "hint": ""})


if __name__ == "__main__":
    main()
