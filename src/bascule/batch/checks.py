"""Quality checks: conditions on the rows of a source, and on the answers.

A check is `METRIC OP NUMBER`: `rows >= 1000`, `missing(age) <= 0.1`, `unique(id) >= 1`,
`max(age) <= 120`, `age_hours(updated_at) <= 24`, `other(state, 'CA', 'NY') <= 0`, `drift <= 0`,
`quantile(age, 0.99) <= 90`, `matches(id, '[0-9]{3}') >= 1`, `unseen(state) <= 0.01`. A metric of a
column of the answers is of a sample of the rows. `scored` is the number of rows that are written,
`drift` that of columns that differ from the baseline, `answer_drift` the same of answers alone.
"""

from __future__ import annotations

import operator
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bascule.batch.addresses import literal
from bascule.batch.manifest import Chunk
from bascule.batch.ports import Source
from bascule.batch.scoring import Scorer
from bascule.core import Invalid, Refused, first_line

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.bundle import Bundle
    from bascule.monitoring import ColumnDrift

_CHECK = re.compile(
    r"\s*(?P<metric>[a-z_]+)\s*(?:\((?P<column>[^,()]+)(?:,(?P<values>(?:'[^']*'|[^()'])*))?\))?\s*"
    r"(?P<op><=|>=|==|<|>)\s*(?P<limit>-?[0-9.]+(?:e-?\d+)?)\s*"
)
_OPS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_SQL = {
    "rows": "count(*)",
    "missing": "count(*) FILTER (WHERE {c} IS NULL) / nullif(count(*), 0)",
    "unique": "count(DISTINCT {c}) / nullif(count({c}), 0)",
    "distinct": "count(DISTINCT {c})",
    "min": "min({c})",
    "max": "max({c})",
    "mean": "avg({c})",
    "std": "stddev_samp({c})",
    "quantile": "quantile_cont({c}, {v})",
    "matches": "count(*) FILTER (WHERE regexp_full_match({c}::VARCHAR, {v}))"
    " / nullif(count({c}), 0)",
    "other": "count(*) FILTER (WHERE {c} NOT IN ({v})) / nullif(count(*), 0)",
    "age_hours": "({now} - epoch(max({c}))) / 3600",
}
"""By metric, its value in SQL of DuckDB; shares are from 0 to 1, and times without zone are UTC."""
_UNSEEN = "unseen"
"""The share of texts that the training rows did not have."""
_DRIFT, _ANSWER_DRIFT, _SCORED = "drift", "answer_drift", "scored"
_WHOLE = ("rows", _DRIFT, _ANSWER_DRIFT, _SCORED)
"""Metrics that are of no column."""
_SHOWN_ALARMS = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One condition.

    Attributes:
        text: As it was written.
        metric: A name of the table above, or one of `_WHOLE`.
        column: Of the source or of the answers; empty for the metrics of all columns.
        values: In SQL: of `other` all that the column may hold, of `quantile` its share, of
            `matches` the pattern.
    """

    text: str
    metric: str
    column: str
    values: str
    op: str
    limit: float

    def is_met(self, value: float | None) -> bool:
        """Whether a measured value is within the limit; not where there is none."""
        return value is not None and _OPS[self.op](value, self.limit)


def parse(text: str) -> Check:
    """Raises `Invalid` where it is no check."""
    match = _CHECK.fullmatch(text)
    known = list(dict.fromkeys([*_SQL, _UNSEEN, *_WHOLE]))
    if match is None or match["metric"] not in known:
        raise Invalid(
            f"check {text!r} is not known",
            hint=f"write METRIC(COLUMN) <= NUMBER, with one of {', '.join(known)}",
        )
    column = (match["column"] or "").strip().strip('"')
    if bool(column) == (match["metric"] in _WHOLE):
        raise Invalid(f"check {text!r}: a column is {'not ' if column else ''}needed")
    try:
        limit = float(match["limit"])
    except ValueError:
        raise Invalid(f"check {text!r}: {match['limit']} is no number") from None
    return Check(text, match["metric"], column, match["values"] or "", match["op"], limit)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a check found: its value, None where there is none, and which columns it is about."""

    check: Check
    value: float | None
    why: str = ""

    @property
    def sentence(self) -> str:
        said = "unknown" if self.value is None else format(self.value, ".6g")
        return f"{self.check.text} is not met: it is {said}" + (self.why and f" ({self.why})")


def sentences(measured: Sequence[Measured]) -> list[str]:
    """A sentence for each check that is not met. Pure."""
    return [one.sentence for one in measured if not one.check.is_met(one.value)]


def check_source(
    source: Source, chunks: Sequence[Chunk], batch_rows: int,
    checks: Sequence[str], warnings: Sequence[str], bundle: Bundle,
) -> list[str]:  # fmt: skip
    """Measure the rows to score, in one pass of their own, before any is scored.

    Returns:
        What `warnings` found.

    Raises:
        Refused: A check is not met; nothing was written.
        Invalid: A check is not known, or does not fit its column.
    """
    names = source.schema.names
    wanted = [parse(text) for text in (*checks, *warnings)]
    own = [
        _against_training(one, bundle) if one.metric == _UNSEEN else one
        for one in wanted if one.metric == "rows" or one.column in names
    ]  # fmt: skip
    if not own:
        return []
    schema = source.schema
    read = (batch for chunk in chunks for batch in source.read(chunk, batch_rows))
    batches = (batch for batch in read if batch.schema.equals(schema))
    return _judge(_measured(own, source.schema, batches), checks, "nothing was scored")


