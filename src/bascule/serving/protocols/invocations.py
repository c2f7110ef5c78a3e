"""`POST /invocations`: what MLflow's scoring server and the containers of SageMaker answer.

Both agreed on the path and not on the bodies, and the bodies tell which it is: JSON under one of
MLflow's four keys, a bare list of rows, JSON lines, CSV, or NPY. The model is the first that is
served; the others have the paths of SageMaker's multi-model containers. Where these are wanted
whole, the platform also loads and unloads: it fills a folder, and says which name it has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from bascule.core import VERSION, BasculeError, Invalid, TimedOut, check_name
from bascule.security import ANY
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.codecs import (
    EVENT_STREAM_TYPE,
    JsonParser,
    Table,
    TableReader,
    event_message,
)
from bascule.serving.execution import Predictor
from bascule.serving.protocols import by_row, media
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.describing import answered_by, fixed, health, missing
from bascule.serving.protocols.load_requests import LoadRequests
from bascule.serving.protocols.openapi import object_schema
from bascule.serving.transports import About, Exchange, Handler, PartForm, Route, error_text

_EXAMPLE = '{"instances": [...]}'
_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_TEXT = b"text/plain; charset=utf-8"
_ENDPOINTS = b"/api/2.0/endpoints"
_PAGE = 500
"""How many models one answer lists, where there may be any number of them."""
_OCTETS = "application/octet-stream"
_MAX_URL = 1024
_BATCH_PAYLOAD_MB = 6
_BATCH_MAX_MB = 100
"""SageMaker's bound on concurrent transforms times their payload."""
_LOAD = '{"model_name": "late", "url": "/opt/ml/models/late/model"}'


