"""The paths and bodies of REST clients: TensorFlow Serving's, KServe's V1, SageMaker's, Azure's."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest

ROWS = [[1.0, 2.0], [3.0, 4.0]]
TWICE = [[2.0, 4.0], [6.0, 8.0]]
NPY = "application/x-npy"


@pytest.fixture
def served(serve_models, program, inline):
    return serve_models(("fake/3", program, inline), ("fake/2", program, inline))


def ask(served, path, body=b"", method="POST", headers=""):
    with served.client() as client:
        return client.request(method, path, body, headers).answer()


def get(served, path):
    return ask(served, path, method="GET")


def label(served, *labels):
    """Have the versions served under these labels."""
    for model, own in zip(served.models, labels, strict=True):
        model.service = replace(model.service, labels=own)
    served.serve(*served.models)


# -- TensorFlow Serving and KServe's V1 --


def test_the_models_are_listed_as_kserve_lists_them(served):
    assert get(served, "/v1/models").json["models"] == ["fake"]


@pytest.mark.parametrize("path", ["/v1/models/fake", "/v1/models/fake/versions/3"])
def test_a_status_has_the_members_of_tensorflow_serving_and_of_kserve(served, path):
    status = get(served, path)

    assert (status.status, status.json["name"], status.json["ready"]) == (200, "fake", True)
    assert status.json["model_version_status"][0]["state"] == "AVAILABLE"


def test_a_model_that_drains_is_not_ready_for_kserve_either(served):
    with served.client() as client:
        client.request("GET", "/v1/models/fake").answer()
        served.on_loop(lambda: setattr(served.site, "draining", True))
        answer = client.request("GET", "/v1/models/fake").answer()

    assert (answer.status, answer.json["ready"]) == (503, False)
    assert answer.json["model_version_status"][0]["state"] == "UNLOADING"
    assert answer.headers["retry-after"] == "1"


def test_a_colon_may_be_escaped_and_nothing_else_is_unescaped(served):
    body = {"instances": ROWS}
    plain = ask(served, "/v1/models/fake:predict", body)

    for path in ("/v1/models/fake%3Apredict", "/v1/models/fake%3apredict?x=1"):
        answer = ask(served, path, body)
        assert (answer.status, answer.body) == (200, plain.body)
    assert ask(served, "/v1/models/f%61ke:predict", body).status == 404
    assert ask(served, "/v1%2Fmodels/fake:predict", body).status == 404


def test_version_0_is_the_default_version_unless_one_has_that_number(
    served, serve_models, program, inline
):
    path = "/v1/models/fake/versions/0"
    assert get(served, path).json["model_version_status"][0]["version"] == "3"
    assert get(served, f"{path}/metadata").json["model_spec"]["version"] == "3"
    assert ask(served, f"{path}:predict", {"instances": ROWS}).status == 200

    own = serve_models(("fake/5", program, inline), ("fake/0", program, inline))
    assert get(own, path).json["model_version_status"][0]["version"] == "0"


def test_a_label_is_the_alias_under_which_a_version_is_served(served):
    label(served, ("champion",), ("challenger",))

    for name, version in (("champion", "3"), ("challenger", "2")):
        path = f"/v1/models/fake/labels/{name}"
        assert get(served, f"{path}/metadata").json["model_spec"]["version"] == version
        assert ask(served, f"{path}:predict", {"instances": ROWS}).status == 200
    assert get(served, "/v1/models/fake/labels/nobody").status == 404


@pytest.mark.parametrize(
    ("labels", "version"),
    [((("x",), ("x",)), "3"), (((), ("x",)), "2"), ((("y",), ("x",)), "2")],
)
def test_a_label_of_several_versions_is_that_of_the_default_one(served, labels, version):
    label(served, *labels)

    found = get(served, "/v1/models/fake/labels/x/metadata")
    assert found.json["model_spec"]["version"] == version


def test_kserve_asks_the_root_whether_the_server_is_alive(served):
    health = get(served, "/").json

    assert (health["status"], health["live"]) == ("alive", True)


# -- clients of whole endpoints --


@pytest.mark.parametrize("prefix", ["/endpoints/fake", "/serving-endpoints/fake"])
def test_an_endpoint_is_a_model_by_its_name(served, prefix):
    answer = ask(served, f"{prefix}/invocations", {"instances": ROWS})

    assert (answer.status, answer.json) == (200, {"predictions": TWICE})


@pytest.mark.parametrize("prefix", ["/endpoints", "/serving-endpoints"])
def test_an_endpoint_that_is_not_there_is_named(served, prefix):
    answer = ask(served, f"{prefix}/no/invocations", {"instances": ROWS})

    assert (answer.status, "no model 'no' here" in answer.json["error"]) == (404, True)


# -- NPY and CSV --


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_an_array_in_is_answered_with_an_array(served, dtype):
    headers = f"Content-Type: {NPY}\r\nAccept: {NPY}\r\n"
    answer = ask(served, "/invocations", saved(np.array(ROWS, dtype)), headers=headers)

    assert (answer.status, answer.headers["content-type"]) == (200, NPY)
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.body)), TWICE)


def test_the_forms_of_request_and_answer_are_chosen_apart(served):
    array = ask(served, "/invocations", saved(np.array(ROWS)), headers=f"Content-Type: {NPY}\r\n")
    json_in = ask(served, "/invocations", {"instances": ROWS}, headers=f"Accept: {NPY}\r\n")

    assert array.json == {"predictions": TWICE}
    np.testing.assert_array_equal(np.load(io.BytesIO(json_in.body)), TWICE)


def test_several_outputs_have_no_place_in_one_array(served):
    def asked(*outputs):
        body = {"instances": ROWS, "params": {"outputs": [*outputs]}}
        return ask(served, "/invocations", body, headers=f"Accept: {NPY}\r\n")

    assert np.load(io.BytesIO(asked("sum").body)).tolist() == [3.0, 7.0]
    refused = asked("sum", "twice")
    assert (refused.status, "NPY carries one output" in refused.json["error"]) == (400, True)


def test_a_damaged_array_is_refused_in_words(served):
    answer = ask(
        served, "/invocations", saved(np.array(ROWS))[:-1], headers=f"Content-Type: {NPY}\r\n"
    )

    assert (answer.status, answer.json["error"].startswith("npy: 31 bytes follow")) == (400, True)


# -- Vertex AI's clients --

ENDPOINT = "/v1/projects/some/locations/europe-west4/endpoints/fake"


@pytest.mark.parametrize("method", [":predict", ":rawPredict", "%3ArawPredict"])
def test_an_endpoint_of_google_is_a_model_by_its_name_in_any_project(served, method):
    answer = ask(served, ENDPOINT + method, {"instances": ROWS})

    assert (answer.status, answer.json) == (200, {"predictions": TWICE})


@pytest.mark.parametrize("path", [ENDPOINT + ":rawPredict", "/vertex/predict"])
def test_a_raw_prediction_takes_and_answers_other_types_than_json(served, path):
    headers = "Content-Type: text/csv\r\nAccept: text/csv\r\n"
    answer = ask(served, path, b"1,2\n3,4\n", headers=headers)

    assert (answer.status, answer.body) == (200, b"2.0,4.0\n6.0,8.0\n")
    array = ask(served, path, saved(np.array(ROWS)), headers=f"Content-Type: {NPY}\r\n")
    assert array.json == {"predictions": TWICE}


def test_an_endpoint_of_google_that_is_not_there_is_named(served):
    answer = ask(served, ENDPOINT.replace("fake", "no") + ":predict", {"instances": ROWS})

    error = answer.json["error"]
    assert (error["code"], error["status"]) == (404, "NOT_FOUND")
    assert "no model 'no' here" in error["message"]


# -- Azure's other bodies --


@pytest.mark.parametrize(
    "wanted", [None, {}, 1.0, {"method": "predict"}], ids=["none", "empty", "number", "method"]
)
def test_the_body_of_automl_is_answered_with_results(served, wanted):
    more = {} if wanted is None else {"GlobalParameters": wanted}
    answer = ask(served, "/score", {"Inputs": {"data": ROWS}, **more})

    assert (answer.status, answer.json) == (200, {"Results": TWICE})


def test_the_body_of_the_designer_is_answered_with_scored_labels(served):
    rows = [{"0": x, "1": y} for x, y in ROWS]
    answer = ask(served, "/score", {"Inputs": {"input1": rows}, "GlobalParameters": {}})

    assert answer.json == {"Results": {"WebServiceOutput0": [{"Scored Labels": t} for t in TWICE]}}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"Inputs": {}}, "Inputs: not an object with one input"),
        ({"Inputs": {"a": ROWS, "b": ROWS}}, "Inputs: not an object with one input"),
        ({"Inputs": ROWS}, "Inputs: not an object with one input"),
        ({"Inputs": {"data": [[1]]}}, "Inputs.data[0]: 1 values, where the model takes 2"),
        ({"Inputs": {"data": ROWS}, "data": ROWS}, "data: there is no such part of a request"),
        (
            {"Inputs": {"data": ROWS}, "GlobalParameters": {"method": "predict_proba"}},
            "GlobalParameters: only the method 'predict' is supported",
        ),
    ],
)
def test_what_azures_forms_ask_amiss_is_refused(served, body, message):
    answer = ask(served, "/score", body)

    assert (answer.status, answer.json["error"].startswith(message)) == (400, True)


# -- keys with a NUL --


@pytest.mark.parametrize("path", ["/invocations", "/v1/models/fake:predict", "/score"])
@pytest.mark.parametrize("body", [rb'{"a":{"\u0000":{}},"b":":"}', rb'{"\u0000":{},"b":":"}'])
def test_a_key_with_a_nul_is_refused_and_breaks_nothing(served, path, body):
    answer = ask(served, path, body)

    assert answer.status == 400
    assert "error" in json.loads(answer.body)
