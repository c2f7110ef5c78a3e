"""Outcomes for a server: the truth about predictions, from rows or tables to requests. No I/O."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

from bascule_client.errors import Invalid
from bascule_client.tensors import no_answer, read_json
from bascule_client.wire import Reply, Request

MAX_OUTCOMES = 5_000
"""In one request; a server takes twice as many."""
_EXAMPLE = '[("ID#0", 1), ...], or a table with the columns id and truth'
_WRITER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class RefusedOutcome:
    """An outcome that was not kept: its place among all, from 0, its id, and the reason."""

    index: int
    id: str
    reason: str


class OutcomesAdded(NamedTuple):
    """What became of outcomes: how many are on the server's disk, and which were refused."""

    taken: int
    refused: tuple[RefusedOutcome, ...] = ()


def outcome_requests(
    path: str, outcomes: Any, id_column: str, truth_column: str, time_column: str | None
) -> Iterator[tuple[int, Request]]:
    """Requests of at most `MAX_OUTCOMES`, each with the place of its first outcome.

    Args:
        path: The path of the model.
        outcomes: Pairs of id and truth, rows as dictionaries, or a table of any library.
        id_column: The column, or key, of the prediction ids.
        truth_column: That of the truths.
        time_column: That of the times when each became true; now if None.

    Raises:
        Invalid: A column is missing, or there is nothing.
    """
    rows = outcome_rows(outcomes, id_column, truth_column, time_column)
    if not rows:
        raise Invalid("there are no outcomes", hint=f"give {_EXAMPLE}")
    for start in range(0, len(rows), MAX_OUTCOMES):
        said = [
            {"id": id_ if id_ is None else str(id_), "truth": truth}
            | ({} if time is None else {"time": time})
            for id_, truth, time in rows[start : start + MAX_OUTCOMES]
        ]
        try:
            body = _WRITER.encode({"outcomes": said}).encode()
        except (TypeError, ValueError, UnicodeEncodeError) as problem:
            raise Invalid(
                f"an outcome cannot be written as JSON: {problem}",
                hint="a truth is a number, a text or a boolean",
            ) from None
        yield start, Request("POST", path, body, (("Content-Type", "application/json"),))


def added_of(reply: Reply, start: int) -> OutcomesAdded:
    """What the server says of one request, whose first outcome has the place `start`."""
    try:
        said = read_json(reply.body)
        refused = (
            RefusedOutcome(start + int(one["index"]), str(one["id"]), str(one["reason"]))
            for one in said["refused"]
        )
        return OutcomesAdded(int(said["taken"]), tuple(refused))
    except (LookupError, TypeError, ValueError, RecursionError) as problem:
        raise no_answer(problem) from None


def outcome_rows(
    outcomes: Any, id_column: str, truth_column: str, time_column: str | None
) -> list[tuple[Any, Any, Any]]:
    """Id, truth and time of each outcome in plain types; see `outcome_requests`."""
    names = [id_column, truth_column, *([] if time_column is None else [time_column])]
    if isinstance(outcomes, Sequence | Iterator) and not isinstance(outcomes, str | bytes):
        rows = [_row(one, names) for one in outcomes]
    else:
        try:
            columns = [_values(outcomes[name]) for name in names]
        except (KeyError, TypeError, IndexError):
            raise Invalid(
                f"outcomes: no columns {', '.join(names)}", hint=f"give {_EXAMPLE}"
            ) from None
        if len({len(one) for one in columns}) > 1:
            raise Invalid("outcomes: the columns differ in length")
        rows = [*zip(*columns, strict=True)]
    whole = ((*row, None)[:3] for row in rows)
    return [(_plain(id_), _plain(truth), _plain(time)) for id_, truth, time in whole]


def _row(one: Any, names: Sequence[str]) -> tuple[Any, ...]:
    if isinstance(one, Mapping):
        return tuple(one.get(name) for name in names)
    if isinstance(one, tuple | list) and 2 <= len(one) <= 3:
        return tuple(one)
    raise Invalid(f"outcomes: {str(one)[:64]!r} is no outcome", hint=f"give {_EXAMPLE}")


def _values(column: Any) -> list[Any]:
    for method in ("to_pylist", "tolist", "to_list"):
        if hasattr(column, method):
            values: list[Any] = getattr(column, method)()
            return values
    return list(column)


def _plain(value: Any) -> Any:
    """A value as JSON has it: without numpy's types, and None for what is missing."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value
