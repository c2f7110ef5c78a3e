"""The Open Inference Protocol v2 over REST.

Health answers always carry a body, and errors have one shape, because clients of this protocol
decode both without looking.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec

from bascule.core import VERSION, BasculeError, DType, Field, Invalid
from bascule.security import ANY
from bascule.serving.calls import Answer, AnsweredBy, Outcome
from bascule.serving.execution import Predictor
from bascule.serving.protocols import triton
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.describing import (
    answered_by,
    fixed,
    fresh,
    health,
    missing,
    openapi,
)
from bascule.serving.protocols.oip_json import (
    AsBytes,
    Decoded,
    Decoder,
    datatypes_for,
    encoder,
)
from bascule.serving.protocols.openapi import (
    alone,
    example_tensors,
    object_schema,
    row_schema,
    value_schema,
)
from bascule.serving.transports import (
    FROM_BYTES,
    About,
    Exchange,
    Handler,
    PartForm,
    Route,
    error_text,
    status_of,
)
from bascule_client.answer import labels_of

_BYTES_TYPE = b"application/octet-stream"
_EVENTS_TYPE = b"text/event-stream"


class OipRest:
    """See `data_plane.ProtocolAdapter`."""

    name = "oip"

    def __init__(self) -> None:
        self._decoder, self._decoder_aside = Decoder(), Decoder()

    def server_routes(self, plane: DataPlane) -> Iterator[Route]:
        """The server's description and its health."""
        described = {"name": "bascule", "version": VERSION, "extensions": triton.EXTENSIONS}
        yield Route(b"GET", b"/v2", fixed(described), "read")
        yield Route(b"GET", b"/v2/openapi.json", openapi(plane), "read")
        yield Route(b"GET", b"/v2/health/live", health(plane, is_live_enough=True), "health")
        yield Route(b"GET", b"/v2/health/ready", health(plane), "health")
        index = fresh(lambda: triton.index(plane.every_model(), is_ready=plane.is_ready()))
        yield Route(b"POST", b"/v2/repository/index", index, "read", ANY, about=_about_index)
        if "stats" not in plane.models:
            every = fresh(lambda: triton.statistics(plane.every_model()))
            yield Route(b"GET", b"/v2/models/stats", every, "read", ANY)

    def model_routes(self, plane: DataPlane, model: Predictor) -> Iterator[Route]:
        """Description, health and inference of one version."""
        plain = f"/v2/models/{model.name}"
        version = model.service.version
        paths = [f"{plain}/versions/{version}".encode()] if version else []
        if plane.is_default(model):
            paths.append(plain.encode())
        for path in paths:
            yield Route(b"GET", path, fixed(_metadata(plane, model)), "read", model.name)
            ready = health(plane, name=model.name)
            yield Route(b"GET", path + b"/ready", ready, "health", model.name)
            described = fixed(triton.config(model))
            yield Route(b"GET", path + b"/config", described, "read", model.name)
            stats = fresh(partial(triton.statistics, (model,)))
            yield Route(b"GET", path + b"/stats", stats, "read", model.name)
            infer = self._infer(model)
            about = partial(_about, model)
            in_parts = self._infer_in_parts(model)
            said = partial(_about_parts, model)
            for end, handle, says in (
                (b"/infer", infer, about), (b"/infer_stream", in_parts, said),
            ):  # fmt: skip
                yield Route(
                    b"POST", path + end, handle, model.needs, model.name, model.series, says
                )

    def not_found(self, plane: DataPlane, path: bytes) -> BasculeError | None:
        """Which model or version is not there."""
        parts = path.decode("utf-8", "replace").strip("/").split("/")
        if parts[:2] != ["v2", "models"] or len(parts) < 3:
            return None
        is_version = len(parts) >= 5 and parts[3] == "versions"
        return missing(plane, parts[2], parts[4] if is_version else None)

    def _infer(self, model: Predictor) -> Handler:
        decode, decode_aside = (
            decoder.for_fields(
                model.signature.inputs, model.program.inputs, model.signature.outputs,
                model.limits.max_rows, model.extras,
            )
            for decoder in (self._decoder, self._decoder_aside)
        )  # fmt: skip
        encode = encoder(model)
        by = model.by
        deadline_s = model.limits.deadline_s

        def tell(exchange: Exchange, rows: int, as_bytes: AsBytes | None, outcome: Outcome) -> None:
            if isinstance(outcome, BasculeError):
                exchange.fail(outcome)
                return
            exchange.rows = rows
            exchange.reply = outcome
            extra = b"" if outcome.by is by else answered_by(outcome.by, by)
            call_id = exchange.prediction_id
            if as_bytes is None:
                exchange.answer(encode.as_json(call_id, outcome, rows), extra=extra)
                return
            body, json_bytes = encode.with_bytes(call_id, outcome, rows, as_bytes)
            extra += b"Inference-Header-Content-Length: %d\r\n" % json_bytes
            exchange.answer(body, content_type=_BYTES_TYPE, extra=extra)

        def read(exchange: Exchange, json_bytes: int) -> Decoded:
            return decode_aside(exchange.take_body(), json_bytes)

        def run(exchange: Exchange, decoded: Decoded, allowed_s: float) -> None:
            call_id, call, as_bytes = decoded
            exchange.identify(call_id)
            exchange.ask(model, call, allowed_s, partial(tell, exchange, call.rows, as_bytes))

        def handle(exchange: Exchange) -> None:
            if exchange.head.is_plain:
                allowed_s = deadline_s - exchange.waited_s
                model.check_room(allowed_s)
                call_id, call, as_bytes = decode(exchange.body)
                exchange.body = b""
            else:
                allowed_s = exchange.allowed_s(deadline_s)
                model.check_room(allowed_s)
                said = exchange.head.headers.get(b"inference-header-content-length")
                json_bytes = -1 if said is None else _length(said)
                body = exchange.body_within(FROM_BYTES)
                if body is None:
                    exchange.read_aside(
                        partial(read, exchange, json_bytes),
                        partial(run, exchange),
                        allowed_s,
                    )
                    return
                call_id, call, as_bytes = decode(body, json_bytes)
            exchange.identify(call_id)
            exchange.ask(model, call, allowed_s, partial(tell, exchange, call.rows, as_bytes))

        return handle

    def _infer_in_parts(self, model: Predictor) -> Handler:
        """Server-sent events: a message for each part, then `end` or `error`."""
        decode = self._decoder_aside.for_fields(
            model.signature.inputs, model.program.inputs, model.signature.outputs,
            model.limits.max_rows, model.extras,
        )  # fmt: skip
        encode, by = encoder(model).as_json, model.by

        def read(exchange: Exchange) -> Decoded:
            return decode(exchange.take_body(), -1)

        def head(answering: AnsweredBy) -> tuple[bytes, bytes]:
            return _EVENTS_TYPE, b"" if answering is by else answered_by(answering, by)

        def part(call_id: str, answer: Answer) -> bytes:
            rows = len(next(iter(answer.outputs.values())))
            return b"data: %b\n\n" % encode(call_id, answer, rows)

        def ask(exchange: Exchange, decoded: Decoded, allowed_s: float) -> None:
            call_id, call, as_bytes = decoded
            if as_bytes is not None:
                raise Invalid("outputs of an answer in parts are JSON", hint="leave binary out")
            exchange.rows = call.rows
            form = PartForm(head, partial(part, exchange.identify(call_id)), _end_of_events)
            exchange.ask_in_parts(model, call, allowed_s, form)

        def handle(exchange: Exchange) -> None:
            allowed_s = exchange.allowed_s(model.limits.deadline_s)
            exchange.read_aside(partial(read, exchange), partial(ask, exchange), allowed_s)

        return handle


