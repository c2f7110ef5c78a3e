"""The Open Inference Protocol v2 over REST.

Health answers always carry a body, and errors have one shape, because clients of this protocol
decode both without looking.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from bascule.core.errors import BasculeError, NotFound
from bascule.core.fields import Field
from bascule.core.version import VERSION
from bascule.serving.engine import Outcome
from bascule.serving.guarding import Standin
from bascule.serving.http import Exchange
from bascule.serving.models import ServedModel
from bascule.serving.plane import Plane
from bascule.serving.protocols.oip_json import Decoder, encoder
from bascule.serving.routes import Handler, Route

_encode = msgspec.json.encode


class OipRest:
    """See `serving.plane.Face`."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        # Unique across workers and restarts without a system call per request.
        self._id_prefix = os.urandom(8).hex()
        self._ids = itertools.count(1)

    def server_routes(self, plane: Plane) -> Iterator[Route]:
        """The server's description and its health."""
        yield Route(b"GET", b"/v2", _server_metadata, "read")
        yield Route(b"GET", b"/v2/health/live", _health(plane, is_live_enough=True), "health")
        yield Route(b"GET", b"/v2/health/ready", _health(plane), "health")

    def model_routes(self, plane: Plane, model: ServedModel) -> Iterator[Route]:
        """Description, health and inference of one version."""
        paths = [f"/v2/models/{model.name}/versions/{model.version}".encode()]
        if plane.is_default(model):
            paths.append(f"/v2/models/{model.name}".encode())
        for path in paths:
            yield Route(b"GET", path, _metadata(plane, model), "read", model.name)
            ready = _health(plane, name=model.name)
            yield Route(b"GET", path + b"/ready", ready, "health", model.name)
            infer = self._infer(model)
            yield Route(b"POST", path + b"/infer", infer, "infer", model.name, model.slot)

    def not_found(self, plane: Plane, path: bytes) -> BasculeError | None:
        """Which model or version is not there."""
        parts = path.decode("utf-8", "replace").strip("/").split("/")
        if parts[:2] != ["v2", "models"] or len(parts) < 3:
            return None
        is_version = len(parts) >= 5 and parts[3] == "versions"
        try:
            plane.find(parts[2], parts[4] if is_version else None)
        except NotFound as told:
            return told
        return None

    def _infer(self, model: ServedModel) -> Handler:
        decode = self._decoder.for_fields(
            model.signature.inputs, model.program.inputs, model.signature.outputs,
            model.limits.max_rows, model.confidence,
        )  # fmt: skip
        encode = encoder(model)
        answer = model.answer
        deadline_s = model.limits.deadline_s

        def tell(exchange: Exchange, call_id: str, rows: int, outcome: Outcome) -> None:
            if isinstance(outcome, BasculeError):
                exchange.fail(outcome)
            else:
                exchange.rows = rows
                told = encoder(outcome.by) if isinstance(outcome, Standin) else encode
                exchange.answer(told(call_id, outcome, rows))

        def handle(exchange: Exchange) -> None:
            allowed_s = exchange.allowed_s(deadline_s)
            call_id, call = decode(exchange.take_body())
            if call_id is None:
                call_id = f"{self._id_prefix}-{next(self._ids):x}"
            deliver = partial(tell, exchange, call_id, call.rows)
            exchange.on_gone = answer(call, allowed_s, deliver)

        return handle


def _server_metadata(exchange: Exchange) -> None:
    exchange.answer(_encode({"name": "bascule", "version": VERSION, "extensions": []}))


def _health(plane: Plane, *, name: str = "bascule", is_live_enough: bool = False) -> Handler:
    def handle(exchange: Exchange) -> None:
        ready = plane.is_ready()
        body = _encode({"live": True, "ready": ready, "name": name})
        exchange.answer(body, 200 if ready or is_live_enough else 503)

    return handle


def _metadata(plane: Plane, model: ServedModel) -> Handler:
    body = _encode(
        {
            "name": model.name,
            "versions": list(plane.models[model.name]),
            "platform": "bascule",
            "inputs": [_tensor_metadata(field) for field in model.signature.inputs],
            "outputs": [_tensor_metadata(field) for field in model.signature.outputs],
            "parameters": {
                "digest": model.digest,
                "program": model.program.name,
                "batch_invariant": model.batch_invariant,
                **model.confidence.parameters(),
            },
        }
    )

    def handle(exchange: Exchange) -> None:
        exchange.answer(body)

    return handle


def _tensor_metadata(field: Field) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": field.name,
        "datatype": field.dtype.value,
        "shape": [-1, *field.shape],
    }
    parameters: dict[str, Any] = {}
    if field.nullable:
        parameters["nullable"] = True
    if field.categories is not None:
        parameters["categories"] = list(field.categories)
    if parameters:
        made["parameters"] = parameters
    return made
