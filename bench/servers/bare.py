"""The leanest honest server around an ONNX file: no routes, no checks, no ids, no metrics.

One `asyncio.Protocol` on uvloop, requests cut by httptools, bodies decoded by msgspec into typed
structs, one ONNX Runtime session with one thread, run inline. A request with
`Inference-Header-Content-Length` carries one input as bytes and is answered with bytes.

    python -m bench.servers.bare MODEL.onnx PORT
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import httptools
import msgspec
import numpy as np
import onnxruntime
import uvloop

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_OUTPUTS = ["label", "probabilities"]
_DTYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(double)": np.float64}


_SENT: dict[str, Any] = {"FP32": np.float32, "FP64": np.float64}
_BINARY_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
    b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n"
)


class InputTensor(msgspec.Struct, gc=False):
    shape: list[int]
    datatype: str
    data: list[float] = []


class InferenceRequest(msgspec.Struct, gc=False):
    inputs: list[InputTensor]


class OutputTensor(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


class InferenceResponse(msgspec.Struct, gc=False):
    model_name: str
    outputs: list[OutputTensor]


class Size(msgspec.Struct, gc=False):
    binary_data_size: int


class BinaryTensor(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: Size


class BinaryResponse(msgspec.Struct, gc=False):
    model_name: str
    outputs: list[BinaryTensor]


def load(path: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Server(asyncio.Protocol):
    """One connection; httptools calls the `on_` methods."""

    session: Any
    input_name: str
    dtype: Any
    decode = msgspec.json.Decoder(InferenceRequest).decode
    encode = msgspec.json.Encoder().encode

    def connection_made(self, transport: Any) -> None:
        self.write = transport.write
        self.parts: list[bytes] = []
        self.head_bytes = 0
        self.on_body = self.parts.append
        self.feed = httptools.HttpRequestParser(self).feed_data

    def data_received(self, data: bytes) -> None:
        self.feed(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 31 and name.lower() == b"inference-header-content-length":
            self.head_bytes = int(value)

    def on_message_complete(self) -> None:
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts.clear()
        if self.head_bytes:
            self.write(self.answer_binary(body, self.head_bytes))
            self.head_bytes = 0
            return
        answer = self.answer(body)
        self.write(_HEAD % len(answer) + answer)

    def answer(self, body: bytes) -> bytes:
        tensor = self.decode(body).inputs[0]
        rows = np.array(tensor.data, dtype=self.dtype).reshape(tensor.shape)
        label, probabilities = self.session.run(_OUTPUTS, {self.input_name: rows})
        return self.encode(
            InferenceResponse(
                "gb",
                [
                    OutputTensor("label", "INT64", label.shape, label.tolist()),
                    OutputTensor(
                        "probabilities",
                        self.datatype,
                        probabilities.shape,
                        probabilities.ravel().tolist(),
                    ),
                ],
            )
        )

    def answer_binary(self, body: bytes, head_bytes: int) -> bytes:
        tensor = self.decode(memoryview(body)[:head_bytes]).inputs[0]
        sent = np.frombuffer(body, _SENT[tensor.datatype], offset=head_bytes)
        rows = sent.reshape(tensor.shape).astype(self.dtype)
        label, probabilities = self.session.run(_OUTPUTS, {self.input_name: rows})
        raw_label, raw_probabilities = label.tobytes(), probabilities.tobytes()
        head = self.encode(
            BinaryResponse(
                "gb",
                [
                    BinaryTensor("label", "INT64", label.shape, Size(len(raw_label))),
                    BinaryTensor(
                        "probabilities",
                        self.datatype,
                        probabilities.shape,
                        Size(len(raw_probabilities)),
                    ),
                ],
            )
        )
        size = len(head) + len(raw_label) + len(raw_probabilities)
        return b"".join((_BINARY_HEAD % (len(head), size), head, raw_label, raw_probabilities))

    datatype: str


async def serve(path: str, port: int) -> None:
    Server.session = load(path)
    field = Server.session.get_inputs()[0]
    Server.input_name, Server.dtype = field.name, _DTYPES[field.type]
    Server.datatype = "FP64" if "double" in Server.session.get_outputs()[1].type else "FP32"
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await loop.create_server(Server, "127.0.0.1", port)
    await stopped.wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
