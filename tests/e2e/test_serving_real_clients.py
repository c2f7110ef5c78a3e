"""Clients that people have, unchanged, against a running server.

Each runs in a process of its own, as its users have it: tritonclient brings an event loop of
gevent, and its descriptors cannot share a process with those of other clients of the protocol.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from itertools import product

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from tests.tiers import first_of

import bascule

ROWS = load_breast_cancer().data[:100]


@pytest.fixture(scope="module")
def server(start, cancer_bundle, table_bundle):
    running = start(cancer_bundle, table_bundle)
    yield running
    running.end()
    running.process.stdout.close()


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(file, ROWS)
    return file


@pytest.fixture(scope="module")
def expected(cancer_bundle):
    """What the program answers that is served; `predict` takes the fastest for so many rows."""
    program = bascule.load(cancer_bundle).program()
    (field,) = program.inputs
    answer = program.run({field.name: ROWS.astype(field.dtype.numpy)})
    return {name: values.tolist() for name, values in answer.items()}


def run(script, *arguments):
    """What a script of its own prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


TRITON = """
    import json, sys
    import numpy as np
    import tritonclient.http as client

    X = np.load(sys.argv[2])
    url, form = sys.argv[1], json.loads(sys.argv[3])
    triton = client.InferenceServerClient(url)
    assert triton.is_server_live() and triton.is_server_ready() and triton.is_model_ready("gb")
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    field = triton.get_model_metadata("gb")["inputs"][0]
    given = client.InferInput(field["name"], list(X.shape), field["datatype"])
    given.set_data_from_numpy(X, binary_data=form["sends_bytes"])
    outputs = None
    if form["outputs"] is not None:
        outputs = [
            client.InferRequestedOutput(name, binary_data=form["wants_bytes"])
            for name in form["outputs"]
        ]
    answer = triton.infer(
        "gb", [given], outputs=outputs, request_id="7",
        request_compression_algorithm=form["packs"], response_compression_algorithm=form["packed"],
    )
    said = answer.get_response()
    assert said["id"] == "7" and type(said["model_version"]) is str
    print(json.dumps({o["name"]: answer.as_numpy(o["name"]).tolist() for o in said["outputs"]}))
"""


FORMS = [
    (None, True, True, "gzip"),
    (["probabilities", "label"], False, False, "deflate"),
    *product([None], [True], [True, False], [None, "deflate"]),
    (None, True, False, "gzip"),
    *product([["probabilities", "label"]], [False], [True], [None, "gzip", "deflate"]),
    *product([["probabilities", "label"]], [False], [False], [None, "gzip"]),
]  # fmt: skip
"""Of bytes and of JSON, packed in each way; the first tier has each of these once."""


@pytest.mark.parametrize(("outputs", "wants_bytes", "sends_bytes", "packing"), first_of(FORMS, 2))
def test_tritonclient_gets_the_bits_of_the_model(
    server, rows_file, expected, packing, sends_bytes, outputs, wants_bytes
):
    form = {
        "sends_bytes": sends_bytes,
        "outputs": outputs,
        "wants_bytes": wants_bytes,
        "packs": packing,
        "packed": packing,
    }
    assert run(TRITON, f"127.0.0.1:{server.port}", rows_file, json.dumps(form)) == expected


TRITON_TEXT = """
    import json, sys
    import numpy as np
    import tritonclient.http as client

    triton = client.InferenceServerClient(sys.argv[1])
    columns = {
        "carrier": np.array(["AA", "é"], object),
        "airport": np.array(["JFK", "EWR"], object),
        "month": np.array([1, 12], np.int64),
        "wind": np.array([0.5, np.nan]),
        "gust": np.array([-1.0, 2.0]),
    }
    given = []
    for field in triton.get_model_metadata("table")["inputs"]:
        values = columns[field["name"]]
        given.append(client.InferInput(field["name"], [2], field["datatype"]))
        given[-1].set_data_from_numpy(values)
    try:
        triton.infer("table", given[:-1])
    except client.InferenceServerException as refused:
        said = [refused.status(), refused.message()]
    answer = triton.infer("table", given)
    print(json.dumps([answer.as_numpy("label").tolist(), *said]))
"""


