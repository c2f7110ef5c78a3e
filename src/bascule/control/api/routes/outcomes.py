"""The routes about outcomes: the truth about predictions, in JSON or tables, and back in pages."""

from __future__ import annotations

import threading
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from fastapi import FastAPI, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from bascule.control.api.conventions import Page, Paged, receive_file
from bascule.control.api.rights import serves
from bascule.core import Invalid, NotFound, Scratch, check_name
from bascule.monitoring.ledger import Added, Outcome, Refused, operations as of_outcomes

if TYPE_CHECKING:  # tables are loaded when outcomes are first asked for
    from bascule.monitoring.ledger import OutcomeSpool

Columns = tuple[str, str, str | None]
"""Those of ids, truths and times; None for no times."""
_MAX_TABLES = 2
"""Tables at once: each is read by a process of its own."""
_CSV, _PARQUET = "text/csv", "application/vnd.apache.parquet"
_OUTCOME = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "truth": {"type": ["number", "string", "boolean"]},
        "time": {"type": "string"},
    },
    "required": ["id", "truth"],
}
_TAKES = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {"outcomes": {"type": "array", "items": _OUTCOME, "minItems": 1}},
            "required": ["outcomes"],
        }
    },
    _CSV: {"schema": {"type": "string"}},
    _PARQUET: {"schema": {"type": "string", "format": "binary"}},
}


class _Store:
    """The outcomes of a home, for several threads."""

    def __init__(self, home: FilePath) -> None:
        self.home = home
        self._lock = threading.Lock()
        self._spool: OutcomeSpool | None = None

    def add_json(self, model: str, body: bytes) -> Added:
        from bascule.monitoring.ledger import OutcomeSpool, read_body, read_outcomes

        lines, refused = read_outcomes(read_body(body))
        with self._lock:
            if self._spool is None:
                self._spool = OutcomeSpool(self.home)
            self._spool.append(model, [lines])
        return Added(len(lines), refused)

    def add_table(self, model: str, file: FilePath, kind: str, columns: Columns) -> Added:
        from bascule.monitoring.ledger import receive_table

        done = receive_table(self.home, model, file, is_csv=kind == _CSV, columns=columns)
        refused = [Refused(line - 1, "", reason) for line, reason in done.refused.items()]
        return Added(done.taken, refused)

    def page(self, model: str, after: str, most: int) -> list[dict[str, Any]]:
        """Outcomes after a key, in the order of keys; the key is `ID#ROW` with ten digits."""
        from bascule.monitoring.ledger import Ledger, quoted

        found = Ledger(self.home).query(
            "SELECT *, id || '#' || printf('%010d', row) AS key FROM outcomes "
            f"WHERE model = {quoted(model)} AND key > {quoted(after)} ORDER BY key LIMIT {most}"
        )
        rows: list[dict[str, Any]] = found.to_pylist()
        return rows


def add_outcomes(app: FastAPI, home: FilePath | None) -> None:
    """Add the routes to `app`; they answer 404 without a home."""
    store = None if home is None else _Store(home)
    limiter = anyio.CapacityLimiter(_MAX_TABLES)

    def found(model: str) -> _Store:
        if store is None:
            raise NotFound("this API keeps no outcomes", hint="ask a server that has a home")
        check_name(model)
        return store

    @serves(
        app,
        of_outcomes.ADD_OUTCOMES,
        responses={207: {"model": Added, "description": "Some outcomes are refused"}},
        openapi_extra={"requestBody": {"required": True, "content": _TAKES}},
    )
    async def add(
        model: str, request: Request, response: Response,
        id_column: Annotated[str, Query(max_length=256)] = "id",
        truth_column: Annotated[str, Query(max_length=256)] = "truth",
        time_column: Annotated[str | None, Query(max_length=256)] = None,
    ) -> Added:  # fmt: skip
        """Keep outcomes: JSON, or a table as CSV or Parquet, of which three columns are read.

        They are on the disk when this answers. A wrong outcome is refused, and the others are kept.
        """
        opened, columns = found(model), (id_column, truth_column, time_column)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            added = await run_in_threadpool(opened.add_json, model, await request.body())
        elif kind in (_CSV, _PARQUET):
            with Scratch("bascule-transfer-") as folder:
                await receive_file(request, folder / "outcomes", "the table")
                # On threads of their own: what waits for one keeps no thread of other requests.
                added = await anyio.to_thread.run_sync(
                    opened.add_table, model, folder / "outcomes", kind, columns, limiter=limiter
                )
        else:
            raise HTTPException(415, f"Content-Type: send application/json, {_CSV} or {_PARQUET}")
        response.status_code = 207 if added.refused else 200
        return added

    @serves(app, of_outcomes.OUTCOMES)
    def outcomes(model: str, paged: Paged) -> Page[Outcome]:
        """The outcomes of a model that count, by id and row."""
        after = "" if paged.after is None else paged.after
        if not isinstance(after, str):
            raise Invalid("cursor: not a cursor of this list")
        listed = found(model).page(model, after, paged.limit + 1)
        return paged.page(listed, lambda one: one["key"])
