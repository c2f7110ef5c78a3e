"""What the control API does with jobs."""

from __future__ import annotations

from dataclasses import dataclass

from bascule.jobs.deferred import MAX_REQUEST_BYTES
from bascule.jobs.records import Job
from bascule.operations import Listing, Operation
from bascule.security import ANY


@dataclass(frozen=True, slots=True)
class Log:
    """The end of a log."""

    log: str


JOBS = Listing("GET jobs", "read", ANY, Job)
# Of which kind and model is in the body, or known by the job: asked then.
SUBMIT = Operation("POST jobs", "manage", "", Job, status=201)
JOB = Operation("GET jobs/{job}", "read", "", Job)
LOG = Operation("GET jobs/{job}/log", "read", "", Log)
COMMAND = Operation("POST jobs/{job}/{command}", "manage", "", Job)
DEFER = Operation(
    "POST models/{model}/inferences", "infer", "{model}", Job, "jobs", status=202,
    history="job_submitted", keeps=True, max_body_bytes=MAX_REQUEST_BYTES,
)  # fmt: skip
ANSWER = Operation("GET jobs/{job}/answer", "read", "", bytes)
END = Operation("DELETE jobs/{job}", "read", "", Job, history="job_cancel_requested", is_once=True)