class Invocations:
    """See `data_plane.ProtocolAdapter`."""

    name = "invocations"

    def __init__(self, wishes: LoadRequests | None = None) -> None:
        """`wishes` takes what callers want to have loaded and unloaded; None where they may not."""
        self._parser = JsonParser(f"{_EXAMPLE}, or CSV as Content-Type: text/csv")
        self._wishes = wishes

    def server_routes(self, plane: DataPlane) -> Iterator[Route]:
        """Health, version, predictions of the first model, and where wanted the loading of more."""
        yield Route(b"GET", b"/ping", health(plane), "health")
        yield Route(b"GET", b"/health", health(plane), "health")
        text = partial(About, {"type": "string"}, content_type="text/plain")
        yield Route(b"GET", b"/version", fixed(VERSION.encode(), _TEXT), "read", about=text)
        listed = {"endpoints": [_endpoint(name) for name in plane.defaults]}
        yield Route(b"GET", _ENDPOINTS, fixed(listed), "read")
        if self._wishes is None:
            names = {"models": [_without_place(name) for name in plane.defaults]}
            yield Route(b"GET", b"/models", fixed(names), "read")
        else:
            yield Route(b"GET", b"/models", _list(plane), "read")
            # A folder may hold any model.
            load = self._load(self._wishes)
            yield Route(b"POST", b"/models", load, "manage", ANY, about=_about_loading)
        model = plane.first
        if model is not None:
            yield Route(
                b"GET", b"/execution-parameters", fixed(_for_batch_transform(model)), "read",
                model.name,
            )  # fmt: skip
            handle, about = self._invoke(model), _about(model)
            yield Route(
                b"POST", b"/invocations", handle, model.needs, model.name, model.series, about
            )

    def model_routes(self, plane: DataPlane, model: Predictor) -> Iterator[Route]:
        """A default version by its name.

        As a multi-model container has it, and on the paths of clients of whole endpoints: boto3's
        `sagemaker-runtime` and `mlflow.deployments`, of its own server and of Databricks.
        """
        if plane.is_default(model):
            path = f"/models/{model.name}".encode()
            yield Route(b"GET", path, fixed(self._told(model)), "read", model.name)
            if self._wishes is not None:
                unload = _unload(self._wishes, model.name)
                yield Route(b"DELETE", path, unload, "manage", model.name)
            endpoint = _ENDPOINTS + b"/" + model.name.encode()
            yield Route(b"GET", endpoint, fixed(_endpoint(model.name)), "read", model.name)
            handle, about = self._invoke(model), _about(model)
            for invoke in (
                path + b"/invoke",
                f"/endpoints/{model.name}/invocations".encode(),
                f"/serving-endpoints/{model.name}/invocations".encode(),
            ):
                yield Route(b"POST", invoke, handle, model.needs, model.name, model.series, about)
            stream = f"/endpoints/{model.name}/invocations-response-stream".encode()
            yield Route(
                b"POST", stream, self._invoke_in_parts(model), model.needs, model.name,
                model.series, partial(_about_stream, _about(model, "")),
            )  # fmt: skip

    def not_found(self, plane: DataPlane, path: bytes) -> BasculeError | None:
        """Which model is not there."""
        parts = path.decode("utf-8", "replace").strip("/").split("/")
        if parts[0] not in ("models", "endpoints", "serving-endpoints") or len(parts) < 2:
            return None
        return missing(plane, parts[1])

    def _told(self, model: Predictor) -> dict[str, str]:
        return _with_its_place(model) if self._wishes is not None else _without_place(model.name)

    def _load(self, wishes: LoadRequests) -> Handler:
        def handle(exchange: Exchange) -> None:
            if by_row.media_type(exchange) != b"application/json":
                # What a page of a browser may send anywhere unasked has another type.
                raise Invalid(
                    "the body is not said to be JSON", hint="Content-Type: application/json"
                )
            name, place = _wanted(self._parser.plain(exchange.take_body()))
            wishes.load(
                name, place, partial(_tell, exchange, {"modelName": name, "modelUrl": place})
            )

        return handle

    def _reader(self, model: Predictor, accept: bytes = b"accept") -> by_row.Read:
        reader = by_row.table_reader(model)

        def read(exchange: Exchange, body: bytes, parser: JsonParser) -> tuple[Call, by_row.Form]:
            table, parameters = media.read_rows(exchange, body, parser, reader), None
            if table is None:
                table, parameters = _read(parser.plain(body), reader)
            call = by_row.call_for(model, table, parameters, "params", self.name)
            return call, media.answer_form(exchange, call, "params", accept)

        return read

    def _invoke(self, model: Predictor) -> Handler:
        return by_row.handler(model, self._reader(model), self._parser)

    def _invoke_in_parts(self, model: Predictor) -> Handler:
        """The answer in parts, as boto3's `invoke_endpoint_with_response_stream` reads it."""
        read = self._reader(model, b"x-amzn-sagemaker-accept")

        def read_aside(exchange: Exchange) -> tuple[Call, by_row.Form]:
            return read(exchange, exchange.take_body(), self._parser.aside)

        def ask(exchange: Exchange, asked: tuple[Call, by_row.Form], allowed_s: float) -> None:
            call, form = asked
            exchange.identify()
            exchange.need_request_id()
            exchange.rows = call.rows
            # Those that are added by default are left out of answers in parts.
            extras = tuple(extra._replace(always=False) for extra in call.extras)

            def head(by: AnsweredBy) -> tuple[bytes, bytes]:
                own = b"Bascule-Id: %b\r\nX-Amzn-SageMaker-Content-Type: %b\r\n" % (
                    exchange.prediction_id.encode(), form.content_type,
                )  # fmt: skip
                return EVENT_STREAM_TYPE, own + answered_by(by, model.by)

            def part(answer: Answer) -> bytes:
                end = b"\n" if form is by_row.PREDICTIONS else b""
                return event_message(
                    "event", "PayloadPart", _OCTETS, form.encode(answer.outputs) + end
                )

            parts = PartForm(head, part, _end_of_stream)
            exchange.ask_in_parts(model, call._replace(extras=extras), allowed_s, parts)

        def handle(exchange: Exchange) -> None:
            allowed_s = exchange.allowed_s(model.limits.deadline_s)
            exchange.read_aside(partial(read_aside, exchange), partial(ask, exchange), allowed_s)

        return handle


def _read(given: Any, reader: TableReader) -> tuple[Table, Any]:
    """The rows of a JSON body, and its `params`."""
    if type(given) is list:
        return reader.rows(given, "rows"), None
    given = by_row.an_object(given, _EXAMPLE)
    form = by_row.the_one_of(given, _FORMS, ("params",))
    value = given[form]
    if form == "dataframe_split":
        table = reader.split(value, form)
    elif form != "dataframe_records" and type(value) is dict:
        table = reader.columns(value, form)
    else:
        table = reader.rows(value, form)
    return table, given.get("params")


