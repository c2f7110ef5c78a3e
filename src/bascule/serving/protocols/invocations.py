"""`POST /invocations`: what MLflow's scoring server and the containers of SageMaker answer.

Both agreed on the path and not on the bodies, and the bodies tell which it is: JSON under one of
MLflow's four keys, a bare list of rows, or CSV. The model is the first that is served; the others
have the paths of SageMaker's multi-model containers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from bascule.core.errors import BasculeError
from bascule.core.fields import Columns
from bascule.core.version import VERSION
from bascule.serving.calls import Call
from bascule.serving.http import Exchange
from bascule.serving.json_tables import Table, TableReader
from bascule.serving.json_values import JsonParser
from bascule.serving.models import ServedModel
from bascule.serving.plane import Plane
from bascule.serving.protocols import by_row
from bascule.serving.protocols.describing import answered_by, fixed, health, missing
from bascule.serving.routes import Handler, Route

_EXAMPLE = '{"instances": [...]}'
_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_TEXT = b"text/plain; charset=utf-8"


class Invocations:
    """See `serving.plane.Face`."""

    def __init__(self) -> None:
        self._parser = JsonParser(f"{_EXAMPLE}, or CSV as Content-Type: text/csv")

    def server_routes(self, plane: Plane) -> Iterator[Route]:
        """Health, version, and predictions of the first model."""
        yield Route(b"GET", b"/ping", health(plane), "health")
        yield Route(b"GET", b"/health", health(plane), "health")
        yield Route(b"GET", b"/version", fixed(VERSION.encode(), _TEXT), "read")
        names = {"models": [_told(name) for name in plane.models]}
        yield Route(b"GET", b"/models", fixed(names), "read")
        model = plane.first
        if model is not None:
            handle, about = self._invoke(model), by_row.about(model, "instances")
            yield Route(b"POST", b"/invocations", handle, "infer", model.name, model.slot, about)

    def model_routes(self, plane: Plane, model: ServedModel) -> Iterator[Route]:
        """A default version by its name, as a multi-model container has it."""
        if plane.is_default(model):
            path = f"/models/{model.name}".encode()
            yield Route(b"GET", path, fixed(_told(model.name)), "read", model.name)
            handle, about = self._invoke(model), by_row.about(model, "instances")
            yield Route(b"POST", path + b"/invoke", handle, "infer", model.name, model.slot, about)

    def not_found(self, plane: Plane, path: bytes) -> BasculeError | None:
        """Which model is not there."""
        parts = path.decode("utf-8", "replace").strip("/").split("/")
        if parts[:1] != ["models"] or len(parts) < 2:
            return None
        return missing(plane, parts[1])

    def _invoke(self, model: ServedModel) -> Handler:
        reader = by_row.table_reader(model)

        def read(exchange: Exchange) -> tuple[Call, by_row.Answer]:
            body = exchange.take_body()
            parameters = None
            if by_row.is_csv(exchange):
                table = reader.csv(body, has_header=by_row.has_header(exchange))
            else:
                table, parameters = _read(self._parser.plain(body), reader)
            answer = _as_csv if by_row.is_csv(exchange, b"accept") else by_row.predictions
            return by_row.call_for(model, table, parameters, "params"), answer

        return by_row.handler(model, read)


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


def _as_csv(exchange: Exchange, outputs: Columns) -> None:
    text = io.StringIO()
    columns = [array.reshape(len(array), -1).T.tolist() for array in outputs.values()]
    flat = [values for column in columns for values in column]
    csv.writer(text, lineterminator="\n").writerows(zip(*flat, strict=True))
    body, kind = text.getvalue().encode(), b"text/csv; charset=utf-8"
    exchange.answer(body, content_type=kind, extra=answered_by(outputs))


def _told(name: str) -> dict[str, str]:
    # The place of a model is nothing to tell clients; the contract wants the key.
    return {"modelName": name, "modelUrl": name}
