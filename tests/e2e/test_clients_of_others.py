"""Clients of other projects, unchanged, each in a process of an environment of its own.

`oip_clients` has those of the Open Inference Protocol and of KServe, `row_clients` those that send
rows, `vertex_clients` Google's. They need versions of numpy and protobuf that exclude each other.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import textwrap

import httpx
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from tests.own_environments import python_of

import bascule

pytestmark = pytest.mark.slow  # building the environments takes minutes the first time
ROWS = load_breast_cancer().data[:7]


@pytest.fixture(scope="module")
def server(start, cancer_bundle, table_bundle):
    running = start(cancer_bundle, table_bundle, "--grpc-port=0")
    yield running
    running.end()
    running.process.stdout.close()


@pytest.fixture(scope="module")
def url(server):
    return f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def grpc_url(server):
    return f"127.0.0.1:{server.grpc_port}"


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(file, ROWS)
    return file


@pytest.fixture(scope="module")
def labels(cancer_bundle):
    return bascule.load(cancer_bundle).predict(ROWS)["label"].tolist()


def run(environment, script, *arguments):
    """What a script prints last, as JSON, run by the Python of an environment."""
    done = subprocess.run(
        [python_of(environment), "-W", "ignore", "-c", textwrap.dedent(script), *arguments],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def tool(environment, name):
    """A command of an environment; its first line names the folder in which it was built."""
    python = python_of(environment)
    return [python, python.with_name(name)]


# -- the Open Inference Protocol --


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_perf_analyzer_measures_a_model_on_a_matrix(url, grpc_url, protocol):
    """With zeros: its random bits are numbers that the model refuses."""
    done = subprocess.run(
        [
            *tool("oip_clients", "perf_analyzer"), "-m", "gb", "-i", protocol,
            "-u", url if protocol == "http" else grpc_url, "--request-count", "200",
            "--input-data", "zero",
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Request count: 200\n" in done.stdout
    # It reads the server's counters when its first requests are under way, and may miss them.
    counted = re.search(r"Successful request count: (\d+)", done.stdout)
    assert counted, done.stdout
    assert 150 <= int(counted[1]) <= 200, done.stdout


PYTRITON = """
    import json, sys
    import numpy as np
    from pytriton.client import ModelClient

    X = np.load(sys.argv[2])
    with ModelClient(sys.argv[1], "gb", init_timeout_s=10) as client:
        batch = client.infer_batch(X)["label"].tolist()
        sample = client.infer_sample(X[0])["label"].tolist()
    with ModelClient(sys.argv[1], "table", init_timeout_s=10) as client:
        table = client.infer_sample(
            carrier=np.array([b"AA"]), airport=np.array([b"JFK"]), month=np.array([1]),
            wind=np.array([0.5]), gust=np.array([1.0]),
        )
    print(json.dumps([batch, sample, table["label"].tolist()]))
"""


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_the_client_of_pytriton_reads_the_configuration_and_predicts(
    url, grpc_url, rows_file, labels, scheme
):
    where = url if scheme == "http" else grpc_url
    batch, sample, table = run("oip_clients", PYTRITON, f"{scheme}://{where}", str(rows_file))

    assert batch == labels
    assert sample == labels[0]
    assert table in (True, False)


KSERVE = """
    import asyncio, json, sys
    import numpy as np
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    X = np.load(sys.argv[2])
    url = "http://" + sys.argv[1]

    async def main():
        made = []
        client = InferenceRESTClient(RESTConfig(protocol="v1"))
        assert await client.is_server_live(url) and await client.is_model_ready(url, "gb")
        answer = await client.infer(url, {"instances": X.tolist()}, model_name="gb")
        made.append([row["label"] for row in answer["predictions"]])
        client = InferenceRESTClient(RESTConfig(protocol="v2"))
        assert await client.is_server_ready(url) and await client.is_model_ready(url, "gb")
        for as_bytes in (True, False):
            tensor = InferInput("input", list(X.shape), "FP64")
            tensor.set_data_from_numpy(X, binary_data=as_bytes)
            answer = await client.infer(url, InferRequest("gb", [tensor]), model_name="gb")
            made.append(answer.outputs[0].as_numpy().tolist())
        print(json.dumps(made))

    asyncio.run(main())
