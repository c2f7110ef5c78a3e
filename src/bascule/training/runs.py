"""Training runs, as people compare them: views of the jobs of kind `train`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bascule.jobs import Job

KIND = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run.

    Attributes:
        id: Of its job.
        pipeline: Its name.
        state: As of the job.
        why: Why it was started, in a sentence.
        version: What it has pushed; empty for nothing.
        endpoint: That a winner goes to; empty for none, and before the end.
        feedback: What answers did to its rows; see `feedback_of`.
        sentence: What came of it: the verdict, or the error.
        parameters: Of the pipeline and of this run.
        metrics: What the code noted, and how the version did on the newest rows.
        curves: Of each name, (step, value) pairs.
        began_at: When it was submitted.
        seconds: It took.
    """

    id: str
    pipeline: str
    state: str
    why: str
    version: str
    endpoint: str
    feedback: str
    sentence: str
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[float, float]]]
    began_at: datetime
    seconds: float

    @classmethod
    def of(cls, job: Job) -> Run:
        result = job.result or {}
        problem = job.problem
        return cls(
            id=job.id, pipeline=str(job.input["pipeline"] or job.subject.split(" ")[0]),
            state=job.state,
            why=str(job.input.get("why", "")), version=result.get("version") or "",
            endpoint=result.get("pipeline", {}).get("endpoint", ""),
            feedback=result.get("feedback", ""),
            sentence=result.get("sentence") or ("" if problem is None else problem.message),
            parameters=result.get("parameters", job.input.get("parameters", {})),
            metrics=result.get("metrics", {}), curves=result.get("curves", {}),
            began_at=job.created_at, seconds=job.seconds(),
        )  # fmt: skip


def compared(runs: Sequence[Run]) -> list[tuple[str, list[Any]]]:
    """A row for each parameter and metric that any of the runs has: its name, and each value."""

    def names(of: Iterable[Mapping[str, Any]]) -> list[str]:
        return sorted({name for names in of for name in names})

    return [
        *((name, [run.parameters.get(name) for run in runs])
          for name in names(run.parameters for run in runs)),
        *((name, [run.metrics.get(name) for run in runs])
          for name in names(run.metrics for run in runs)),
    ]  # fmt: skip