def _end_of_events(parts: int, error: BasculeError | None) -> bytes:
    if error is None:
        return b'event: end\ndata: {"parts":%d}\n\n' % parts
    data = {"error": error_text(error), "status": status_of(error)}
    return b"event: error\ndata: %b\n\n" % msgspec.json.encode(data)


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise Invalid(
            "header Inference-Header-Content-Length is not a whole number of bytes",
            hint="it is the length of the JSON, before the tensors",
        )
    return int(value)


def _metadata(plane: DataPlane, model: Predictor) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": [one.version for one in plane.versions(model.name)],
        "platform": "bascule",
        "inputs": [
            _tensor_metadata(field, model.signature.columns) for field in model.signature.inputs
        ],
        "outputs": [
            _tensor_metadata(field, labels=labels_of(field.name, field.shape, model.places))
            for field in model.signature.outputs
        ],
        "parameters": {
            "version": model.version,
            "digest": model.digest,
            "program": model.program.name,
            "batch_invariant": model.batch_invariant,
            **model.extras.metadata(),
        },
    }


def _about_index() -> About:
    return About(answer={"type": "array", "items": {"type": "object"}}, takes={}, example={})


def _about(model: Predictor, *, may_be_bytes: bool = True) -> About:
    fields = zip(model.signature.inputs, model.program.inputs, strict=True)
    taken = [_taken(field, target, model.limits.max_rows) for field, target in fields]
    outputs = (*model.signature.outputs, *model.extras.fields)
    text = {"type": "string"}
    flag = {"anyOf": [{"type": "null"}, {"type": "boolean"} if may_be_bytes else {"const": False}]}
    chosen = object_schema(
        {"name": {"enum": [field.name for field in model.signature.outputs]}},
        {"parameters": {"type": ["object", "null"], "properties": {"binary_data": flag}}},
    )
    extras = model.extras.schema("oip") if may_be_bytes else {}  # none in parts
    parameters = {"binary_data_output": flag, **extras}
    answered = {"type": "array", "items": {"anyOf": [*map(_answered, outputs)]}}
    needed = sum(not field.optional for field in model.signature.inputs)
    inputs = {"minItems": needed, "maxItems": len(taken), "items": {"anyOf": taken}}
    return About(
        answer=object_schema(
            {"model_name": text, "model_version": text, "id": text, "outputs": answered},
            {"parameters": {"type": "object"}},
        ),
        takes=object_schema(
            {"inputs": {"type": "array", **inputs}},
            {
                "id": {"type": ["string", "null"]},
                "outputs": {"type": ["array", "null"], "items": chosen},
                "parameters": {"type": ["object", "null"], "properties": parameters},
            },
        ),
        # Without tensors as bytes: they need a header that depends on the body, and
        # openapi-python-client makes a module that cannot be imported of two kinds of body.
        example={"inputs": example_tensors(model.signature, model.example)},
        answer_types=(_BYTES_TYPE.decode(),) if may_be_bytes else (),
    )


