"""The OpenAPI document of what is served: every route, with the model's own fields and an example.

A route says of itself what it takes and answers (`Route.about`); the words and the schemas that
protocols share are here. The document is made at the first request for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import VERSION, Columns, Dates, DType, Field, Signature
from bascule.security import ANY, OPEN_ACTIONS
from bascule.serving.transports import About, Route, Routes

Schema = dict[str, Any]
"""A JSON Schema (2020-12), as OpenAPI 3.1 has it."""

_EXAMPLE_ROWS = 2
_ERROR: Schema = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
_ERRORS: dict[str, Schema] = {
    "Error": _ERROR,
    "InvocationsError": {
        "type": "object",
        "properties": {name: {"type": "string"} for name in ("error", "error_code", "message")},
        "required": ["error", "error_code", "message"],
    },
    "VertexError": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "code": {"type": "integer"},
                    "message": {"type": "string"},
                    "status": {"type": "string"},
                },
                "required": ["code", "message", "status"],
            }
        },
        "required": ["error"],
    },
}
_ERROR_OF = {"invocations": "InvocationsError", "vertex": "VertexError"}
_JSON = About({})
_BINARY: Schema = {"type": "string", "format": "binary"}
_SUMMARIES = {
    "infer": "Predictions",
    "read": "Description",
    "health": "Health",
    "metrics": "Counters",
    "manage": "Loading and unloading",
    "outcome": "Outcomes",
}


def document(routes: Routes, *, asks_for_keys: bool) -> dict[str, Any]:
    """The whole document; `asks_for_keys` says whether callers need one."""
    paths: dict[str, dict[str, Any]] = {}
    for path, methods in sorted(routes.items()):
        for method, route in methods.items():
            if method != b"HEAD":
                operations = paths.setdefault(path.decode(), {})
                operations[method.decode().lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Bascule", "version": VERSION},
        "paths": paths,
        "security": [{"key": []}] if asks_for_keys else [],
        "components": {
            "schemas": _ERRORS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    error = _ERROR_OF.get(route.protocol, "Error")
    about = route.about() if route.about is not None else About({})
    made: dict[str, Any] = {
        "operationId": f"{route.method.decode()} {route.path.decode()}",
        "summary": _SUMMARIES[route.action],
        "responses": {
            "200": {"description": "The answer.", "content": _content(about.answer, about)},
            "default": {
                "description": "What went wrong, and the next step.",
                "content": _content({"$ref": f"#/components/schemas/{error}"}),
            },
        },
    }
    if route.model and route.model != ANY:
        made["tags"] = [route.model]
    if route.action in OPEN_ACTIONS:
        made["security"] = []
    if about.takes is not None:
        content = _content(about.takes, about._replace(content_type=_JSON.content_type))
        content["application/json"]["example"] = about.example
        made["requestBody"] = {"required": True, "content": content}
    return made


def _content(schema: Schema, about: About = _JSON) -> dict[str, Any]:
    made = {about.content_type: {"schema": schema}}
    return made | {other: {"schema": _BINARY} for other in about.other_types}


# -- schemas of what models take and answer --

_DATE_SCHEMAS: dict[Dates, Schema] = {
    Dates.DAY: {"format": "date"},
    Dates.LOCAL: {"description": Dates.LOCAL.hint},  # JSON Schema has no name for it
    Dates.INSTANT: {"format": "date-time"},
}


def value_schema(field: Field) -> Schema:
    """One value of a field."""
    kind = "number" if field.dtype.is_float else "integer" if field.dtype.is_integer else "string"
    if field.dtype is DType.BOOL:
        kind = "boolean"
    made: Schema = {"type": [kind, "null"] if field.nullable else kind}
    if field.booleans:
        made["type"] = ["boolean", *made["type"]]
    if field.dates is not None:
        made |= _DATE_SCHEMAS[field.dates]
    if field.categories is not None:
        made["enum"] = [*field.categories, *([None] if field.nullable else [])]
    if field.bounds is not None and max(field.bounds) < 1e308:  # beyond which JSON has none
        made["minimum"], made["maximum"] = field.bounds
    return made


def row_schema(field: Field) -> Schema:
    """What one row has of a field: a value, or lists of them."""
    made = value_schema(field)
    for length in reversed(field.shape):
        made = {"type": "array", "items": made}
        if length >= 0:
            made |= {"minItems": length, "maxItems": length}
    return made


def rows_schema(signature: Signature) -> Schema:
    """Rows as protocols of rows take them: lists for a matrix, objects for a table."""
    if len(signature.inputs) == 1 and signature.inputs[0].shape:
        row = row_schema(signature.inputs[0])
    else:
        row = {
            "type": "object",
            "properties": {field.name: row_schema(field) for field in signature.inputs},
            "required": [field.name for field in signature.inputs],
            "additionalProperties": False,
        }
    return {"type": "array", "minItems": 1, "items": row}


def answers_schema(outputs: tuple[Field, ...]) -> Schema:
    """Answers row by row: the values of one output, or objects of several."""
    if len(outputs) == 1:
        return {"type": "array", "items": _answered(outputs[0])}
    properties = {field.name: _answered(field) for field in outputs}
    return {"type": "array", "items": {"type": "object", "properties": properties}}


def _answered(field: Field) -> Schema:
    made: Schema = {**row_schema(field)}
    if field.dtype.is_float and not field.shape:
        made["type"] = ["number", "null"]  # JSON has no other word for what is not finite
    return made


# -- examples --


def example_columns(signature: Signature, example: Columns | None) -> dict[str, list[Any]]:
    """The first rows of an example by input, as JSON has them; made up where there is none."""
    if example is None:
        return {field.name: [_made_up(field)] for field in signature.inputs}
    return {
        field.name: _plain(example[field.name][:_EXAMPLE_ROWS], field) for field in signature.inputs
    }


def example_tensors(signature: Signature, example: Columns | None) -> list[dict[str, Any]]:
    """The same as the tensors of the Open Inference Protocol."""
    values = example_columns(signature, example)
    return [
        {
            "name": field.name,
            "datatype": field.dtype.value,
            "shape": list(np.shape(values[field.name])),
            "data": values[field.name],
        }
        for field in signature.inputs
    ]


def example_rows(signature: Signature, example: Columns | None) -> list[Any]:
    """The first rows of an example, in the form of `rows_schema`."""
    columns = example_columns(signature, example)
    if len(signature.inputs) == 1 and signature.inputs[0].shape:
        return columns[signature.inputs[0].name]
    names = tuple(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(array: NDArray[Any], field: Field) -> list[Any]:
    """The values in the field's own type, whatever the program computes in."""
    if field.dtype is not DType.BYTES and not (field.dtype.is_float or array.dtype == object):
        array = array.astype(field.dtype.numpy)
    if array.dtype.kind == "f":
        missing = np.isnan(array)
        array = array.astype(object)
        array[missing] = None
    values: list[Any] = array.tolist()
    return values


def _made_up(field: Field) -> Any:
    value: Any = 0.0 if field.dtype.is_float else 0 if field.dtype.is_integer else "text"
    if field.dtype is DType.BOOL:
        value = False
    if field.dates is not None:
        value = field.dates.example
    if field.categories:
        value = field.categories[0]
    if field.bounds is not None:
        value = min(max(value, field.bounds[0]), field.bounds[1])
    for length in reversed(field.shape):
        value = [value] * max(length, 1)
    return value