def _for_batch_transform(model: Predictor) -> dict[str, Any]:
    """How SageMaker's batch transform shall send records, unless its job says otherwise."""
    payload_mb = max(1, min(_BATCH_PAYLOAD_MB, model.limits.max_body_bytes >> 20))
    return {
        "MaxConcurrentTransforms": min(os.cpu_count() or 1, _BATCH_MAX_MB // payload_mb),
        "BatchStrategy": "MULTI_RECORD",
        "MaxPayloadInMB": payload_mb,
    }


def _end_of_stream(parts: int, error: BasculeError | None) -> bytes:  # noqa: ARG001
    """Nothing, or the error that ended the answer, by the code that botocore's model names."""
    if error is None:
        return b""
    code = "ModelInvocationTimeExceeded" if isinstance(error, TimedOut) else "StreamBroken"
    content = by_row.encode({"Message": error_text(error), "ErrorCode": code})
    return event_message("exception", "ModelStreamError", "application/json", content)


def _endpoint(name: str) -> dict[str, Any]:
    """A model as `mlflow.deployments` lists it (`mlflow/deployments/server/config.py`)."""
    return {
        "name": name,
        "endpoint_type": "invocations",
        "model": {"name": name, "provider": "bascule"},
        "endpoint_url": f"/endpoints/{name}/invocations",
        "limit": None,
    }


def _without_place(name: str) -> dict[str, str]:
    # The place of a model is nothing to tell clients; the contract wants the key.
    return {"modelName": name, "modelUrl": name}


def _with_its_place(model: Predictor) -> dict[str, str]:
    # Who may have models loaded has named the place.
    return {"modelName": model.name, "modelUrl": str(model.service.path)}


def _list(plane: DataPlane) -> Handler:
    """Tells the models in the order of their names, so that what comes and goes shifts no page."""

    def handle(exchange: Exchange) -> None:
        query = exchange.head.target.partition(b"?")[2].decode("latin-1")
        after = parse_qs(query).get("next_page_token", [""])[-1]
        names = sorted(name for name in plane.models if name > after)
        page = [_with_its_place(plane.find(name)) for name in names[:_PAGE]]
        told: dict[str, Any] = {"models": page}
        if len(names) > _PAGE:
            told["nextPageToken"] = names[_PAGE - 1]
        exchange.answer(by_row.encode(told))

    return handle


def _wanted(given: Any) -> tuple[str, str]:
    """The name and the folder of a model that is to be loaded."""
    given = by_row.an_object(given, _LOAD)
    for part in ("model_name", "url"):
        if type(given.get(part)) is not str or not given[part]:
            raise Invalid(f"{part}: not a text", hint=f"send {_LOAD}")
    name, place = check_name(given["model_name"], what="model_name"), given["url"]
    if len(place) > _MAX_URL or not place.startswith("/") or "\0" in place:
        raise Invalid(
            f"url: {place[:128]!r} is not the whole path of a folder, in {_MAX_URL} characters",
            hint=f"send {_LOAD}",
        )
    return name, place


def _unload(wishes: LoadRequests, name: str) -> Handler:
    def handle(exchange: Exchange) -> None:
        wishes.unload(name, partial(_tell, exchange, {"modelName": name}))

    return handle


def _tell(exchange: Exchange, done: dict[str, str], problem: BasculeError | None) -> None:
    if problem is not None:
        exchange.fail(problem)
    else:
        exchange.answer(by_row.encode(done))


def _about(model: Predictor, protocol: str = "invocations") -> Callable[[], About]:
    names = "params", protocol
    return by_row.about(model, "instances", other_types=media.OTHER_TYPES, parameters=names)


def _about_stream(about: Callable[[], About]) -> About:
    """Without the extra outputs of a protocol: an answer in parts has none."""
    messages = {"type": "string", "format": "binary", "description": "Messages `PayloadPart`."}
    return about()._replace(answer=messages, content_type=EVENT_STREAM_TYPE.decode())


def _about_loading() -> About:
    text = {"type": "string"}
    return About(
        answer=object_schema({"modelName": text, "modelUrl": text}),
        takes=object_schema({"model_name": text, "url": text}),
        example={"model_name": "late", "url": "/opt/ml/models/late/model"},
    )
