"""Batch scoring as jobs: a run, and a look at its first rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.core import Invalid, Limits, Reference
from bascule.jobs import Kind, Live, Task, half_of_memory
from bascule.security import ANY

if TYPE_CHECKING:
    from bascule.batch import Job, Places
    from bascule.settings import Settings

_RUN_S = 7 * 86_400.0
_UPLOADS = re.compile(r".*/console/uploads/[\w-]{22}/")


def parsed(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a JOB.toml, checked."""
    from bascule.batch import job_of

    return job_of(content).to_json()


def confine(content: Mapping[str, Any], places: Sequence[str], folder: str) -> None:
    """See `Kind.confine`."""
    from bascule.batch import Places, job_of

    Places(places).check(job_of(content), folder)


def model_of(content: Mapping[str, Any]) -> str:
    """The name that rights are about; of a folder, all models."""
    try:
        return Reference.parse(str(content.get("model", ""))).model
    except Invalid:
        return ANY


def _opened(settings: Settings, task: Task) -> tuple[Job, Places | None]:
    """The job, in the folder that its paths are relative to."""
    from bascule.batch import Places, job_of
    from bascule.kinds.child import enter

    # Relative to the server's folder, which this is so far.
    places = Places(settings.batch.places) if task.is_confined else None
    enter(task.folder)
    job = job_of(task.input)
    if places is not None:
        places.check(job)  # before the model is opened
    check_upload(job.source)
    return job, places


def check_upload(place: str) -> None:
    """Refuse an uploaded table that grows too much before it is read; see `check_growth`."""
    from bascule.batch import check_growth

    if _UPLOADS.match(place):
        check_growth(Path(place))


def run(settings: Settings, task: Task, live: Live) -> dict[str, Any]:
    """Score the rows, or go on where an earlier process has ended."""
    from bascule.app import batch_model
    from bascule.batch import run_job

    job, places = _opened(settings, task)
    bundle, version, rules = batch_model(settings, job.model)
    return run_job(
        job, bundle, settings.home, version=version, live=live, expected_run=task.subject,
        monitoring=rules, places=places,
    ).to_json()  # fmt: skip


def preview(settings: Settings, task: Task, _live: Live) -> dict[str, Any]:
    """Plan a job and score its first rows; nothing is written."""
    from bascule.app import batch_model
    from bascule.batch import planned

    job, places = _opened(settings, task)
    bundle, version, _ = batch_model(settings, job.model)
    with planned(job, bundle, version, places) as plan:
        table = plan.preview()
        return {
            "run": plan.manifest.run, "rows": plan.rows, "chunks": len(plan.chunks),
            "expected_s": plan.expected_s(), "from": plan.source.place, "to": plan.sink.place,
            "columns": table.column_names,
            "preview": [[_cell(one) for one in row.values()] for row in table.to_pylist()],
        }  # fmt: skip


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


BATCH = Kind(
    name="batch", run=run, parse=parsed, confine=confine, model_of=model_of, places=4,
    can_resume=True, kept=None, is_open=True, logger="bascule.batch",
    limits=Limits(_RUN_S, half_of_memory() * 3 // 2),
)  # fmt: skip
PREVIEW = Kind(name="preview", run=preview, parse=parsed, model_of=model_of, is_private=True)
