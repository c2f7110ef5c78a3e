"""The page of conformance with the Open Inference Protocol: each cell is tried over sockets."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import numpy as np
import pytest

from bascule.core.fields import DType, Field, Signature
from bascule.core.programs import Program

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "conformance.md"
CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    **dict.fromkeys(("FP16", "FP32", "BF16"), "fp32_contents"),
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}  # fmt: skip
VALUES = {"BOOL": [True, False], "BYTES": ["é", ""]}


class Echo(Program):
    """Answers its only input."""

    name = "echo"

    def __init__(self, dtype):
        self.inputs = (Field("x", dtype),)
        self.outputs = (Field("y", dtype),)
        self.signature = Signature(self.inputs, self.outputs)

    def run(self, columns, outputs=None):
        return {"y": columns["x"]}


def rows_of_table(heading):
    """The rows of the table of the page whose first column has this heading."""
    lines = PAGE.read_text().split(f"| {heading} |", 1)[1].splitlines()[2:]
    cells = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines]
    return cells[: cells.index([])]


@pytest.fixture
def served(serve_models, inline):
    """An echo of each datatype; BF16 is sent to that of FP32."""
    return serve_models(*((f"{dtype.value.lower()}/1", Echo(dtype), inline) for dtype in DType))


def model_of(datatype):
    return "fp32" if datatype == "BF16" else datatype.lower()


def raw(datatype, values):
    if datatype == "BYTES":
        texts = [value.encode() for value in values]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    if datatype == "BF16":
        return b"\0\0" * len(values)
    return np.array(values).astype(DType(datatype).numpy).tobytes()


def over_http(served, datatype, values, *, as_bytes):
    tensor = {"name": "x", "datatype": datatype, "shape": [2], "data": values}
    headers, tail, parameters = "", b"", {}
    if as_bytes:
        tail = raw(datatype, values)
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": len(tail)}
        parameters = {"binary_data_output": True}
    head = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    if as_bytes:
        headers = f"Inference-Header-Content-Length: {len(head)}\r\n"
    path = f"/v2/models/{model_of(datatype)}/infer"
    with served.client() as client:
        answer = client.request("POST", path, head + tail, headers).answer()
    if answer.status != 200:
        return None
    size = int(answer.headers.get("inference-header-content-length", len(answer.body)))
    (output,) = json.loads(answer.body[:size])["outputs"]
    return answer.body[size:] == tail if as_bytes else output["data"] == values


def over_grpc(client, messages, datatype, values, *, is_raw):
    request = messages("ModelInferRequest")(model_name=model_of(datatype))
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[2])
    field = CONTENTS[datatype]
    if is_raw:
        request.raw_input_contents.append(raw(datatype, values))
    else:
        plain = [v.encode() for v in values] if datatype == "BYTES" else values
        getattr(tensor.contents, field).extend(plain)
    try:
        answer = client.infer(request)
    except grpc.RpcError:
        return None
    if is_raw:
        return list(answer.raw_output_contents) == list(request.raw_input_contents)
    return list(getattr(answer.outputs[0].contents, field)) == plain


def test_each_datatype_works_where_the_page_says_so(served, grpc_client, messages):
    client, found = grpc_client(served), []
    for datatype, *_ in rows_of_table("datatype"):
        values = VALUES.get(datatype, [1, 0])
        worked = [
            over_http(served, datatype, values, as_bytes=False),
            over_http(served, datatype, values, as_bytes=True),
            over_grpc(client, messages, datatype, values, is_raw=False),
            over_grpc(client, messages, datatype, values, is_raw=True),
        ]
        assert False not in worked, datatype
        found.append([datatype, *("no" if answer is None else "yes" for answer in worked)])

    assert found == rows_of_table("datatype")


def test_each_endpoint_works_where_the_page_says_so(served, grpc_client, messages):
    client, found = grpc_client(served), []
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 0]}
    infer = messages("ModelInferRequest")(model_name="fp32")
    infer.inputs.add(name="x", datatype="FP32", shape=[2]).contents.fp32_contents.extend([1, 0])
    named = messages("ModelReadyRequest")(name="fp32").SerializeToString()
    for call, method, _ in rows_of_table("HTTP"):
        verb, path = call.split()
        path = path.replace("MODEL", "fp32").replace("VERSION", "1")
        body = {"inputs": [tensor]} if path.endswith("infer") else {}
        with served.client() as http:
            answer = http.request(verb, path, body if verb == "POST" else b"").answer()
        message = infer.SerializeToString() if method == "ModelInfer" else named
        try:
            client.call(method, message if method.startswith("Model") else b"")
            is_there = True
        except grpc.RpcError:
            is_there = False
        assert is_there == (answer.status == 200), call
        found.append([call, method, "yes" if is_there else "no"])

    assert found == rows_of_table("HTTP")
