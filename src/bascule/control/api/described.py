"""The OpenAPI document: the conventions are added to every operation here, once."""

from __future__ import annotations

import json
import re
from inspect import cleandoc
from typing import Any

from fastapi import FastAPI

from bascule.control.api.idempotency import HEADER, KEY_PATTERN, REPLAYED
from bascule.control.api.problems import PROBLEM_TYPE, Problem
from bascule.control.api.rights import OPERATIONS
from bascule.core import NAME_PATTERN
from bascule.security import OPEN_ACTIONS

_SCHEMA = re.compile(r"#/components/schemas/([^\"]+)")
_FIELD = re.compile(r"^    (\w+): (.*(?:\n     +.*)*)", re.MULTILINE)
"""A line of `Attributes:` in a docstring, with the lines that go on with it."""
_TAG = {"description": "Entity tag of the resource", "schema": {"type": "string"}}
_PARAMETERS = {
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "description": "Entity tags that the caller has: 304 for one of them",
        "schema": {"type": "string"},
    },
    "IdempotencyKey": {
        "name": HEADER,
        "in": "header",
        "required": False,
        "description": "Makes the request safe to repeat for 24 hours: a string of 1 to 255 "
        "printable characters, new for each request",
        "schema": {"type": "string", "pattern": f"^(?:{KEY_PATTERN})$", "maxLength": 257},
    },
}
_PROBLEMS = {
    "401": "Callers need a key, and the request has none that is live",
    "403": "The key does not allow this, or a rule of the registry refuses it",
    "409": "Taken, changed meanwhile, or the first request with this key is still under way",
    "412": "If-Match or If-None-Match does not hold; ETag is the current tag",
    "422": f"The {HEADER} came before with another request",
    "4XX": "The request is refused",
    "503": "A part that is needed is away; retry",
}


def describe(app: FastAPI, *, asks_for_keys: bool) -> None:
    """Let the document (OpenAPI 3.1) of `app` have the conventions."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            _describe_values(document)
            _add_components(document)
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    _describe(f"{method.upper()} {path}", operation, asks_for_keys)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _describe_values(document: dict[str, Any]) -> None:
    """Let each field have its line of the docstring; an answer always has all of its fields."""
    schemas = document.get("components", {}).get("schemas", {})
    operations = [one for path in document["paths"].values() for one in path.values()]
    left, taken = _named([one.get("requestBody") for one in operations]), set[str]()
    while left:
        taken |= left
        left = _named([schemas[name] for name in left]) - taken
    for name, schema in schemas.items():
        _describe_value(schema, is_answer=name not in taken)
    for operation in operations:
        _describe_value(operation["responses"])


def _named(parts: list[Any]) -> set[str]:
    return set(_SCHEMA.findall(json.dumps(parts)))


def _describe_value(part: Any, *, is_answer: bool = False) -> None:
    if isinstance(part, dict) and isinstance(part.get("properties"), dict):
        properties = part["properties"]
        text, _, lines = cleandoc(part.get("description", "")).partition("\n\nAttributes:\n")
        if lines:
            part["description"] = text
        for name, line in _FIELD.findall(lines):
            if name in properties:
                properties[name].setdefault("description", " ".join(line.split()))
        if is_answer and properties:
            part["required"] = list(properties)
            for one in properties.values():
                one.pop("default", None)
    if isinstance(part, dict | list):
        for one in part.values() if isinstance(part, dict) else part:
            _describe_value(one)


def _add_components(document: dict[str, Any]) -> None:
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
    components["parameters"] = _PARAMETERS
    components["headers"] = {"ETag": _TAG}
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    components["responses"] = {
        f"Problem{status}": {"description": text, "content": content}
        for status, text in _PROBLEMS.items()
    }
    components["responses"]["Problem412"]["headers"] = {"ETag": _ref("headers", "ETag")}
    components["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "A key of `bascule keys create`",
        }
    }


def _describe(name: str, operation: dict[str, Any], asks_for_keys: bool) -> None:
    responses, parameters = operation["responses"], operation.setdefault("parameters", [])
    problems = ["4XX", "503"]
    for parameter in parameters:
        if parameter["in"] == "path" and parameter["name"] in ("model", "endpoint"):
            parameter["schema"]["pattern"] = f"^{NAME_PATTERN}$"
    declared = OPERATIONS[name]
    needs_key = asks_for_keys and declared.action not in (None, *OPEN_ACTIONS)
    if declared.history:
        operation["x-history"] = declared.history
    operation["security"] = [{"key": []}] if needs_key else []
    if needs_key:
        problems += ["401", "403"]
    if any(one.get("name") == "if-match" for one in parameters):
        problems.append("412")
    if name.startswith("GET "):
        parameters.append(_ref("parameters", "IfNoneMatch"))
        responses["304"] = {
            "description": "Not modified",
            "headers": {"ETag": _ref("headers", "ETag")},
        }
        responses["200"].setdefault("headers", {})["ETag"] = _ref("headers", "ETag")
    elif declared.keeps_answers:
        parameters.append(_ref("parameters", "IdempotencyKey"))
        problems += ["409", "422"]
        replayed = {"description": "Present on a repeated answer", "schema": {"const": "true"}}
        for status in ("200", "201", "202"):
            if status in responses:
                responses[status].setdefault("headers", {})[REPLAYED] = replayed
    for status in problems:
        if status != "503" or status not in responses:  # of the health, it is the health
            responses[status] = _ref("responses", f"Problem{status}")


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}
