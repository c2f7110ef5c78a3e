"""`bascule.run_job`: a job of any kind from Python, here or at a server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bascule.core import user_name
from bascule.jobs import RemoteJobs, Task, until_ended
from bascule.kinds.child import runner_of
from bascule.kinds.kind_table import KINDS
from bascule_client.control import ControlClient

if TYPE_CHECKING:
    from bascule.jobs import Job


def run_job(kind: str, content: Mapping[str, Any], *, server: str = "") -> Job:
    """Do a job of any kind in a process of its own; returns it once it is done.

    Args:
        kind: `batch`, `drift`...; a line of the table of kinds.
        content: Its input, as JSON.
        server: The control API of the server that does it, with the key of `BASCULE_KEY`;
            the job is done beside this process if it is empty.

    Raises:
        BasculeError: What the job raised.
    """
    from bascule.settings import load_settings

    task = Task(
        kind=kind, input=KINDS[kind].parse(content), title=kind, by=user_name(), folder=os.getcwd()
    )
    client = ControlClient(server, key=os.environ.get("BASCULE_KEY", "")) if server else None
    jobs = RemoteJobs(client) if client is not None else runner_of(load_settings())
    job = until_ended(jobs, jobs.submit(task).id)
    if job.problem is not None:
        raise job.problem
    return job
