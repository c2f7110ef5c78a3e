"""Requests of the Open Inference Protocol."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
from conformance_protocol import Form, Request, of_json

from bascule.core.fields import DType

PATH = "/v2/models/m/infer"


def tensors(rows, *, nested=False):
    made = []
    for field in rows.signature.inputs:
        values = rows.by_input[field.name]
        data = values if nested else np.array(values, object).ravel().tolist()
        shape = [len(values), *field.shape]
        made.append(
            {"name": field.name, "datatype": field.dtype.value, "shape": shape, "data": data}
        )
    return made


def as_bytes(field, values):
    """None where a text is missing: it has no bytes."""
    if field.dtype is not DType.BYTES:
        plain = [np.nan if value is None else value for value in values]
        return np.array(plain).astype(field.dtype.numpy).tobytes()
    if None in values:
        return None
    texts = [value.encode() for value in values]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def binary(rows, *, answered=True):
    said, tail = tensors(rows), b""
    for field, tensor in zip(rows.signature.inputs, said, strict=True):
        data = as_bytes(field, rows.by_input[field.name])
        if data is None:
            continue  # what has no bytes stays JSON beside the others
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": len(data)}
        tail += data
    head = json.dumps(
        {"id": rows.call_id, "inputs": said, "parameters": {"binary_data_output": answered}}
    ).encode()
    return Request(PATH, head + tail, (f"Inference-Header-Content-Length: {len(head)}",))


def compressed(rows, coding):
    made = binary(rows, answered=False)
    packed = {
        "gzip": lambda body: gzip.compress(body, mtime=0),
        "deflate": zlib.compress,
    }[coding](made.body)
    return Request(PATH, packed, (*made.headers, f"Content-Encoding: {coding}"))


def parts(answer):
    """The JSON of an answer, and the tensors after it."""
    length = int(answer.headers.get("inference-header-content-length", len(answer.body)))
    return json.loads(answer.body[:length]), answer.body[length:]


def call_id(answer):
    said, _ = parts(answer)
    return said["id"]


def read(answer, names):
    said, tail = parts(answer)
    made = {}
    for output in said["outputs"]:
        dtype = DType(output["datatype"])
        if "data" in output:
            values = output["data"]
        else:
            size = output["parameters"]["binary_data_size"]
            mine, tail = tail[:size], tail[size:]
            values = texts(mine) if dtype is DType.BYTES else np.frombuffer(mine, dtype.numpy)
        made[output["name"]] = np.array(values).reshape(output["shape"]).tolist()
    assert not tail
    return made


def texts(data):
    made = []
    while data:
        end = 4 + int.from_bytes(data[:4], "little")
        made.append(data[4:end].decode())
        data = data[end:]
    return made


FORMS = {
    "json": Form(
        lambda rows: of_json(PATH, {"id": rows.call_id, "inputs": tensors(rows)}), read, call_id
    ),
    "nested": Form(
        lambda rows: of_json(
            "/v2/models/m/versions/1/infer",
            {"id": rows.call_id, "inputs": tensors(rows, nested=True)},
        ),
        read,
        call_id,
    ),
    "binary": Form(binary, read, call_id),
    "binary-in": Form(lambda rows: binary(rows, answered=False), read, call_id),
    "binary-out": Form(
        lambda rows: of_json(
            PATH,
            {
                "id": rows.call_id,
                "inputs": tensors(rows),
                "outputs": [
                    {"name": field.name, "parameters": {"binary_data": True}}
                    for field in rows.signature.outputs
                ],
            },
        ),
        read,
        call_id,
    ),
    "gzip": Form(lambda rows: compressed(rows, "gzip"), read, call_id),
    "deflate": Form(lambda rows: compressed(rows, "deflate"), read, call_id),
}
