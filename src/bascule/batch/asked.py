"""`bascule.batch.run`: a job from Python."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.batch.jobs import Job, job_of
from bascule.batch.remote import RemoteRuns
from bascule.batch.running import Run, run_job
from bascule.batch.runs import KIND
from bascule.bundle import Bundle
from bascule.core import load_named, user_name
from bascule.jobs import Task, recorded
from bascule_client.control import ControlClient

if TYPE_CHECKING:
    from bascule.jobs import Job as Record, Jobs, Recorded

_OPENER = "bascule.api:batch_model"
"""Finds models and the home by the settings, which are above this room; imported when used."""


def run(
    model: Bundle | str | Path, source: str | Path, sink: str | Path, *, server: str = "",
    **options: Any,
) -> Run:  # fmt: skip
    """Score a table: `bascule.batch.run("late@champion", "flights/*.parquet", "scored/")`.

    The same call on the same rows again changes nothing; after a crash it goes on.

    Args:
        model: A bundle, its folder, or a registered model.
        source: Files (a path, a glob or the URL of a bucket), `delta://TABLE`, or a database
            and a table: `postgresql://HOST/DB#TABLE`.
        sink: A folder that ends in `/`, a file, or a table.
        server: The control API of the server that runs it, `http://HOST:8082`, with the key of
            `BASCULE_KEY`; paths are those of that machine. This process if empty.
        **options: The fields of `Job`: `columns`, `keep`, `where`, `mode`, `checks`...

    Raises:
        Invalid: The source does not fit the model, or an option is wrong.
        Conflict: The sink has rows of another run.
        Refused: A check failed, or too many rows cannot be scored.
    """
    named = str(model.path if isinstance(model, Bundle) else model)
    job = job_of({"model": named, "from": str(source), "to": str(sink), **options})
    if server:
        return _run_at(server, job)
    bundle, version, rules, home, jobs = load_named(_OPENER)(model)
    with recorded_run(jobs, job, by=user_name()) as live:
        done = run_job(job, bundle, home, version=version, monitoring=rules, live=live)
        live.result = done.to_json()
    return done


def recorded_run(
    jobs: Jobs, job: Job, *, by: str, again: Record | None = None
) -> AbstractContextManager[Recorded]:
    """Record a run of this process; `again` is the job that it goes on with. See `recorded`."""
    task = again or Task(
        kind=KIND, input=job.to_json(), title=f"scoring {job.source}", by=by, folder=os.getcwd()
    )
    return recorded(jobs, task, "bascule.batch")


def _run_at(server: str, job: Job) -> Run:
    runs = RemoteRuns(ControlClient(server, key=os.environ.get("BASCULE_KEY", "")))
    status = runs.wait(runs.start(job, by=user_name()).run)
    return Run(
        status.rows, status.quarantined, status.seconds, runs.manifest(status.run),
        tuple(status.findings),
    )  # fmt: skip
