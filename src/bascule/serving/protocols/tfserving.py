"""The REST API of TensorFlow Serving: `/v1/models/MODEL:predict`, by row and by column.

A model has one signature, `serving_default`, whose outputs are all of the model's. The paths are
also those of KServe's V1 protocol, and two of them of OpenAI's API: the list of models and the
status of a model have the members of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bascule.core import BasculeError, DType, Field, Invalid
from bascule.serving.calls import Call
from bascule.serving.codecs import JsonParser
from bascule.serving.execution import Predictor
from bascule.serving.protocols import by_row
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.describing import fixed, missing
from bascule.serving.protocols.openai import model_card, models_list
from bascule.serving.transports import Exchange, Handler, Route

_SIGNATURE = "serving_default"
_EXAMPLE = '{"instances": [...]}'
_FORMS = ("instances", "inputs")
_MORE = {"signature_name": {"type": ["string", "null"], "enum": [None, "", _SIGNATURE]}}
_DEFAULT = "0"
"""The version that ovmsclient sends where its caller names none."""
_OTHER_NAMES = {
    DType.FP16: "HALF", DType.FP32: "FLOAT", DType.FP64: "DOUBLE", DType.BYTES: "STRING"
}  # fmt: skip
"""Types that TensorFlow calls otherwise than this protocol."""


class TfServing:
    """See `data_plane.ProtocolAdapter`."""

    name = "tfserving"

    def __init__(self) -> None:
        self._parser = JsonParser(_EXAMPLE)

    def server_routes(self, plane: DataPlane) -> Iterator[Route]:
        """The names of all models, as KServe lists them, and as OpenAI does."""
        listed = {"models": list(plane.defaults), **models_list(plane)}
        yield Route(b"GET", b"/v1/models", fixed(listed), "read")

    def model_routes(self, plane: DataPlane, model: Predictor) -> Iterator[Route]:
        """Status, metadata and predictions of one version."""
        for path, versions in _paths(plane, model):
            yield Route(b"GET", path, _status(plane, versions), "health", model.name)
            yield Route(b"GET", path + b"/metadata", fixed(_metadata(model)), "read", model.name)
            handle = self._predict(model)
            about = by_row.about(model, "instances", more=_MORE)
            yield Route(
                b"POST", path + b":predict", handle, model.needs, model.name, model.series, about
            )

    def not_found(self, plane: DataPlane, path: bytes) -> BasculeError | None:
        """Which model or version is not there."""
        parts = path.decode("utf-8", "replace").strip("/").split("/")
        if parts[:2] != ["v1", "models"] or len(parts) < 3:
            return None
        names = [part.partition(":")[0] for part in parts]
        is_version = len(parts) >= 5 and parts[3] == "versions"
        return missing(plane, names[2], names[4] if is_version else None)

    def _predict(self, model: Predictor) -> Handler:
        reader = by_row.table_reader(model)

        def read(_: Exchange, body: bytes, parser: JsonParser) -> tuple[Call, by_row.Form]:
            given = by_row.an_object(parser.plain(body), _EXAMPLE)
            form = by_row.the_one_of(given, _FORMS, ("signature_name",))
            signature = given.get("signature_name")
            if signature not in (None, "", _SIGNATURE):
                raise Invalid(
                    "signature_name: the model has no such signature", hint=f"send {_SIGNATURE}"
                )
            if form == "instances":
                table = reader.rows(given[form], form)
                return by_row.call_for_all(model, table), by_row.PREDICTIONS
            table = reader.columns(given[form], form)
            return by_row.call_for_all(model, table), _OUTPUTS

        return by_row.handler(model, read, self._parser)


_OUTPUTS = by_row.Form(lambda outputs: by_row.encode({"outputs": by_row.by_column(outputs)}))


def _paths(plane: DataPlane, model: Predictor) -> Iterator[tuple[bytes, list[Predictor]]]:
    """Each path of a version, and the versions whose status it answers."""
    path = f"/v1/models/{model.name}"
    every = plane.versions(model.name)
    if model.service.version:
        yield f"{path}/versions/{model.version}".encode(), [model]
    if plane.is_default(model):
        yield path.encode(), every
        if _DEFAULT not in plane.models[model.name]:
            yield f"{path}/versions/{_DEFAULT}".encode(), [model]
    for label in model.service.labels:
        # The default version keeps a label that another version has too, else the newest does.
        holders = [one for one in every if label in one.service.labels]
        if model is (holders[0] if plane.is_default(holders[0]) else holders[-1]):
            yield f"{path}/labels/{label}".encode(), [model]


def _status(plane: DataPlane, versions: list[Predictor]) -> Handler:
    name = versions[0].name

    def handle(exchange: Exchange) -> None:
        is_ready = plane.is_ready()
        state = "AVAILABLE" if is_ready else "UNLOADING"
        told = [
            {
                "version": model.version,
                "state": state,
                "status": {"error_code": "OK", "error_message": ""},
            }
            for model in versions
        ]
        body = {"model_version_status": told, "name": name, "ready": is_ready}
        body |= model_card(name)
        if is_ready:
            exchange.answer(by_row.encode(body))
        else:
            exchange.answer(by_row.encode(body), 503, extra=b"Retry-After: 1\r\n")

    return handle


def _metadata(model: Predictor) -> dict[str, Any]:
    signature = {
        "inputs": {field.name: _tensor(field) for field in model.signature.inputs},
        "outputs": {field.name: _tensor(field) for field in _answered(model)},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {
            "name": model.name,
            "signature_name": "",
            "version": model.version,
        },
        "metadata": {"signature_def": {"signature_def": {_SIGNATURE: signature}}},
    }


def _answered(model: Predictor) -> Iterator[Field]:
    yield from model.signature.outputs
    if model.extras.by_default:
        yield from model.extras.fields


def _tensor(field: Field) -> dict[str, Any]:
    sizes = [-1, *field.shape]
    return {
        "dtype": f"DT_{_OTHER_NAMES.get(field.dtype, field.dtype.value)}",
        "tensor_shape": {
            "dim": [{"size": str(size), "name": ""} for size in sizes],
            "unknown_rank": False,
        },
        "name": field.name,
    }
