"""The bodies of errors, read by the parsers of the clients that they are for."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from botocore.parsers import create_parser
from google.api_core.exceptions import GoogleAPICallError, format_http_response_error

from bascule.core.errors import KINDS, Invalid
from bascule.serving.transports.statuses import error_body, status_of

TEXT = "it did not work; try another"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_clients_of_google_mlflow_and_aws_read_the_text_of_every_error(kind):
    from mlflow.exceptions import RestException
    from mlflow.protos.databricks_pb2 import ErrorCode

    error = kind("it did not work", hint="try another")
    status = status_of(error)
    answer = SimpleNamespace(status_code=status)
    google = format_http_response_error(answer, "POST", "/predict", error_body(error, "vertex"))
    assert isinstance(google, GoogleAPICallError)
    assert google.message.endswith(TEXT)
    body = error_body(error, "invocations")
    mlflow = RestException(body)
    assert mlflow.message.endswith(TEXT)
    assert ErrorCode.Value(mlflow.error_code)
    reply = {"status_code": status, "headers": {}, "body": json.dumps(body).encode()}
    aws = create_parser("rest-json").parse(reply, None)
    assert aws["Error"]["Message"] == TEXT


@pytest.mark.parametrize("protocol", ["", "oip", "tfserving", "azureml"])
def test_other_protocols_have_the_text_alone(protocol):
    """TensorFlow Serving and KServe, in both of its protocols, have no other member."""
    assert error_body(Invalid("no", hint="yes"), protocol) == {"error": "no; yes"}