"""


def test_the_client_of_kserve_speaks_both_of_its_protocols(url, rows_file, labels):
    assert run("oip_clients", KSERVE, url, str(rows_file)) == [labels] * 3


GENERATED = """
    import json, sys
    import numpy as np
    from generated import Client
    from generated.api.gb import post_v_2_modelsgbinfer as infer
    from generated.api.gb import post_v_1_modelsgbpredict as predict
    from generated.api.gb import post_invocations as invoke

    X = np.load(sys.argv[2])
    client = Client(base_url="http://" + sys.argv[1])
    tensor = {"name": "input", "datatype": "FP64", "shape": list(X.shape)}
    tensor["data"] = X.ravel().tolist()
    asked = infer.PostV2ModelsgbinferBody.from_dict({"inputs": [tensor]})
    answer = infer.sync(client=client, body=asked).to_dict()
    made = [next(o["data"] for o in answer["outputs"] if o["name"] == "label")]
    asked = predict.PostV1ModelsgbpredictBody.from_dict({"instances": X.tolist()})
    answer = predict.sync(client=client, body=asked).to_dict()
    made.append([row["label"] for row in answer["predictions"]])
    asked = invoke.PostInvocationsJsonBody.from_dict({"instances": X.tolist()})
    made.append(invoke.sync(client=client, body=asked).to_dict()["predictions"])
    print(json.dumps(made))
"""


def test_a_client_is_generated_from_the_openapi_document(url, rows_file, labels, tmp_path):
    document = tmp_path / "openapi.json"
    document.write_bytes(httpx.get(f"http://{url}/v2/openapi.json").content)
    python, generator = tool("oip_clients", "openapi-python-client")
    subprocess.run(
        [
            python, generator, "generate", "--path", document, "--meta", "none", "--output-path",
            tmp_path / "generated",
        ],
        check=True, capture_output=True, timeout=120,
        env={**os.environ, "PATH": f"{generator.parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + textwrap.dedent(GENERATED)

    assert run("oip_clients", script, url, str(rows_file)) == [labels] * 3


# -- rows --

OVMS = """
    import json, sys
    import numpy as np
    from ovmsclient import make_http_client

    client = make_http_client(sys.argv[1])
    (status,) = client.get_model_status("gb").values()
    assert status["state"] == "AVAILABLE"
    assert "metadata" in client.get_model_metadata("gb")
    print(json.dumps(client.predict({"input": np.load(sys.argv[2])}, "gb")["label"].tolist()))
"""


def test_ovmsclient_predicts_with_the_default_version(url, rows_file, labels):
    assert run("row_clients", OVMS, url, str(rows_file)) == labels


SAGEMAKER = """
    import json, sys
    import boto3
    import numpy as np
    from sagemaker.core.deserializers import CSVDeserializer, NumpyDeserializer
    from sagemaker.core.serializers import CSVSerializer, JSONSerializer, NumpySerializer

    X = np.load(sys.argv[2])
    client = boto3.client(
        "sagemaker-runtime", endpoint_url="http://" + sys.argv[1], region_name="eu-west-1",
        aws_access_key_id="a", aws_secret_access_key="b",
    )

    def ask(serializer, rows, accept):
        answer = client.invoke_endpoint(
            EndpointName="gb", ContentType=serializer.CONTENT_TYPE, Accept=accept,
            Body=serializer.serialize(rows),
        )
        return answer["Body"], answer["ContentType"]

    arrays, lines, npy = NumpyDeserializer(), CSVDeserializer(), "application/x-npy"
    made = [
        arrays.deserialize(*ask(NumpySerializer(), X, npy)).tolist(),
        arrays.deserialize(*ask(NumpySerializer("float32"), X, npy)).tolist(),
        [int(row[0]) for row in lines.deserialize(*ask(CSVSerializer(), X, "text/csv"))],
        json.load(ask(JSONSerializer(), {"instances": X.tolist()}, "application/json")[0])[
            "predictions"
        ],
    ]
    print(json.dumps(made))