def test_tritonclient_sends_text_and_missing_numbers_as_bytes_and_reads_refusals(
    server, table_bundle
):
    rows = [
        {"carrier": "AA", "airport": "JFK", "month": 1, "wind": 0.5, "gust": -1.0},
        {"carrier": "é", "airport": "EWR", "month": 12, "wind": None, "gust": 2.0},
    ]
    labels, status, message = run(TRITON_TEXT, f"127.0.0.1:{server.port}")

    assert labels == bascule.load(table_bundle).predict(pd.DataFrame(rows))["label"].tolist()
    assert status == "400"
    assert message == "inputs: 'gust' missing; send one tensor per input of the model"


TRITON_AIO = """
    import asyncio, json, sys
    import numpy as np
    import tritonclient.http.aio as client

    X = np.load(sys.argv[2])

    async def main():
        async with client.InferenceServerClient(sys.argv[1]) as triton:
            field = (await triton.get_model_metadata("gb"))["inputs"][0]

            async def ask(row, packing):
                given = client.InferInput(field["name"], [1, 30], field["datatype"])
                given.set_data_from_numpy(row[None])
                answer = await triton.infer(
                    "gb", [given], request_compression_algorithm=packing,
                    response_compression_algorithm=packing,
                )
                return answer.as_numpy("label").tolist()[0]

            packings = [None, "gzip", "deflate"] * 34
            answers = await asyncio.gather(*map(ask, X, packings))
            print(json.dumps(answers))

    asyncio.run(main())
"""


def test_tritonclient_with_asyncio_gets_each_row_its_own_answer(server, rows_file, expected):
    assert run(TRITON_AIO, f"127.0.0.1:{server.port}", rows_file) == expected["label"]


TRITON_GAPS = """
    import asyncio, json, sys
    import numpy as np
    import tritonclient.http as client
    import tritonclient.http.aio as aio

    columns = json.loads(sys.argv[2])

    def given(fields, is_binary):
        made = []
        for field in fields:
            values = np.array(columns[field["name"]], {"BYTES": object}.get(field["datatype"]))
            made.append(client.InferInput(field["name"], [len(values)], field["datatype"]))
            made[-1].set_data_from_numpy(values, binary_data=is_binary)
        return made

    async def main():
        async with aio.InferenceServerClient(sys.argv[1]) as triton:
            fields = (await triton.get_model_metadata("table"))["inputs"]
            return [
                (await triton.infer("table", given(fields, is_binary))).as_numpy("label").tolist()
                for is_binary in (True, False)
            ]

    triton = client.InferenceServerClient(sys.argv[1])
    fields = triton.get_model_metadata("table")["inputs"]
    answers = [
        triton.infer("table", given(fields, is_binary)).as_numpy("label").tolist()
        for is_binary in (True, False)
    ]
    assert "NaN" in json.dumps([one._get_tensor() for one in given(fields, False)])
    refused = []
    for is_binary in (True, False):
        whole = client.InferInput("input", [1, 30], "FP64")
        whole.set_data_from_numpy(np.array([[0.5] * 29 + [np.nan]]), binary_data=is_binary)
        try:
            triton.infer("gb", [whole])
        except client.InferenceServerException as error:
            refused.append([error.status(), error.message()])
    print(json.dumps([answers + asyncio.run(main()), refused]))
"""


def test_tritonclient_sends_missing_numbers_as_json_and_as_bytes(server, table_bundle):
    """As JSON it writes NaN, which JSON does not have."""
    columns = {
        "carrier": ["AA", "CC", "BB"],
        "airport": ["JFK", "EWR", "EWR"],
        "month": [1, 12, 6],
        "wind": [np.nan, 0.25, np.nan],
        "gust": [-1.0, 2.0, 0.5],
    }
    answers, refused = run(TRITON_GAPS, f"127.0.0.1:{server.port}", json.dumps(columns))

    rows = pd.DataFrame(columns)
    assert answers == [bascule.load(table_bundle).predict(rows)["label"].tolist()] * 4
    assert [status for status, _ in refused] == ["400", "400"]
    for _, message in refused:
        assert message.startswith("inputs[0] (input).data[29] is ")
        assert "and the model does not take missing values there" in message


