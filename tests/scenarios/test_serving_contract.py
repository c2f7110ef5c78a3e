"""The protocol as a schema says it, tried by a tool that makes requests from schemas."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.tiers import examples

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
    max_examples=examples(60),
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


@pytest.mark.slow
def test_the_document_accepts_what_is_accepted_and_refuses_what_is_refused(
    start, cancer_bundle, table_bundle, tmp_path
):
    """Schemathesis makes requests from the server's own document, which keep or break it."""
    (tmp_path / "schemathesis.toml").write_text(
        "[checks.negative_data_rejection]\n"
        'expected-statuses = ["400", "401", "403", "404", "405", "406", "413", "415", "422"]\n'
    )
    server = start(cancer_bundle, table_bundle)
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"), "run", "--no-color",
            f"http://127.0.0.1:{server.port}/v2/openapi.json", "--max-examples", "5",
            "--phases", "examples,coverage,fuzzing", "--generation-deterministic",
            "--continue-on-failure", "--checks",
            "not_a_server_error,response_schema_conformance,status_code_conformance,"
            "content_type_conformance,negative_data_rejection,positive_data_acceptance,"
            "unsupported_method",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=900,
        env={
            **os.environ, "PYTHONPATH": str(Path(__file__).parent),
            "SCHEMATHESIS_HOOKS": "contract_hooks",
        },
    )  # fmt: skip
    server.end()
    server.process.stdout.close()

    assert done.returncode == 0, done.stdout[-9_000:]