"""


def test_boto3_and_the_serializers_of_sagemaker_invoke_an_endpoint(url, rows_file, labels):
    assert run("row_clients", SAGEMAKER, url, str(rows_file)) == [labels] * 4


MLFLOW = """
    import json, os, sys
    import numpy as np
    from mlflow.deployments import get_deploy_client

    rows = np.load(sys.argv[2]).tolist()
    url = "http://" + sys.argv[1]
    os.environ |= {"DATABRICKS_HOST": url, "DATABRICKS_TOKEN": "key"}
    answers = [
        get_deploy_client(target).predict(endpoint="gb", inputs={"instances": rows})
        for target in (url, "databricks")
    ]
    client = get_deploy_client(url)
    listed = [endpoint.name for endpoint in client.list_endpoints()]
    try:
        client.predict(endpoint="gb", inputs={"instances": [["text"]]})
    except Exception as error:
        refused = f"{type(error).__name__}: {error}"
    print(json.dumps([
        [dict(answer)["predictions"] for answer in answers],
        listed, client.get_endpoint("gb").endpoint_url, refused,
    ]))
"""


def test_the_deployment_clients_of_mlflow_and_databricks_predict_and_list(url, rows_file, labels):
    answers, listed, endpoint_url, refused = run("row_clients", MLFLOW, url, str(rows_file))
    assert answers == [labels] * 2
    assert "gb" in listed
    assert endpoint_url == f"http://{url}/endpoints/gb/invocations"
    assert "instances[0]" in refused


VERTEX = """
    import json, sys
    from datetime import UTC, datetime
    from google.api_core.exceptions import BadRequest
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import aiplatform
    from google.cloud.aiplatform_v1 import Endpoint, PredictionServiceClient
    from google.cloud.aiplatform_v1.services.prediction_service.transports import (
        PredictionServiceRestTransport,
    )
    from requests import Session
    from requests.adapters import HTTPAdapter

    class Here(HTTPAdapter):
        def send(self, request, **options):  # the host is written into the client
            request.url = f"http://{sys.argv[1]}{request.path_url}"
            return super().send(request, **options)

    X, anonymous = json.loads(sys.argv[2]), AnonymousCredentials()
    transport = PredictionServiceRestTransport(
        host=sys.argv[1], url_scheme="http", credentials=anonymous
    )
    client = PredictionServiceClient(transport=transport)
    name = client.endpoint_path("some", "europe-west4", "gb")
    made = [list(client.predict(endpoint=name, instances=X).predictions)]
    try:
        client.predict(endpoint=name, instances=[["text"]])
    except BadRequest as error:
        refused = str(error)
    aiplatform.init(project="some", location="europe-west4", credentials=anonymous)
    endpoint = aiplatform.Endpoint(name)
    endpoint._gca_resource = Endpoint(name=name, create_time=datetime.now(UTC))  # asks no API
    endpoint.authorized_session = Session()
    endpoint.authorized_session.mount("https://", Here())
    lines = "".join(",".join(map(repr, row)) + "\\n" for row in X)
    headers = {"Content-Type": "text/csv"}
    made.append(endpoint.raw_predict(lines.encode(), headers).json()["predictions"])
    print(json.dumps([made, refused]))
"""


def test_the_client_of_vertex_predicts_and_sends_raw_bodies(url, labels):
    answers, refused = run("vertex_clients", VERTEX, url, json.dumps(ROWS.tolist()))

    assert answers == [labels] * 2
    assert "instances[0]: 1 values, where the model takes 30" in refused


REFLECTION = """
    import json, sys
    import grpc
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    channel = grpc.insecure_channel(sys.argv[1])
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    method = service.methods_by_name["ModelConfig"]
    call = channel.unary_unary(
        f"/{service.full_name}/{method.name}",
        GetMessageClass(method.input_type).SerializeToString,
        GetMessageClass(method.output_type).FromString,
    )
    answer = call(GetMessageClass(method.input_type)(name="gb"), timeout=10)
    print(json.dumps([sorted(database.get_services()), answer.config.name]))
"""


def test_a_client_without_stubs_finds_the_services_by_reflection(grpc_url):
    services, name = run("row_clients", REFLECTION, grpc_url)

    assert "inference.GRPCInferenceService" in services
    assert name == "gb"
