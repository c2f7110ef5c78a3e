"""The routes about recorded predictions: find them.

Recorded inputs are data of people, so reading them takes the right to manage the model: the rights
to predict and to read metadata are not enough. Encrypted values take the right `private` too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request

from bascule.control import operations as of_server
from bascule.control.answers import Prediction, PredictionRow, PredictionRows
from bascule.control.api.conventions import Moment
from bascule.control.api.rights import Authorise, serves
from bascule.core import NAME_PATTERN, check_name

if TYPE_CHECKING:
    from bascule.control.recorded import RecordedPredictions


_NAME = {"pattern": f"^{NAME_PATTERN}$"}


def add_ledger(app: FastAPI, predictions: RecordedPredictions, authorise: Authorise) -> None:
    """Add the routes to `app`."""

    @serves(app, of_server.PREDICTIONS)
    def latest(
        request: Request,
        model: Annotated[str, Query(json_schema_extra=_NAME)],
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

    @serves(app, of_server.PREDICTION)
    def one(
        request: Request,
        prediction: Annotated[str, Query(alias="id", min_length=1, max_length=512)],
    ) -> Prediction:
        """The inputs, answers and truths of one request, by its prediction id."""
        found = predictions.find(prediction, partial(authorise, request))
        return Prediction(
            id=found.id, facts=plain(found.facts), rows=found.rows,
            inputs=[plain(one) for one in found.inputs],
            outputs=[plain(one) for one in found.outputs],
            truths=[None if one is None else plain(one) for one in found.truths],
        )  # fmt: skip


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
