"""Counts outcomes by the time of their predictions: what rollouts compare.

A prediction is of the stage whose plan answered it. Its time, by the clock of its host, chooses a
span within that stage: a host whose clock is ahead, or that followed a plan late, must not mix
requests that were shared out otherwise, for hosts have error rates of their own.

The unit is a request. A request of several rows has one arm and often one cause of error, so it
counts once, with the mean of its rows; its rows without a truth count by their share. Where a
request has a sticky key, the unit is that of its key: the first request of a stage counts, and no
other one (see `release.rollouts.keys`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns
from bascule.endpoints import KEY_UNITS
from bascule.monitoring.ledger.outcome_spool import JUDGES

if TYPE_CHECKING:
    from bascule.monitoring.ledger.query import Ledger

_DIGITS = 6
"""Of sums, so that the same rows in another order make the same sums."""
_IDS = """
SELECT id FROM predictions
WHERE endpoint = {endpoint} AND arm = {arm} AND (plan IS NULL OR plan IN ({numbers}))
"""
_OF_ARM = """
    FROM ({newest}) {verdicts} LEFT JOIN (VALUES {plans}) AS plans(of_plan, begins, ends)
        ON plan = of_plan
    WHERE endpoint = {endpoint} AND arm = {arm} AND status BETWEEN 200 AND 299
        AND (plan IS NULL OR of_plan IS NOT NULL)
        AND {when} >= TIMESTAMPTZ '{first}' AND {when} < TIMESTAMPTZ '{last}' {chosen}
"""
_WHEN = "greatest(begins, least(time, ends))"
"""NULLs count for nothing: rows of earlier releases have no plan, and the latest plan no end."""
_MOST_CLOCK = timedelta(hours=1)
"""Segments of so much before and after are read too, for hosts whose clocks differ."""
_ONCE = """
    FROM {requests} ASOF JOIN (VALUES {spans}) AS spans(number, start, low, high)
        ON {requests}.time >= spans.start
    WHERE unit IS NULL OR unit >= low AND unit < high
    QUALIFY unit IS NULL
        OR row_number() OVER (PARTITION BY unit, low, high ORDER BY time, id) = 1
"""
_COUNTED = (
    """
WITH answered AS (
    SELECT id, {when} AS time, unit, {has_truth} AS is_known{columns}"""
    + _OF_ARM
    + """
), requests AS (
    SELECT id, min(time) AS time, min(unit) AS unit,
        avg(CAST(NOT {is_known} AS INT)) AS unknown{means}
    FROM answered GROUP BY id
), counted AS (
    SELECT *"""
    + _ONCE.replace("{requests}", "requests")
    + """
)
SELECT number, unit IS NOT NULL AS of_keys, count(*) AS predictions, sum(unknown) AS unknown{sums}
FROM counted GROUP BY number, of_keys ORDER BY number, of_keys
"""
)
_PAIRED = (
    """
WITH answered AS (
    SELECT id, {when} AS time, unit,
        CASE WHEN is_outcome THEN {loss} END AS answer"""
    + _OF_ARM
    + """ AND "row" = 0
), counted AS (
    SELECT number, unit IS NOT NULL AS of_keys, id, answer"""
    + _ONCE.replace("{requests}", "answered")
    + """
), placed AS (
    SELECT number, of_keys, answer.score AS score, answer.positive AS positive,
        row_number() OVER (PARTITION BY number, of_keys ORDER BY sha256(id), id) - 1 AS place
    FROM counted
), pairs AS (
    SELECT number, of_keys, count(positive) < 2 AS is_unknown, sum(positive) = 1 AS is_mixed,
        max(score) FILTER (positive = 1) AS high, max(score) FILTER (positive = 0) AS low
    FROM placed GROUP BY number, of_keys, place // 2 HAVING count(*) = 2
)
SELECT number, of_keys, count(*) FILTER (is_unknown OR is_mixed) AS pairs,
    count(*) FILTER (is_unknown) AS unknown,
    CAST(coalesce(sum(CASE WHEN isnan(high) OR isnan(low) OR high < low THEN 1 WHEN high = low
        THEN 0.5 ELSE 0 END) FILTER (NOT is_unknown AND is_mixed), 0) AS DOUBLE) AS lost
