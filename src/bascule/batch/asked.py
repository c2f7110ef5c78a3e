"""`bascule.batch.run`: a job from Python."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from bascule.batch.jobs import job_of
from bascule.batch.running import Run, run_job
from bascule.bundle import Bundle

_OPENER = "bascule.api", "batch_model"
"""Finds models and the home by the settings, which are above this room; imported when used."""


def run(model: Bundle | str | Path, source: str | Path, sink: str | Path, **options: Any) -> Run:
    """Score a table: `bascule.batch.run("late@champion", "flights/*.parquet", "scored/")`.

    The same call on the same rows again changes nothing; after a crash it goes on.

    Args:
        model: A bundle, its folder, or a registered model.
        source: Files (a path, a glob or the URL of a bucket), `delta://TABLE`, or a database
            and a table: `postgresql://HOST/DB#TABLE`.
        sink: A folder that ends in `/`, a file, or a table.
        **options: The fields of `Job`: `columns`, `keep`, `where`, `mode`, `checks`...

    Raises:
        Invalid: The source does not fit the model, or an option is wrong.
        Conflict: The sink has rows of another run.
        Refused: A check failed, or too many rows cannot be scored.
    """
    module, name = _OPENER
    bundle, version, home = getattr(import_module(module), name)(model)
    named = str(model.path if isinstance(model, Bundle) else model)
    job = job_of({"model": named, "from": str(source), "to": str(sink), **options})
    return run_job(job, bundle, home, version=version)
