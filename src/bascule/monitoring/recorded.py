"""Finds recorded predictions: a page of the latest, or the rows of one request and their truths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from bascule.core import Invalid, NotFound
from bascule.monitoring.ledger import ENCRYPTED, PRIVATE, Ledger, quoted

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MAX_PAGE = 1_000
MAX_ROWS = 200
"""Of one request that are read; larger requests say how many they have."""
MAX_ID = 512
_LISTED = "id, row, time, model, version, endpoint, arm, caller, protocol, status, latency_s"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request as it was recorded.

    Attributes:
        id: The prediction id.
        facts: `time`, `model`, `version`, `endpoint`, `arm`, `caller`, `protocol`, `status`,
            `latency_s`, `trace_id`, `kept_share`.
        rows: How many rows of it are in the ledger; at most `MAX_ROWS` of them are below.
        inputs: By row, the values by field; `(private)` for one that is encrypted, unless the
            ledger was opened for a reader of private values.
        outputs: The same of the answer.
        truths: By row, the newest truth that was received: `truth`, `received_at`; None if none.
    """

    id: str
    facts: Mapping[str, Any]
    rows: int
    inputs: Sequence[Mapping[str, Any]]
    outputs: Sequence[Mapping[str, Any]]
    truths: Sequence[Mapping[str, Any] | None]

    @property
    def is_veiled(self) -> bool:
        """Whether a value is encrypted and not shown."""
        return any(PRIVATE in row.values() for row in (*self.inputs, *self.outputs))


def latest_predictions(
    ledger: Ledger, model: str, *, since: datetime, until: datetime, version: str = "",
    limit: int = 25, offset: int = 0,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows that were answered in a span of time, the latest first, without inputs and outputs.

    Raises:
        Invalid: `limit` and `offset` reach beyond `MAX_PAGE` rows.
        NotFound: The ledger has no answers of the model.
    """
    if not limit > 0 or not offset >= 0 or limit + offset > MAX_PAGE:
        raise Invalid(
            f"limit + offset: {limit} + {offset} is not from 1 to {MAX_PAGE:,}",
            hint="give a later `until` or an earlier `since`",
        )
    where = f"model = {quoted(model)} AND time >= {_moment(since)} AND time < {_moment(until)}"
    if version:
        where += f" AND version = {quoted(version)}"
    # Rows are compared from the page's oldest time on: sorting all of them costs twice as much.
    times = f"SELECT time FROM predictions WHERE {where} ORDER BY time DESC LIMIT {limit + offset}"
    sql = (
        f"SELECT {_LISTED} FROM predictions WHERE {where} "
        f"AND time >= (SELECT min(time) FROM ({times})) "
        f"ORDER BY time DESC, id, row LIMIT {limit} OFFSET {offset}"
    )
    rows = ledger.rows_by_day(model, version)
    days = days_with(rows, str(_day(since)), str(_day(until)), limit + offset)
    found: list[dict[str, Any]] = ledger.ask(
        lambda connection: connection.sql(sql).to_arrow_table().to_pylist(),
        model=model, days=days, is_ours=True,
    )  # fmt: skip
    return found


def days_with(rows: Mapping[str, int], first: str, last: str, needed: int) -> tuple[str, str]:
    """The latest days, of those from `first` to `last`, that surely have so many rows. Pure.

    Of the last day, rows may be too late: it does not count.
    """
    for day in sorted(rows, reverse=True):
        if first <= day < last:
            needed -= rows[day]
            if needed <= 0:
                return day, last
    return first, last


def find_prediction(ledger: Ledger, prediction_id: str) -> Recorded:
    """The newest request of an id, or of `ID#ROW`.

    Raises:
        Invalid: The id is too long.
        NotFound: The ledger has none.
    """
    if not 0 < len(prediction_id) <= MAX_ID:
        raise Invalid(f"id: {len(prediction_id)} characters, not from 1 to {MAX_ID}")
    asked = request_of(prediction_id)
    newest = ledger.ask(
        lambda connection: connection.execute(
            "SELECT model, version, epoch_us(time), count(*) FROM predictions "
            f"WHERE id = {quoted(asked)} GROUP BY ALL ORDER BY 3 DESC LIMIT 1"
        ).fetchone(),
        is_ours=True,
    )  # fmt: skip
    if newest is None:
        raise NotFound(
            f"the ledger has no prediction {asked!r}",
            hint="answers carry their id; bascule ledger status shows what the ledger holds",
        )
    model, version, time_us, count = newest
    where = f"id = {quoted(asked)} AND version = {quoted(version)} AND epoch_us(time) = {time_us}"
    day = str(datetime.fromtimestamp(time_us // 10**6, UTC).date())
    rows, outcomes = ledger.ask(
        partial(_rows_and_truths, where, quoted(asked)),
        model=model, days=(day, day), is_ours=True,
    )  # fmt: skip
    first = rows[0]
    facts = {one: first[one] for one in first if not one.startswith(("input.", "output."))}
    models = (first["endpoint"], first["model"])
    truths = {one["row"]: one for one in outcomes if one["model"] in models}
    return Recorded(
        asked, {**facts, "row": None}, count,
        [_part(one, "input.") for one in rows], [_part(one, "output.") for one in rows],
        [truths.get(one["row"]) for one in rows],
    )  # fmt: skip


def request_of(prediction_id: str) -> str:
    """The id of the request of `ID#ROW`, or of an id without a row."""
    name, mark, row = prediction_id.rpartition("#")
    return name if mark and row.isascii() and row.isdecimal() else prediction_id


def _rows_and_truths(
    where: str, name: str, connection: DuckDBPyConnection
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of a request, and the truths of its id: at once, as opening costs most."""
    rows = connection.sql(
        f"SELECT * FROM predictions WHERE {where} ORDER BY row LIMIT {MAX_ROWS}"
    ).to_arrow_table()
    truths = connection.sql(
        "SELECT row, model, truth, time, received_at FROM outcomes "
        f"WHERE id = {name} ORDER BY received_at"
    ).to_arrow_table()
    return rows.to_pylist(), truths.to_pylist()


def _part(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Fields of one version are columns of others too, where they are null for its rows."""
    return {
        name.removeprefix(prefix).removesuffix(ENCRYPTED): value
        for name, value in row.items()
        if name.startswith(prefix)
    }


def _day(at: datetime) -> date:
    return at.astimezone(UTC).date()


def _moment(at: datetime) -> str:
    return f"TIMESTAMPTZ {quoted(at.isoformat())}"
