"""The paths of an Azure ML online endpoint's container: `POST /score`, health at `GET /`.

Two bodies are usual: `{"data": [...]}`, of scoring scripts, and `{"input_data": ...}`, of models
that were deployed from MLflow. The answer to both is the bare list of predictions. A third has one
named input: `{"Inputs": {"data": [...]}}` of AutoML is answered `{"Results": [...]}`, and any other
name, of the designer, `{"Results": {"WebServiceOutput0": [{"Scored Labels": ...}]}}`. The model is
the first that is served.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bascule.core import Columns, Invalid
from bascule.serving.calls import Call
from bascule.serving.codecs import JsonParser, TableReader
from bascule.serving.execution import Predictor
from bascule.serving.protocols import by_row
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.describing import health, openapi
from bascule.serving.transports import Exchange, Handler, Route

_EXAMPLE = '{"data": [...]}'
_FORMS = ("input_data", "data")
_INPUTS = '{"Inputs": {"data": [...]}, "GlobalParameters": {}}'


class AzureMl(by_row.OneModel):
    """See `data_plane.ProtocolAdapter`."""

    name = "azureml"

    def __init__(self) -> None:
        self._parser = JsonParser(_EXAMPLE)

    def server_routes(self, plane: DataPlane) -> Iterator[Route]:
        """The health, and predictions of the first model."""
        # KServe's V1 client asks here whether the server is live.
        yield Route(b"GET", b"/", health(plane, status="alive"), "health")
        yield Route(b"GET", b"/swagger.json", openapi(plane), "read")
        model = plane.first
        if model is not None:
            handle = self._score(model)
            about = by_row.about(model, "data", answer_key="", parameters=("params", self.name))
            yield Route(b"POST", b"/score", handle, model.needs, model.name, model.series, about)

    def _score(self, model: Predictor) -> Handler:
        reader = by_row.table_reader(model)

        def read(_: Exchange, body: bytes, parser: JsonParser) -> tuple[Call, by_row.Form]:
            given = by_row.an_object(parser.plain(body), _EXAMPLE)
            if "Inputs" in given:
                return _read_inputs(model, reader, given)
            form = by_row.the_one_of(given, _FORMS, ("params",))
            value = given[form]
            if type(value) is not dict:
                table = reader.rows(value, form)
            elif form == "input_data" and "data" in value:
                table = reader.split(value, form)
            else:
                table = reader.columns(value, form)
            parameters = given.get("params")
            return by_row.call_for(model, table, parameters, "params", self.name), _BARE

        return by_row.handler(model, read, self._parser)


def _read_inputs(
    model: Predictor, reader: TableReader, given: dict[str, Any]
) -> tuple[Call, by_row.Form]:
    """A body with one named input."""
    by_row.the_one_of(given, ("Inputs",), ("GlobalParameters",))
    inputs, wanted = given["Inputs"], given.get("GlobalParameters")
    if type(inputs) is not dict or len(inputs) != 1:
        raise Invalid("Inputs: not an object with one input", hint=f"send {_INPUTS}")
    # AutoML's clients send a number, or the method; only this one has labels for its answer.
    if type(wanted) is dict and wanted and wanted != {"method": "predict"}:
        raise Invalid(
            "GlobalParameters: only the method 'predict' is supported", hint=f"send {_INPUTS}"
        )
    ((name, rows),) = inputs.items()
    table = reader.rows(rows, f"Inputs.{name[:64]}")
    form = _AUTOML if name == "data" else _DESIGNER
    return by_row.call_for(model, table, None, "params", AzureMl.name), form


def _scored(outputs: Columns) -> list[dict[str, Any]]:
    """Rows as the designer has them: the answer proper under `Scored Labels`."""
    names = ("Scored Labels", *list(outputs)[1:])
    columns = (array.tolist() for array in outputs.values())
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


_AUTOML = by_row.Form(lambda outputs: by_row.encode({"Results": by_row.by_row(outputs)}))
_DESIGNER = by_row.Form(
    lambda outputs: by_row.encode({"Results": {"WebServiceOutput0": _scored(outputs)}})
)
_BARE = by_row.Form(lambda outputs: by_row.encode(by_row.by_row(outputs)))
