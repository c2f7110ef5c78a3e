"""The protocol as a schema says it, tried by a tool that makes requests from schemas."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape", "data"],
    "properties": {
        "name": {"enum": ["input", "other"]},
        "datatype": {"enum": ["FP32", "FP64", "INT64", "BYTES"]},
        "shape": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        "data": {"type": "array", "items": {"type": ["number", "string", "null", "boolean"]}},
    },
}
REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": TENSOR, "maxItems": 3},
        "outputs": {
            "type": "array",
            "items": {"type": "object", "properties": {"name": {"enum": ["label", "other"]}}},
        },
    },
}
RESPONSE = {
    "type": "object",
    "required": ["model_name", "model_version", "id", "outputs"],
    "properties": {
        "model_name": {"const": "gb"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {
            "type": "array",
            "items": {"type": "object", "required": list(TENSOR["required"])},
        },
    },
}
HEALTH = {
    "type": "object",
    "required": ["live", "ready", "name"],
    "properties": {"live": {"const": True}, "ready": {"type": "boolean"}},
}
METADATA = {
    "type": "object",
    "required": ["name", "versions", "platform", "inputs", "outputs"],
    "properties": {"versions": {"type": "array", "items": {"type": "string"}}},
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "minLength": 1}},
    "additionalProperties": False,
}


def answers(schema, *errors):
    told = {"200": schema, **dict.fromkeys(errors, ERROR)}
    return {
        status: {"description": "", "content": {"application/json": {"schema": one}}}
        for status, one in told.items()
    }


def get(schema):
    return {"get": {"responses": answers(schema, "400", "404", "405")}}


OPENAPI = {
    "openapi": "3.1.0",
    "info": {"title": "Open Inference Protocol v2", "version": "2"},
    "paths": {
        "/v2": get({"type": "object", "required": ["name", "version", "extensions"]}),
        "/v2/health/live": get(HEALTH),
        "/v2/health/ready": get(HEALTH),
        "/v2/models/gb": get(METADATA),
        "/v2/models/gb/ready": get(HEALTH),
        "/v2/models/{model}/ready": {
            "parameters": [
                {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
            ],
            **get(HEALTH),
        },
        "/v2/models/gb/infer": {
            "post": {
                "parameters": [
                    {
                        "name": "X-Request-Timeout-Ms",
                        "in": "header",
                        "schema": {"type": "string"},
                    }
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": REQUEST}},
                },
                "responses": answers(RESPONSE, "400", "404", "405", "413", "429"),
            }
        },
    },
}
schema = schemathesis.openapi.from_dict(OPENAPI)


@pytest.fixture(scope="module")
def server(start, cancer_bundle):
    server = start(cancer_bundle)
    yield server
    server.end()
    server.process.stdout.close()


@schema.parametrize()
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_requests_made_from_the_schema_get_answers_of_the_schema(case, server):
    response = case.call(base_url=f"http://127.0.0.1:{server.port}")
    case.validate_response(
        response,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
    )