def _about_parts(model: Predictor) -> About:
    events = {"description": "Server-sent events; the data of each is an answer."}
    about = _about(model, may_be_bytes=False)
    return about._replace(answer=events, content_type=_EVENTS_TYPE.decode())


def _taken(field: Field, target: Field, max_rows: int) -> dict[str, Any]:
    """A tensor of a request.

    No schema can say that `data` has as many values as `shape` makes, nor that all tensors have the
    same rows.
    """
    rows, whole = (
        {"type": "integer", "minimum": 1, **more} for more in ({"maximum": max_rows}, {})
    )
    sizes = [whole | {"minimum": n, "maximum": n} if n > 0 else whole for n in field.shape]
    first = [rows, *(sizes or [whole | {"maximum": 1}])]
    # openapi-python-client reads neither `items: false` nor a union of numbers and constants.
    shape: dict[str, Any] = {"prefixItems": first, "items": whole, "maxItems": len(first)}
    row = row_schema(field, target)
    forms = row, value_schema(field, target) if sizes else alone(row)
    data = [{"type": "array", "minItems": 1, "items": form} for form in forms]
    shape["minItems"] = 1 + len(sizes)
    return _tensor(field, datatypes_for(field), shape, {"data": {"anyOf": data}})


def _answered(field: Field) -> dict[str, Any]:
    tensor = _tensor(field, (field.dtype,), {"items": {"type": "integer", "minimum": 0}})
    tensor["properties"]["parameters"] = {"type": "object"}
    return tensor


def _tensor(
    field: Field, dtypes: Iterable[DType], shape: dict[str, Any], more: dict[str, Any] | None = None
) -> dict[str, Any]:
    return object_schema(
        {
            "name": {"type": "string", "const": field.name},
            "datatype": {"type": "string", "enum": sorted(dtype.value for dtype in dtypes)},
            "shape": {"type": "array", **shape},
            **(more or {}),
        }
    )


def _tensor_metadata(
    field: Field, columns: Sequence[str] = (), labels: Sequence[Any] = ()
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": field.name,
        "datatype": field.dtype.value,
        "shape": [-1, *field.shape],
    }
    parameters: dict[str, Any] = {}
    if field.nullable:
        parameters["nullable"] = True
    if field.optional:
        parameters["optional"] = True
    if field.categories is not None:
        parameters["categories"] = list(field.categories)
    if field.bounds is not None:
        parameters["bounds"] = list(field.bounds)
    if field.booleans:
        parameters["booleans"] = True
    if field.dates is not None:
        parameters["dates"] = field.dates.value
    if columns:
        parameters["columns"] = list(columns)
    if labels:
        parameters["labels"] = list(labels)
    if parameters:
        made["parameters"] = parameters
    return made
