"""Triton's extensions, over HTTP and over gRPC, and what is refused of them."""

from __future__ import annotations

import json

import pytest
from google.protobuf.json_format import MessageToDict

from bascule.core.fields import DType, Field


@pytest.fixture
def served(serve_models, program, inline):
    return serve_models(("fake/3", program, inline), ("fake/2", program, inline))


@pytest.fixture
def client(served, grpc_client):
    return grpc_client(served)


def get(served, path, method="GET", body=b""):
    with served.client() as client:
        answer = client.request(method, path, body).answer()
    return answer.status, answer.json


def infer(served, *rows, outputs=None, version=""):
    tensor = {"name": "x", "datatype": "FP64", "shape": [len(rows), 2], "data": [*rows]}
    body = {"inputs": [tensor]} | ({"outputs": outputs} if outputs else {})
    path = "/v2/models/fake" + (f"/versions/{version}" if version else "")
    return get(served, f"{path}/infer", "POST", json.dumps(body).encode())


def as_json(message):
    return MessageToDict(message, preserving_proto_field_name=True)


def test_the_extensions_are_named_alike(served, client):
    _, said = get(served, "/v2")

    assert said["extensions"] == list(client.told("ServerMetadata").extensions)
    assert set(said["extensions"]) == {
        "binary_tensor_data", "model_configuration", "model_repository", "statistics",
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/v2/models/fake/config", "/v2/models/fake/versions/2/config"])
def test_the_configuration_has_the_fields_without_the_rows_and_never_an_empty_shape(served, path):
    status, config = get(served, path)

    assert status == 200
    assert (config["name"], config["max_batch_size"]) == ("fake", 1_000_000)
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP64", "dims": [2]}]
    assert config["output"] == [
        {"name": "twice", "data_type": "TYPE_FP64", "dims": [2]},
        {"name": "sum", "data_type": "TYPE_FP64", "dims": [1], "reshape": {"shape": []}},
    ]
    assert config["dynamic_batching"] == {}


def test_the_configuration_over_grpc_is_that_over_http(served, client, messages):
    request = messages("ModelConfigRequest")(name="fake").SerializeToString()
    told = as_json(client.told("ModelConfig", request))["config"]
    _, config = get(served, "/v2/models/fake/config")

    for tensor in (*told["input"], *told["output"]):
        tensor["dims"] = [int(length) for length in tensor["dims"]]
        if "reshape" in tensor:
            tensor["reshape"] = {"shape": []}
    assert told == config


@pytest.mark.parametrize("dtype", DType)
def test_every_datatype_has_the_name_and_the_number_that_triton_gives_it(
    serve_models, program, inline, grpc_client, messages, dtype
):
    program.inputs = (Field("x", dtype, (-1,)),)
    served = serve_models(("fake", program, inline))
    request = messages("ModelConfigRequest")(name="fake").SerializeToString()
    (told,) = as_json(grpc_client(served).told("ModelConfig", request))["config"]["input"]
    (field,) = get(served, "/v2/models/fake/config")[1]["input"]

    assert told["data_type"] == field["data_type"]
    assert field["data_type"] == f"TYPE_{'STRING' if dtype is DType.BYTES else dtype.value}"
    assert told["dims"] == ["-1"]


def test_a_model_that_is_never_batched_has_no_dynamic_batching(serve_models, program, inline):
    served = serve_models(("fake", program, inline), batching="never")

    assert "dynamic_batching" not in get(served, "/v2/models/fake/config")[1]


def test_statistics_count_rows_requests_and_failures_of_each_version(served, client, messages):
    assert infer(served, [1, 2], [3, 4])[0] == 200
    assert infer(served, [1, 2])[0] == 200
    assert infer(served, [1, "a"])[0] == 400

    _, said = get(served, "/v2/models/fake/versions/3/stats")
    (stats,) = said["model_stats"]
    assert (stats["name"], stats["version"]) == ("fake", "3")
    assert (stats["inference_count"], stats["execution_count"]) == (3, 2)
    durations = stats["inference_stats"]
    assert durations["success"]["count"] == durations["queue"]["count"] == 2
    assert durations["success"]["ns"] > 0
    assert durations["fail"]["count"] == 1

    request = messages("ModelStatisticsRequest")(name="fake", version="3").SerializeToString()
    (told,) = client.told("ModelStatistics", request).model_stats
    assert (told.inference_count, told.execution_count) == (3, 2)
    for name, duration in durations.items():
        found = getattr(told.inference_stats, name)
        assert (found.count, found.ns) == (duration["count"], duration["ns"]), name


def test_statistics_without_a_name_are_those_of_every_version(served, client):
    _, said = get(served, "/v2/models/stats")
    told = client.told("ModelStatistics").model_stats

    assert [one["version"] for one in said["model_stats"]] == ["3", "2"]
    assert [one.version for one in told] == ["3", "2"]


def test_a_model_called_stats_keeps_its_own_path(serve_models, program, inline):
    served = serve_models(("stats", program, inline))

    assert get(served, "/v2/models/stats")[1]["name"] == "stats"
    assert get(served, "/v2/models/stats/stats")[1]["model_stats"][0]["name"] == "stats"


def test_the_repository_index_lists_every_version_alike(served, client):
    status, listed = get(served, "/v2/repository/index", "POST", b"")
    told = client.told("RepositoryIndex").models

    assert status == 200
    assert listed == [
        {"name": "fake", "version": version, "state": "READY", "reason": ""} for version in "32"
    ]
    assert [(one.name, one.version, one.state) for one in told] == [
        ("fake", "3", "READY"), ("fake", "2", "READY"),
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["ModelConfig", "ModelStatistics"])
def test_what_is_not_served_is_not_found(served, client, messages, method):
    request = messages(f"{method}Request")(name="no").SerializeToString()

    assert client.refusal(method, request)[0] == "NOT_FOUND"
    for path in ("/v2/models/no/config", "/v2/models/fake/versions/9/stats"):
        assert get(served, path)[0] == 404


# -- what is not supported is refused, and not passed over --

UNSUPPORTED = [("classification", 2), ("shared_memory_region", "inputs")]


@pytest.mark.parametrize(("name", "value"), UNSUPPORTED)
def test_an_output_in_a_form_that_is_not_supported_is_refused_alike(
    served, client, ask_grpc, name, value
):
    place = f"outputs[0].parameters.{name}: not supported"
    status, said = infer(served, [1, 2], outputs=[{"name": "sum", "parameters": {name: value}}])
    assert (status, said["error"].startswith(place)) == (400, True)

    request = ask_grpc([1, 2])
    output = request.outputs.add(name="sum")
    kind = "int64_param" if isinstance(value, int) else "string_param"
    setattr(output.parameters[name], kind, value)
    code, words = client.refusal("ModelInfer", request.SerializeToString())
    assert (code, words.startswith(place)) == ("INVALID_ARGUMENT", True)


def test_an_input_in_shared_memory_is_refused_alike(served, client, ask_grpc):
    words = "parameters.shared_memory_region: not supported"
    tensor = {
        "name": "x", "datatype": "FP64", "shape": [1, 2],
        "parameters": {"shared_memory_region": "inputs", "shared_memory_byte_size": 16},
    }  # fmt: skip
    body = json.dumps({"inputs": [tensor]}).encode()
    status, said = get(served, "/v2/models/fake/infer", "POST", body)
    assert (status, words in said["error"]) == (400, True)

    request = ask_grpc([1, 2])
    request.inputs[0].parameters["shared_memory_region"].string_param = "inputs"
    code, message = client.refusal("ModelInfer", request.SerializeToString())
    assert (code, words in message) == ("INVALID_ARGUMENT", True)


def test_parameters_that_ask_for_nothing_are_passed_over(served, client, ask_grpc):
    request = ask_grpc([1, 2])
    request.outputs.add(name="sum").parameters["classification"].int64_param = 0

    assert client.infer(request).outputs[0].name == "sum"
    assert infer(served, [1, 2], outputs=[{"name": "sum", "parameters": {"x": 1}}])[0] == 200
