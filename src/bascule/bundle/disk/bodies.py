"""What the statements that Bascule itself makes must look like; others may say what they like.

A body is compared where a statement comes in: beside a bundle, into a registry, and when it is
made. So code that uses one may read its values directly. Unlisted keys are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from bascule.bundle.disk.reading import shaped

_Count = Annotated[int, Meta(ge=0)]
_Rows = Annotated[int, Meta(ge=1)]
_Time = Annotated[float, Meta(gt=0)]


class ParityBody(TypedDict):
    """See `statements.parity.Parity`."""

    program: str
    precision: str
    rows: _Count
    probes: _Count
    max_difference: float | None
    label_differences: _Count
    ties: _Count
    tolerance: float
    passed: bool
    reason: str
    probed: NotRequired[dict[str, _Count]]


class CostBody(TypedDict):
    """See `statements.cost.Cost`."""

    latency_us: dict[str, dict[_Rows, _Time]]
    peak_memory_bytes: int | None
    size_bytes: _Count
    machine: dict[str, str]


class CalibrationBody(TypedDict, total=False):
    """One sentence on where it comes from, and which rows; see `statements.calibrating`."""

    told: str
    distinct_rows: _Count
    row_hashes: str


class ColumnBody(TypedDict):
    """What is kept of a column of the training rows; see `statements.training`."""

    missing: float
    min: NotRequired[float]
    max: NotRequired[float]
    p05: NotRequired[float]
    median: NotRequired[float]
    p95: NotRequired[float]
    distinct: NotRequired[_Count]
    values: NotRequired[list[str]]


class TrainingBody(TypedDict):
    """See `statements.training`."""

    rows: _Count
    distinct_rows: _Count
    columns: dict[str, ColumnBody]
    row_hashes: str


class RowsBody(TypedDict):
    """How many rows, and the digest of their values."""

    rows: _Count
    sha256: str


class GitBody(TypedDict):
    """What was checked out."""

    commit: str
    dirty: bool


class ProvenanceBody(TypedDict, total=False):
    """Where a model came from; see `lineage.provenance`."""

    description: str | None
    git: GitBody | None
    train: RowsBody | None
    test: RowsBody | None
    calibration: RowsBody | None
    model_parameters: dict[str, Any] | None
    parameters: dict[str, Any] | None
    metrics: dict[str, Any] | None
    lineage: list[dict[str, Any]]
    made_with: dict[str, str]


class SliceBody(TypedDict):
    """Quality on some rows."""

    rows: _Count
    metrics: dict[str, float | None]


class QualityBody(TypedDict):
    """See `release.quality`."""

    rows: _Count
    overall: dict[str, float | None]
    slices: NotRequired[dict[str, dict[str, SliceBody]]]
    train_test_overlap: NotRequired[float | None]


class ResultBody(TypedDict):
    """What became of one criterion; see `release.gates`."""

    criterion: str
    passed: bool
    value: NotRequired[float | None]
    reason: NotRequired[str]
    limit: NotRequired[float]
    unit: NotRequired[str]


class GatesBody(TypedDict):
    """A verdict; see `release.gates`."""

    passed: bool
    results: NotRequired[list[ResultBody]]


class TrialBody(GatesBody):
    """The verdict of a check that left out configured criteria; see `release.checking`."""

    unjudged: list[str]


class DependenceBody(TypedDict):
    """Of one column; see `packing.explaining.importances`."""

    values: list[float | str]
    answers: dict[str, list[float]]


class ImportanceBody(TypedDict):
    """What a model depends on; see `packing.explaining.importances`."""

    rows: _Count
    source: str
    method: str
    unit: str
    importances: list[tuple[str, float]]
    dependence_rows: _Count
    dependence: dict[str, DependenceBody]


BODIES: Mapping[str, type] = {
    "calibration": CalibrationBody,
    "cost": CostBody,
    "gates": GatesBody,
    "importance": ImportanceBody,
    "parity": ParityBody,
    "provenance": ProvenanceBody,
    "quality": QualityBody,
    "training": TrainingBody,
    "trial": TrialBody,
}
"""By the kind of the statement."""


def check_body(kind: str, body: Any, file: str) -> None:
    """Raise `Untrusted` where a statement of a kind that is known does not say what it should."""
    if kind in BODIES:
        shaped(body, BODIES[kind], file, what=f"a statement of {kind}")
