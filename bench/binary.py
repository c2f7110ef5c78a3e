"""Binary tensors of the Open Inference Protocol over REST: a JSON head, then the raw bytes.

Written from the protocol's text, and apart from the server's own reader, so that the bench is a
second opinion of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import DTypeLike, NDArray

from bench.requests import Request

LENGTH = "Inference-Header-Content-Length"
DTYPES: Mapping[str, DTypeLike] = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "INT32": "<i4"}


def request(name: str, datatype: str, rows: NDArray[np.float64]) -> Request:
    """Ask about `rows` as bytes, and for all outputs as bytes."""
    raw = np.ascontiguousarray(rows, dtype=DTYPES[datatype]).tobytes()
    tensor = {
        "name": name,
        "datatype": datatype,
        "shape": list(rows.shape),
        "parameters": {"binary_data_size": len(raw)},
    }
    asked = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    head = msgspec.json.encode(asked)
    return Request(head + raw, {"Content-Type": "application/octet-stream", LENGTH: str(len(head))})


def read(raw: bytes, headers: Mapping[str, str], output: str) -> tuple[NDArray[np.float64], bytes]:
    """One output of an answer, and its bytes.

    Args:
        raw: The body.
        headers: Of the answer, their names in small letters.
        output: Which output.

    Raises:
        ValueError: The answer is not in this form, or that output is not in it as bytes.
    """
    if LENGTH.lower() not in headers:
        raise ValueError("the answer is not binary")
    start = int(headers[LENGTH.lower()])
    for tensor in msgspec.json.decode(raw[:start])["outputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size", 0)
        if tensor["name"] == output and size:
            found = raw[start : start + size]
            values = np.frombuffer(found, dtype=DTYPES[tensor["datatype"]])
            return values.reshape(tensor["shape"]).astype(np.float64), found
        start += size
    raise ValueError(f"{output} is not among the binary outputs")