# The requests that mlflow.pyfunc.scoring_server.client and mlflow.deployments make: the same keys,
# headers and NaN, with the library that they use.
MLFLOW = """
    import json, sys
    import numpy as np
    import pandas as pd
    import requests

    X = pd.DataFrame(np.load(sys.argv[2]))
    url = sys.argv[1]
    assert requests.get(url + "/ping").status_code == 200
    assert requests.get(url + "/version").status_code == 200
    made = []
    for body in (
        {"dataframe_split": X.to_dict(orient="split")},
        {"inputs": X.to_numpy().tolist()},
        {"dataframe_records": json.loads(X.to_json(orient="records"))},
    ):
        answer = requests.post(
            url + "/invocations", data=json.dumps(body),
            headers={"Content-Type": "application/json"},
        )
        made.append(answer.json()["predictions"])
    answer = requests.post(
        url + "/invocations", data=X.to_csv(index=False), headers={"Content-Type": "text/csv"}
    )
    made.append(answer.json()["predictions"])
    gap = pd.DataFrame({
        "carrier": ["AA", None], "airport": ["JFK", "EWR"], "month": [1, 2],
        "wind": [0.5, None], "gust": [1.0, 2.0],
    })
    gap = {"dataframe_split": gap.to_dict(orient="split"), "params": {"outputs": ["label"]}}
    assert "NaN" in json.dumps(gap)
    answer = requests.post(url + "/models/table/invoke", data=json.dumps(gap))
    made.append(answer.json()["predictions"])
    print(json.dumps(made))
"""


def test_what_mlflows_clients_send_is_answered(server, rows_file, expected, table_bundle):
    *four, with_gaps = run(MLFLOW, f"http://127.0.0.1:{server.port}", rows_file)

    assert four == [expected["label"]] * 4
    rows = [
        {"carrier": "AA", "airport": "JFK", "month": 1, "wind": 0.5, "gust": 1.0},
        {"carrier": None, "airport": "EWR", "month": 2, "wind": None, "gust": 2.0},
    ]
    assert with_gaps == bascule.load(table_bundle).predict(pd.DataFrame(rows))["label"].tolist()


def curl(*arguments, data=b""):
    return subprocess.run(
        ["curl", "-sS", "--fail-with-body", *arguments],
        input=data,
        capture_output=True,
        timeout=60,
        check=True,
    ).stdout


def test_curl_asks_tensorflow_serving_as_its_pages_say(server, expected):
    base = f"http://127.0.0.1:{server.port}/v1/models/gb"
    (status,) = json.loads(curl(base))["model_version_status"]
    assert status["state"] == "AVAILABLE"
    body = json.dumps({"instances": ROWS.tolist()}).encode()

    # `-d` declares a form, and everybody sends JSON with it.
    rows = json.loads(curl("-d", "@-", f"{base}:predict", data=body))["predictions"]

    assert [row["label"] for row in rows] == expected["label"]
    assert [row["probabilities"] for row in rows] == expected["probabilities"]


def test_curl_gets_a_long_answer_compressed_and_a_short_one_plain(server):
    url = f"http://127.0.0.1:{server.port}/v1/models/gb:predict"
    for copies, is_packed in ((1, False), (20, True), (150, True)):
        body = json.dumps({"instances": ROWS.tolist() * copies}).encode()
        plain = curl("-d", "@-", url, data=body)
        raw = curl("-d", "@-", "-H", "Accept-Encoding: gzip", url, data=body)
        unpacked = curl("--compressed", "-d", "@-", url, data=body)

        assert (raw[:2] == b"\x1f\x8b") == is_packed
        assert unpacked == plain
        assert (len(raw) < len(plain) / 2) == is_packed


def test_a_container_of_vertex_is_asked_where_its_platform_says(serve, expected, cancer_bundle):
    server = serve(
        cancer_bundle,
        env={"AIP_HEALTH_ROUTE": "/health", "AIP_PREDICT_ROUTE": "/predict"},
    )
    base = f"http://127.0.0.1:{server.port}"
    body = json.dumps({"instances": ROWS.tolist()}).encode()

    assert json.loads(curl(f"{base}/health"))["ready"] is True
    assert json.loads(curl("-d", "@-", f"{base}/predict", data=body)) == {
        "predictions": expected["label"]
    }
    # Its path of health is MLflow's too, so that protocol is left out.
    with pytest.raises(subprocess.CalledProcessError):
        curl(f"{base}/ping")


def test_only_the_protocols_that_are_named_are_spoken(serve, cancer_bundle):
    server = serve(cancer_bundle, env={"BASCULE_SERVING__PROTOCOLS": '["oip"]'})
    base = f"http://127.0.0.1:{server.port}"

    assert json.loads(curl(f"{base}/v2"))["name"] == "bascule"
    described = json.loads(curl(f"{base}/v2/openapi.json"))["paths"]
    assert all(path.startswith(("/v2", "/metrics")) for path in described)
    for path in ("/ping", "/score", "/v1/models/gb", "/vertex/health"):
        with pytest.raises(subprocess.CalledProcessError):
            curl(f"{base}{path}")