FROM pairs GROUP BY number, of_keys ORDER BY number, of_keys
"""
)
"""Neighbours in the order of a hash of the id are a pair, also before their truths: truths that
come later move no other pair. A pair of one class says nothing and is left out."""
_STEERED = (
    """
WITH answered AS (
    SELECT id, {when} AS time, "row", propensity, CAST([{context}] AS DOUBLE[]) AS x,
        CASE WHEN is_outcome THEN CAST({loss} AS DOUBLE) END AS loss"""
    + _OF_ARM
    + """ AND propensity IS NOT NULL
), requests AS (
    SELECT id, min(time) AS time, any_value(propensity) AS propensity,
        any_value(x) FILTER ("row" = 0) AS x,
        CASE WHEN bool_and(loss IS NOT NULL) THEN 1 - avg(least(loss, {bound!r})) / {bound!r} END
            AS reward
    FROM answered GROUP BY id HAVING bool_or("row" = 0)
)
SELECT {selected} FROM requests ASOF JOIN (VALUES {spans}) AS spans(number, start, low, high)
    ON requests.time >= spans.start
"""
)
"""Answers whose arms were steered by their context, which is that of the first row."""


_VERDICTS = """
LEFT JOIN (
    SELECT id AS of_id, "row" AS of_row, TRUE AS is_judged,
        first(truth_number ORDER BY received_at, position) AS score
    FROM outcome_history WHERE model = {judge} AND id IN ({ids}) GROUP BY id, "row"
) ON of_id = id AND of_row = "row"
"""
"""The first verdict on an answer counts: another one must not change what was compared."""


def judge_model(judge: str) -> str:
    """Under which model's outcomes the verdicts of a judge are kept."""
    return f"{JUDGES}{judge}"


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time whose predictions make a cohort.

    Attributes:
        number: Of the span.
        start: When it begins.
        end: When it is over.
        units: Of keys, those that count: the first one, and the one after the last. Each counts
            once in all spans of the same units.
        plan: The number of the plan by which they were answered.
    """

    number: int
    start: datetime
    end: datetime
    units: tuple[int, int] = (0, KEY_UNITS)
    plan: int = 0


@dataclass(frozen=True, slots=True)
class CountedLoss:
    """What a prediction loses.

    Attributes:
        sql: Over a row of `newest_predictions` with a truth: a number of 0 or more, NULL where the
            truth has no loss, so that it counts as unknown. Of pairs: a struct of the `score` and
            of 1 or 0 as `positive`.
        output: The column with the answer; rows without, whose callers asked for other outputs
            alone, do not count. Empty: all rows count.
        bound: A larger loss, and one that is NaN, counts as this.
        of_pairs: Whether the loss is that of a pair of two requests, by their first rows: 1 where
            a negative has a higher score than a positive, 0.5 where both scores are the same.
        judge: The judge whose verdicts `sql` reads, over a row with or without a truth, as
            `is_judged` and `score`.
    """

    sql: str
    output: str
    bound: float = 1.0
    of_pairs: bool = False
    judge: str = ""


@dataclass(frozen=True, slots=True)
class CohortCount:
    """The predictions of one arm in one span, with the newest truths about them.

    Attributes:
        number: Of the span.
        predictions: Requests.
        unknown: Of them, those without a truth.
        losses: The sum of the known losses in units of their bounds, by loss.
        squares: The sum of their squares.
        cut: How many requests had a loss over its bound.
        pairs: By loss: pairs, and those without a truth; both 0 for a loss that is not of pairs.
        is_of_keys: Whether they are first requests of units of keys, which are counted apart.
    """

    number: int
    predictions: int
    unknown: float
    losses: tuple[float, ...]
    squares: tuple[float, ...]
    cut: tuple[float, ...]
    pairs: tuple[tuple[int, int], ...]
    is_of_keys: bool = False


def count_cohorts(
    ledger: Ledger, *, model: str, endpoint: str, arm: str, spans: Sequence[Span],
    losses: Sequence[CountedLoss], sample: float = 1.0,
) -> list[CohortCount]:  # fmt: skip
    """Count the predictions of an arm, and what is known of them now.

    Args:
        ledger: With its outcomes.
        model: That answered in this arm.
        endpoint: That was asked.
        arm: Its name.
        spans: In the order of time, without gaps.
        losses: Of each prediction.
        sample: The share of ids that get outcomes, by `outcome_draw`.

    Raises:
        Invalid: The ledger lacks a column that a loss names.
    """
    if not spans:
        return []
    common, days = _chosen(endpoint, arm, spans, losses, sample)
    paired = {
        place: {
            (row["number"], row["of_keys"]): row
            for row in ledger.query(
                _PAIRED.format(loss=loss.sql, **common), model=model, days=days
            ).to_pylist()
        }
        for place, loss in enumerate(losses)
        if loss.of_pairs
    }
    plain = {place: loss for place, loss in enumerate(losses) if not loss.of_pairs}
    rows = ledger.query(_counted_sql(plain, common), model=model, days=days).to_pylist()
    counts = []
    for row in rows:
        cohort = row["number"], row["of_keys"]
        sums, pairs = [], []
        for n in range(len(losses)):
            if n in paired:
                of_pairs = paired[n].get(cohort, {"pairs": 0, "unknown": 0, "lost": 0.0})
                sums.append((of_pairs["lost"], 0.0, 0.0))
                pairs.append((of_pairs["pairs"], of_pairs["unknown"]))
            else:
                sums.append(tuple(round(row[f"{of}{n}"], _DIGITS) for of in "lsc"))
                pairs.append((0, 0))
        known, squares, cut = zip(*sums, strict=True)
        unknown = round(row["unknown"], _DIGITS)
        counts.append(
            CohortCount(
                cohort[0], row["predictions"], unknown, known, squares, cut, tuple(pairs), cohort[1]
            )
        )
    return counts


@dataclass(frozen=True, slots=True)
class SteeredAnswers:
    """The answers of an arm that were steered by their context.

    Attributes as the arguments of `count_cohorts`, but for these:

    Attributes:
        loss: Not of pairs. The reward of an answer is 1 less its loss.
        context: Its numbers as SQL over a row, the constant 1 first.
    """

    ledger: Ledger
    model: str
    endpoint: str
    arm: str
    spans: Sequence[Span]
    loss: CountedLoss
    context: Sequence[str]
    sample: float = 1.0

    def moments(self) -> dict[int, tuple[float, ...]]:
        """By span with answers: see `release.rollouts.evidence.CohortArm`."""
        numbers = [*self._numbers(), "reward"]
        sums = "".join(
            f", coalesce(sum({left} * {right}) FILTER (reward IS NOT NULL), 0)"
            for place, left in enumerate(numbers)
            for right in numbers[place:]
        )
        rows = self._query(f"number, count(*){sums}", "GROUP BY number")
        return {int(row[0]): tuple(np.round(row[1:], _DIGITS).tolist()) for row in rows}

    def rows(self, numbers: Collection[int]) -> NDArray[np.float64]:
        """Those of some spans that have a reward: a hash of the id, reward, propensity, context."""
        return self._query(
            f"outcome_draw('rows' || id) AS draw, reward, propensity, {', '.join(self._numbers())}",
            f"WHERE reward IS NOT NULL AND number IN ({', '.join(map(str, numbers))}) "
            "ORDER BY draw, id",
        )

    def _numbers(self) -> list[str]:
        return [f"x[{place}]" for place in range(1, 1 + len(self.context))]

    def _query(self, selected: str, of_rows: str) -> NDArray[np.float64]:
        common, days = _chosen(self.endpoint, self.arm, self.spans, [self.loss], self.sample)
        sql = _STEERED.format(
            loss=self.loss.sql, bound=self.loss.bound, context=", ".join(self.context),
            selected=selected, **common,
        )  # fmt: skip
        columns = self.ledger.query(sql + of_rows, model=self.model, days=days).columns
        return np.column_stack([column.to_numpy().astype(np.float64) for column in columns])


def _chosen(
    endpoint: str, arm: str, spans: Sequence[Span], losses: Sequence[CountedLoss], sample: float
) -> tuple[dict[str, str], tuple[str, str]]:
    """What all queries about the answers of an arm say, and the days to read."""
    from bascule.monitoring.ledger.query import newest_of, quoted

    first, last = spans[0].start.astimezone(UTC), spans[-1].end.astimezone(UTC)
    days = str((first - _MOST_CLOCK).date()), str((last + _MOST_CLOCK).date())
    outputs = dict.fromkeys(loss.output for loss in losses if loss.output)
    chosen = [f"AND {_quoted_column(column)} IS NOT NULL" for column in outputs]
    of_arm = {"endpoint": quoted(endpoint), "arm": quoted(arm)}
    numbers = ", ".join(map(str, sorted({span.plan for span in spans})))
    ids = _IDS.format(numbers=numbers, **of_arm)
    judge = next((loss.judge for loss in losses if loss.judge), "")
    verdicts = _VERDICTS.format(judge=quoted(judge_model(judge)), ids=ids) if judge else ""
    common = {
        **of_arm, "newest": newest_of(ids), "verdicts": verdicts,
        "has_truth": "TRUE" if judge else "is_outcome",
        "first": first.isoformat(),
        "last": last.isoformat(), "when": _WHEN, "plans": ", ".join(_plans(spans)),
        "chosen": " ".join(
            [*chosen, *([f"AND outcome_draw(id) < {sample!r}"] if sample < 1 else [])]
        ),
        "spans": ", ".join(
            f"({span.number}, TIMESTAMPTZ '{span.start.astimezone(UTC).isoformat()}', "
            f"{span.units[0]}, {span.units[1]})"
            for span in spans
        ),
    }  # fmt: skip
    return common, days


def _plans(spans: Sequence[Span]) -> list[str]:
    """The plans with the first and the last moment of their spans, as values of SQL."""
    begins = {span.plan: span.start for span in reversed(spans)}
    ends = {span.plan: span.end - timedelta(microseconds=1) for span in spans}
    del ends[spans[-1].plan]
    return [
        f"({plan}, TIMESTAMPTZ '{begins[plan].astimezone(UTC).isoformat()}', "
        + (f"TIMESTAMPTZ '{ends[plan].astimezone(UTC).isoformat()}')" if plan in ends else "NULL)")
        for plan in begins
    ]


def _counted_sql(losses: Mapping[int, CountedLoss], common: Mapping[str, str]) -> str:
    is_known = " AND ".join(["is_known", *(f"r{n} IS NOT NULL" for n in losses)])
    of_row = [
        part
        for n, loss in losses.items()
        for part in (
            f", avg(CASE WHEN {is_known} THEN least(r{n}, {loss.bound!r}) / {loss.bound!r} "
            f"ELSE 0 END) AS l{n}",
            f", avg(CAST({is_known} AND r{n} > {loss.bound!r} AS INT)) AS c{n}",
        )
    ]
    return _COUNTED.format(
        is_known=f"({is_known})",
        columns="".join(
            f", CASE WHEN {common['has_truth']} THEN CAST({loss.sql} AS DOUBLE) END AS r{n}"
            for n, loss in losses.items()
        ),
        means="".join(of_row),
        sums="".join(
            f", sum(l{n}) AS l{n}, sum(l{n} * l{n}) AS s{n}, sum(c{n}) AS c{n}" for n in losses
        ),
        **common,
    )


def losses_of_rows(loss: str, columns: Columns, truths: NDArray[Any]) -> NDArray[np.float64]:
    """What rows outside of the ledger lose: those of a held-out table.

    Args:
        loss: See `CountedLoss.sql`.
        columns: By the names of the ledger: `"output.label"`.
        truths: Numbers, texts or booleans. Shape (rows,).

    Returns:
        The losses that have a value, NaN among them.
    """
    import duckdb
    import pyarrow as pa

    from bascule.monitoring.ledger.outcomes import numbers_of

    listed = pa.array(truths.tolist())
    table = pa.table(
        {
            "truth": listed.cast(pa.string()), "truth_number": numbers_of(listed),
            **{
                name: pa.array(values.tolist()) for name, values in columns.items()
            },
        }
    )  # fmt: skip
    with duckdb.connect() as connection:
        connection.register("answered", table)
        of_rows = connection.sql(f"SELECT CAST({loss} AS DOUBLE) AS loss FROM answered")
        losses: NDArray[np.float64] = of_rows.to_arrow_table()["loss"].drop_null().to_numpy()
    return losses


def _quoted_column(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
