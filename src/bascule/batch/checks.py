"""Quality checks: conditions on the rows of a source, and on the answers.

A check is `METRIC OP NUMBER`: `rows >= 1000`, `missing(age) <= 0.1`, `unique(id) >= 1`,
`max(age) <= 120`, `age_hours(updated_at) <= 24`, `other(state, 'CA', 'NY') <= 0`, `drift <= 0`. A
metric of a column of the answers is of a sample of the rows.
"""

from __future__ import annotations

import operator
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bascule.batch.manifest import Chunk
from bascule.batch.ports import Source
from bascule.batch.scoring import Scorer
from bascule.core import Invalid, Refused, first_line

if TYPE_CHECKING:
    import pyarrow as pa

_CHECK = re.compile(
    r"\s*(?P<metric>[a-z_]+)\s*(?:\((?P<column>[^,()]+)(?:,(?P<values>[^()]*))?\))?\s*"
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
    "other": "count(*) FILTER (WHERE {c} NOT IN ({v})) / nullif(count(*), 0)",
    "age_hours": "({now} - epoch(max({c}))) / 3600",
}
"""By metric, its value in SQL of DuckDB; shares are from 0 to 1, and times without zone are UTC."""
_DRIFT = "drift"


@dataclass(frozen=True, slots=True)
class Check:
    """One condition.

    Attributes:
        text: As it was written.
        metric: A name of the table above, or `drift`: the number of columns that have drifted.
        column: Of the source or of the answers; empty for `rows` and `drift`.
        values: SQL literals, of `other`: all that the column may hold.
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
    known = [*_SQL, _DRIFT]
    if match is None or match["metric"] not in known:
        raise Invalid(
            f"check {text!r} is not known",
            hint=f"write METRIC(COLUMN) <= NUMBER, with one of {', '.join(known)}",
        )
    column = (match["column"] or "").strip().strip('"')
    if bool(column) == (match["metric"] in ("rows", _DRIFT)):
        raise Invalid(f"check {text!r}: a column is {'not ' if column else ''}needed")
    try:
        limit = float(match["limit"])
    except ValueError:
        raise Invalid(f"check {text!r}: {match['limit']} is no number") from None
    return Check(text, match["metric"], column, match["values"] or "", match["op"], limit)


def sentences(measured: Sequence[tuple[Check, float | None]]) -> list[str]:
    """A sentence for each check that is not met. Pure."""
    return [
        f"{check.text} is not met: it is {'unknown' if value is None else format(value, '.6g')}"
        for check, value in measured
        if not check.is_met(value)
    ]


def check_source(
    source: Source, chunks: Sequence[Chunk], batch_rows: int,
    checks: Sequence[str], warnings: Sequence[str],
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
    own = [one for one in wanted if one.metric == "rows" or one.column in names]
    if not own:
        return []
    batches = (batch for chunk in chunks for batch in source.read(chunk, batch_rows))
    return _judge(_measured(own, source.schema, batches), checks, "nothing was scored")


def check_answers(
    sample: pa.Table | None, scorer: Scorer, checks: Sequence[str], warnings: Sequence[str]
) -> list[str]:
    """Measure the answers, and drift, on a sample of the rows that this process has scored.

    Returns:
        What `warnings` found.

    Raises:
        Refused: A check is not met; the rows are written.
        Invalid: A check is of a column that neither the source nor the answers have.
    """
    wanted = [parse(text) for text in (*checks, *warnings)]
    source = () if sample is None else sample.schema.names
    wanted = [one for one in wanted if one.metric != "rows" and one.column not in source]
    if not wanted or sample is None:
        return []
    answers = scorer.answers(sample)
    strange = next((o for o in wanted if o.column and o.column not in answers.schema.names), None)
    if strange is not None:
        raise Invalid(f"check {strange.text!r}: there is no column {strange.column!r}")
    measured: list[tuple[Check, float | None]] = [
        (one, _drifted(scorer, sample)) for one in wanted if one.metric == _DRIFT
    ]
    own = [one for one in wanted if one.metric != _DRIFT]
    measured += _measured(own, answers.schema, iter(answers.to_batches()))
    return _judge(measured, checks, "its rows are written, and not marked as finished")


def _judge(
    measured: Sequence[tuple[Check, float | None]], checks: Sequence[str], state: str
) -> list[str]:
    blocking = sentences([one for one in measured if one[0].text in checks])
    if blocking:
        raise Refused(
            f"a check stops the run, and {state}: {'; '.join(blocking)}",
            hint="look at the rows, or make it a warning",
        )
    return sentences(measured)


def _measured(
    checks: Sequence[Check], schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> list[tuple[Check, float | None]]:
    import duckdb
    import pyarrow as pa

    if not checks:
        return []
    columns = list(dict.fromkeys(one.column for one in checks if one.column)) or schema.names[:1]
    selected = pa.schema([schema.field(name) for name in columns])
    reader = pa.RecordBatchReader.from_batches(selected, (one.select(columns) for one in batches))
    values = [_sql(one, schema) for one in checks]
    with duckdb.connect() as connection:
        connection.register("rows_to_check", reader)
        try:
            found: Any = connection.execute(
                f"SELECT {', '.join(values)} FROM rows_to_check"
            ).fetchone()
        except duckdb.Error as problem:
            raise Invalid(f"checks cannot be measured: {first_line(problem)}") from None
    return [(c, None if v is None else float(v)) for c, v in zip(checks, found, strict=True)]


def _sql(check: Check, schema: pa.Schema) -> str:
    import pyarrow.types as kinds

    quoted = '"' + check.column.replace('"', '""') + '"'
    if check.metric == "missing" and kinds.is_floating(schema.field(check.column).type):
        return f"count(*) FILTER (WHERE {quoted} IS NULL OR isnan({quoted})) / nullif(count(*), 0)"
    return _SQL[check.metric].format(c=quoted, v=check.values, now=time.time())


def _drifted(scorer: Scorer, sample: pa.Table) -> float:
    from bascule.monitoring import measure_drift

    report = measure_drift(scorer.bundle, scorer.inputs(sample))
    return float(sum(len(window.alarms) for window in report.windows))