def _against_training(check: Check, bundle: Bundle) -> Check:
    """`unseen` as `other` than the values of the training rows."""
    baseline = bundle.baseline
    profiles = {} if baseline is None or baseline.inputs is None else baseline.inputs.columns
    profile = profiles.get(check.column)
    if profile is None or profile.kind != "text" or profile.frequent.error:
        raise Invalid(
            f"check {check.text!r}: the training rows' values of {check.column!r} are not known",
            hint="it is of texts of which there were few; write other(COLUMN, 'A', 'B')",
        )
    return replace(
        check,
        metric="other",
        values=", ".join(literal(str(one)) for one in profile.frequent.counts),
    )


def are_of_answers(texts: Sequence[str], columns: Sequence[str]) -> bool:
    """Whether a check needs a sample of the rows; `columns` are those of the source."""
    parsed = [parse(text) for text in texts]
    return any(one.metric not in ("rows", _SCORED) and one.column not in columns for one in parsed)


def check_answers(
    sample: pa.Table | None, scorer: Scorer, checks: Sequence[str], warnings: Sequence[str],
    *, rows: int, false_alarms_a_year: float = 4.0,
) -> list[str]:  # fmt: skip
    """Measure the answers, and drift, on a sample of all rows of the run.

    Args:
        sample: Of the source's rows; None where there are none, of which all is unknown.
        scorer: Answers them.
        checks: What stops the run.
        warnings: The same, which stop nothing.
        rows: How many rows the run has written.
        false_alarms_a_year: The budget of drift, for one run a day.

    Returns:
        What `warnings` found.

    Raises:
        Refused: A check is not met, also one that cannot be measured; the rows are written.
        Invalid: A check is of a column that neither the source nor the answers have.
    """
    wanted = [parse(text) for text in (*checks, *warnings)]
    measured = [Measured(one, float(rows)) for one in wanted if one.metric == _SCORED]
    source = () if sample is None else sample.schema.names
    wanted = [
        one for one in wanted if one.metric not in ("rows", _SCORED) and one.column not in source
    ]
    if sample is None:
        measured += [Measured(one, None, "no row was scored") for one in wanted]
    elif wanted:
        measured += _of_sample(sample, scorer, wanted, false_alarms_a_year)
    return _judge(measured, checks, "its rows are written, and it is not finished")


def _of_sample(
    sample: pa.Table, scorer: Scorer, wanted: Sequence[Check], budget: float
) -> list[Measured]:
    answers = scorer.answers(sample)
    strange = next((o for o in wanted if o.column and o.column not in answers.schema.names), None)
    if strange is not None:
        raise Invalid(f"check {strange.text!r}: there is no column {strange.column!r}")
    of_drift = [one for one in wanted if one.metric in (_DRIFT, _ANSWER_DRIFT)]
    own = [one for one in wanted if one not in of_drift]
    measured = _measured(own, answers.schema, iter(answers.to_batches()))
    if of_drift:
        alarms = _alarms(scorer, sample, budget)
        for one in of_drift:
            found = [a for a in alarms if one.metric == _DRIFT or a.where == "answer"]
            why = "; ".join(a.sentence for a in found[:_SHOWN_ALARMS])
            measured.append(Measured(one, float(len(found)), why))
    return measured


def _judge(measured: Sequence[Measured], checks: Sequence[str], state: str) -> list[str]:
    blocking = sentences([one for one in measured if one.check.text in checks])
    if blocking:
        raise Refused(
            f"a check stops the run, and {state}: {'; '.join(blocking)}",
            hint="look at the rows, or make it a warning",
        )
    return sentences(measured)


def _measured(
    checks: Sequence[Check], schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> list[Measured]:
    import duckdb
    import pyarrow as pa

    if not checks:
        return []
    columns = list(dict.fromkeys(one.column for one in checks if one.column)) or schema.names[:1]
    selected = pa.schema([schema.field(name) for name in columns])
    reader = pa.RecordBatchReader.from_batches(selected, (one.select(columns) for one in batches))
    values = [_sql(one, schema) for one in checks]
    # The values of `other` are the caller's: without this they may be a query of a file.
    with duckdb.connect(config={"enable_external_access": False}) as connection:
        connection.register("rows_to_check", reader)
        try:
            found: Any = connection.execute(
                f"SELECT {', '.join(values)} FROM rows_to_check"
            ).fetchone()
        except duckdb.Error as problem:
            raise Invalid(f"checks cannot be measured: {first_line(problem)}") from None
    return [
        Measured(one, None if value is None else float(value))
        for one, value in zip(checks, found, strict=True)
    ]


def _sql(check: Check, schema: pa.Schema) -> str:
    import pyarrow.types as kinds

    quoted = '"' + check.column.replace('"', '""') + '"'
    if check.metric == "missing" and kinds.is_floating(schema.field(check.column).type):
        return f"count(*) FILTER (WHERE {quoted} IS NULL OR isnan({quoted})) / nullif(count(*), 0)"
    return _SQL[check.metric].format(c=quoted, v=check.values, now=time.time())


def _alarms(scorer: Scorer, sample: pa.Table, budget: float) -> list[ColumnDrift]:
    from bascule.monitoring import measure_drift

    report = measure_drift(scorer.bundle, scorer.inputs(sample), budget=budget)
    return [alarm for window in report.windows for alarm in window.alarms]
