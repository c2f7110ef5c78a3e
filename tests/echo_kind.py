"""A kind of job for tests: it counts, and tells what it was given. One file, and a line for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bascule.core import Invalid
from bascule.jobs import Kind, Live, Task

PLACE = "tests.echo_kind:ECHO"
"""Its line in the table of kinds."""


def echo(_settings: Any, task: Task, live: Live) -> dict[str, Any]:
    """Count to `to`, a step each `every_s`; add a line to the file `ran` at each start."""
    if "ran" in task.input:
        with Path(task.input["ran"]).open("a") as file:
            file.write("x\n")
    if task.input.get("refuses"):
        raise Invalid("it is refused", hint="ask for less")
    whole = int(task.input.get("to", 3))
    for done in range(whole):
        live.tell({"done": done, "of": whole})
        time.sleep(float(task.input.get("every_s", 0)))
        if live.stopped:
            raise Invalid("it was stopped")
    live.tell({"done": whole, "of": whole})
    return {"echo": task.input.get("text", ""), "rows": whole, "by": task.by}


ECHO = Kind(name="echo", run=echo, is_open=True, can_resume=True, places=2, retries=1)
