"""`POST /v2/models/MODEL/outcomes`: the truth about predictions, beside any protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from bascule.core import BasculeError
from bascule.serving.execution import Predictor
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.describing import missing
from bascule.serving.protocols.openapi import object_schema
from bascule.serving.protocols.outcome_writer import Added, OutcomeWriter
from bascule.serving.transports import About, Exchange, Handler, Route


class OutcomesRest:
    """See `data_plane.ProtocolAdapter`."""

    name = "outcomes"

    def __init__(self, writer: OutcomeWriter) -> None:
        self._writer = writer

    def server_routes(self, plane: DataPlane) -> Iterator[Route]:  # noqa: ARG002 -- a protocol's signature
        """None: outcomes are of a model."""
        yield from ()

    def model_routes(self, plane: DataPlane, model: Predictor) -> Iterator[Route]:
        """One path for all versions of a model: an id names one prediction."""
        if plane.is_default(model):
            path = f"/v2/models/{model.name}/outcomes".encode()
            yield Route(b"POST", path, self._add(model), "outcome", model.name, about=_about)

    def not_found(self, plane: DataPlane, path: bytes) -> BasculeError | None:
        """Which model is not there."""
        parts = path.decode("utf-8", "replace").strip("/").split("/")
        is_ours = parts[:2] == ["v2", "models"] and parts[3:] == ["outcomes"]
        return missing(plane, parts[2]) if is_ours else None

    def _add(self, model: Predictor) -> Handler:
        def handle(exchange: Exchange) -> None:
            def read() -> list[object]:
                # Imported here: a worker that receives no outcomes need not have it in memory.
                from bascule.monitoring.ledger import read_body

                return read_body(exchange.take_body())

            def tell(added: Added | BasculeError) -> None:
                if isinstance(added, BasculeError):
                    exchange.fail(added)
                    return
                model.series.count_outcomes(added.taken)
                exchange.answer(msgspec.json.encode(added._asdict()), 207 if added.refused else 200)

            self._writer.add(model.name, len(exchange.body), read, tell)

        return handle


def _about() -> About:
    text: dict[str, Any] = {"type": "string"}
    truth = {"type": ["number", "string", "boolean"]}
    outcome = object_schema(
        {"id": text, "truth": truth}, {"time": {**text, "format": "date-time"}}, is_closed=True
    )
    refused = object_schema({"index": {"type": "integer"}, "id": text, "reason": text})
    # One that is wrong is refused by itself, with 207.
    items = {"items": {"anyOf": [outcome, {}]}, "minItems": 1, "maxItems": 10_000}
    return About(
        answer=object_schema(
            {"taken": {"type": "integer"}, "refused": {"type": "array", "items": refused}}
        ),
        takes=object_schema({"outcomes": {"type": "array", **items}}, is_closed=True),
        example={"outcomes": [{"id": "6f3a-1", "truth": 1, "time": "2026-11-26T12:00:00Z"}]},
        statuses=(200, 207),
    )
