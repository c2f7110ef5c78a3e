"""The OpenAPI document of what is served: every route, with the model's own fields and an example.

A route says of itself what it takes and answers (`Route.about`); the words and the schemas that
protocols share are here. The document is made at the first request for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import VERSION, Columns, Dates, DType, Field, Signature
from bascule.security import ANY, OPEN_ACTIONS
from bascule.serving.codecs import bounds_of, whole_bounds_of
from bascule.serving.transports import About, Route, Routes

Schema = dict[str, Any]
"""A JSON Schema (2020-12), as OpenAPI 3.1 has it."""

_EXAMPLE_ROWS = 2
_TEXT: Schema = {"type": "string"}


def object_schema(
    needed: Schema, others: Schema | None = None, *, is_closed: bool = False
) -> Schema:
    """An object with all properties of `needed`, and any of `others`; a closed one has no more."""
    made = {"type": "object", "properties": {**needed, **(others or {})}, "required": [*needed]}
    return made | {"additionalProperties": False} if is_closed else made


_ERRORS: dict[str, Schema] = {
    "Error": object_schema({"error": _TEXT}),
    "InvocationsError": object_schema(dict.fromkeys(("error", "error_code", "message"), _TEXT)),
    "OpenAiError": object_schema(
        {"error": object_schema({"message": _TEXT, "type": _TEXT, "param": {}, "code": {}})}
    ),
    "VertexError": object_schema(
        {"error": object_schema({"code": {"type": "integer"}, "message": _TEXT, "status": _TEXT})}
    ),
}
_ERROR_OF = {
    "invocations": "InvocationsError", "vertex": "VertexError", "openai": "OpenAiError"
}  # fmt: skip
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
    answer = {"description": "The answer.", "content": _content(about.answer, about)}
    statuses = (200, 503) if route.action == "health" else about.statuses
    made: dict[str, Any] = {
        "operationId": f"{route.method.decode()} {route.path.decode()}",
        "summary": _SUMMARIES[route.action],
        "responses": {
            **{str(status): answer for status in statuses},
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
        taken = _JSON._replace(other_types=about.other_types)
        content = _content(about.takes, taken)
        content["application/json"]["example"] = about.example
        made["requestBody"] = {"required": bool(about.takes), "content": content}
    return made


def _content(schema: Schema, about: About = _JSON) -> dict[str, Any]:
    made = {about.content_type: {"schema": schema}}
    return made | {other: {"schema": _BINARY} for other in about.other_types + about.answer_types}


# -- schemas of what models take and answer --

_DATE_SCHEMAS: dict[Dates, Schema] = {
    Dates.DAY: {"format": "date"},
    Dates.LOCAL: {"description": Dates.LOCAL.hint},  # JSON Schema has no name for it
    Dates.INSTANT: {"format": "date-time"},
}


def value_schema(field: Field, target: Field | None = None) -> Schema:
    """One value of a field; of an input that a program reads as `target`, all that is accepted."""
    kind = "number" if field.dtype.is_float else "integer" if field.dtype.is_integer else "string"
    if field.dtype is DType.BOOL:
        kind = "boolean"
    types = [kind, "null"] if field.nullable else [kind]
    if field.booleans:
        types.insert(0, "boolean")
    made: Schema = {}
    if field.dates is not None:
        made |= _DATE_SCHEMAS[field.dates]
    low, high = field.bounds or (-math.inf, math.inf)
    if field.categories is not None:
        made["enum"] = [*field.categories, *([None] if field.nullable else [])]
    elif target is not None and field.dtype is DType.BOOL:
        types, (low, high) = [*types, "integer"], (0, 1)
    elif target is not None and field.dtype.is_integer:
        low, high = whole_bounds_of(field)
    elif target is not None and field.dtype.is_float:
        low, high = bounds_of(field, target.dtype)
    if high < 1e308:  # beyond which JSON has none
        made["minimum"], made["maximum"] = low, high
    return {"type": types if len(types) > 1 else kind, **made}


def row_schema(field: Field, target: Field | None = None) -> Schema:
    """What one row has of a field: a value, or lists of them; see `value_schema`."""
    made = value_schema(field, target)
    for length in reversed(field.shape):
        made = {"type": "array", "items": made, "minItems": max(length, int(target is not None))}
        if length >= 0:
            made["maxItems"] = length
    return made


def rows_schema(signature: Signature, targets: Sequence[Field]) -> Schema:
    """Rows as protocols of rows take them: lists for a matrix, objects for a table.

    A value of a column may also be a list of it alone, as clients of columns as matrices send it.
    """
    rows = {
        field.name: row_schema(field, target)
        for field, target in zip(signature.inputs, targets, strict=True)
    }
    if len(rows) == 1 and signature.inputs[0].shape:
        (row,) = rows.values()
    else:
        for field in signature.inputs:
            if not field.shape:
                value = rows[field.name]
                rows[field.name] = {"anyOf": [value, alone(value)]}
        optional = {one.name: rows.pop(one.name) for one in signature.inputs if one.optional}
        row = object_schema(rows, optional, is_closed=True)
    return {"type": "array", "minItems": 1, "items": row}


def alone(value: Schema) -> Schema:
    """A list of one value, which is taken for the value."""
    return {"type": "array", "items": value, "minItems": 1, "maxItems": 1}


def answers_schema(outputs: Sequence[Field], *, may_choose: bool = False) -> Schema:
    """Answers row by row: the values of one output, or objects of several.

    Either, where a request may choose its outputs.
    """
    values = {field.name: _answered(field) for field in outputs}
    row: Schema = {"type": "object", "properties": values}
    if may_choose:
        row = {"anyOf": [*values.values(), row]}
    elif len(outputs) == 1:
        (row,) = values.values()
    return {"type": "array", "items": row}


def _answered(field: Field) -> Schema:
    # JSON has no other word for what is not finite.
    return row_schema(replace(field, nullable=field.nullable or field.dtype.is_float))


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
