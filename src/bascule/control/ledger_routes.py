"""The routes about recorded predictions: find them.

Recorded inputs are data of people, so reading them takes the right to manage the model: the rights
to predict and to read metadata are not enough.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, Field

from bascule.control.conventions import Moment
from bascule.control.rights import Authorise
from bascule.core import BasculeError, NotFound, check_name

if TYPE_CHECKING:
    from bascule.monitoring import Ledger, Recorded

_TAGS = "ledger"


class PredictionRow(BaseModel):
    """One row that was answered."""

    id: str
    row: int
    time: datetime
    model: str
    version: str
    endpoint: str
    arm: str
    caller: str
    protocol: str
    status: int
    latency_s: float


class PredictionRows(BaseModel):
    """The latest rows of a model."""

    items: list[PredictionRow]


class RecordedView(BaseModel):
    """One request as it was recorded."""

    id: str
    facts: dict[str, Any]
    rows: Annotated[int, Field(description="In the ledger; at most 200 of them are shown")]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    truths: list[dict[str, Any] | None]


_AGAIN_S = 0.25


class RecordedPredictions:
    """What pages and routes do with the ledger of a home."""

    def __init__(self, home: FilePath | None) -> None:
        self._home = home
        self._is_prepared = False

    def prepare(self) -> None:
        """Load what reads tables, and the footers of the segments, on a thread; once.

        It takes a third of a second of the first question, and 90 MB, which only processes pay
        that are about to be asked.
        """
        if not self._is_prepared:
            self._is_prepared = True
            threading.Thread(target=self._load, name="bascule-ledger", daemon=True).start()

    def _load(self) -> None:
        with suppress(BasculeError):  # which the question itself will tell
            self._ledger.ask(lambda connection: connection.execute("SELECT 1"), is_ours=True)

    def latest(
        self, model: str, *, since: datetime | None, until: datetime | None, version: str = "",
        limit: int = 25, offset: int = 0,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """See `latest_predictions`; of the last day where nothing else is said."""
        from bascule.monitoring import latest_predictions

        end = until or datetime.now(UTC) + timedelta(seconds=1)
        return latest_predictions(
            self._ledger, model, since=since or end - timedelta(days=1), until=end,
            version=version, limit=limit, offset=offset,
        )  # fmt: skip

    def find(self, prediction_id: str, *, within_s: float = 0.0) -> Recorded:
        """See `find_prediction`; one that is not there yet is waited for.

        A worker writes its answers once a second, and a person may follow a link at once.
        """
        from bascule.monitoring import find_prediction  # loads what reads tables

        give_up_at_s = time.monotonic() + within_s
        while True:
            try:
                return find_prediction(self._ledger, prediction_id)
            except NotFound:
                if time.monotonic() >= give_up_at_s:
                    raise
            time.sleep(_AGAIN_S)

    @property
    def _ledger(self) -> Ledger:
        from bascule.monitoring import Ledger

        if self._home is None:
            raise NotFound("this server has no ledger", hint="run bascule control, or a server")
        return Ledger(self._home)


def add_ledger(app: FastAPI, predictions: RecordedPredictions, authorise: Authorise) -> None:
    """Add the routes to `app`."""

    @app.get("/api/v1/predictions", tags=[_TAGS])
    def latest(
        request: Request,
        model: str,
        version: str = "",
        since: Moment | None = None,
        until: Moment | None = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 25,
        offset: Annotated[int, Query(ge=0, lt=1_000)] = 0,
    ) -> PredictionRows:
        """The rows that a model has answered, the latest first; of the last day by default."""
        authorise(request, "manage", check_name(model))
        found = predictions.latest(
            model, since=since, until=until, version=version, limit=limit, offset=offset
        )
        return PredictionRows(items=[PredictionRow(**one) for one in found])

    @app.get("/api/v1/prediction", tags=[_TAGS])
    def one(
        request: Request, prediction: Annotated[str, Query(alias="id", max_length=520)]
    ) -> RecordedView:
        """The inputs, answers and truths of one request, by its prediction id."""
        found = predictions.find(prediction)
        may_see(found, request, authorise)
        return RecordedView(
            id=found.id, facts=plain(found.facts), rows=found.rows,
            inputs=[plain(one) for one in found.inputs],
            outputs=[plain(one) for one in found.outputs],
            truths=[None if one is None else plain(one) for one in found.truths],
        )  # fmt: skip


def may_see(found: Recorded, request: Request, authorise: Callable[..., Any]) -> None:
    """Raise `Refused` unless the caller may see the inputs of a request."""
    authorise(request, "manage", str(found.facts["model"]))


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them: what is not finite becomes null."""
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        return value.hex()
    is_infinite = isinstance(value, float) and value - value != 0
    return None if is_infinite else value
