"""Over gRPC: Bascule, and the floor of grpcio."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from bascule.serving.codecs.protobuf import BYTES, block, fields, varint
from bench import grpc_load
from bench.load import Load
from bench.requests import Request
from bench.subject import NAME
from bench.systems.system import System, Wrong

_OUTPUT, _RAW = 5, 6


class Grpc(System):
    """A server that answers ModelInfer with raw contents on `self.port`."""

    path = "/inference.GRPCInferenceService/ModelInfer"
    tools = frozenset({"h2load"})
    codings: tuple[str, ...] = ("grpc",)

    def body(self, rows: NDArray[np.float64]) -> bytes:
        datatype = {"FP64": "<f8", "FP32": "<f4"}[self.subject.datatype]
        shape = b"".join(map(varint, rows.shape))
        head = block(1, self.subject.input_name) + block(2, self.subject.datatype)
        return b"".join(
            [
                block(1, NAME),
                block(3, "an id of the same length"),
                block(5, head + block(3, shape)),
                block(7, rows.astype(datatype).tobytes()),
            ]
        )

    def request(self, rows: NDArray[np.float64], coding: str = "grpc") -> Request:
        del coding  # a message is what it is
        return Request(self.body(rows), {})

    def ask(self, request: Request) -> tuple[int, bytes, Mapping[str, str]]:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            try:
                return 200, channel.unary_unary(self.path)(request.body, timeout=10), {}
            except grpc.RpcError as error:
                return 500, str(error).encode(), {}

    def verified(
        self, rows: NDArray[np.float64], truth: NDArray[np.float64], coding: str = "grpc"
    ) -> bytes:
        status, raw, _ = self.ask(self.request(rows, coding))
        if status != 200:
            raise Wrong(f"{self.name} answered {raw[:300]!r}")
        self.compare(self.probabilities(raw), truth)
        return framed(raw)

    def probabilities(self, answer: Any) -> NDArray[np.float64]:
        """The probabilities in a `ModelInferResponse`."""
        names, contents = [], []
        for tag, _, start, end in fields(answer, 0, len(answer)):
            if tag == _OUTPUT << 3 | BYTES:
                names.append(_texts(answer, start, end))
            elif tag == _RAW << 3 | BYTES:
                contents.append(answer[start:end])
        for (name, datatype), content in zip(names, contents, strict=True):
            if name == "probabilities":
                numbers = np.frombuffer(content, {"FP64": "<f8", "FP32": "<f4"}[datatype])
                return numbers.astype(np.float64).reshape(-1, 2)
        raise Wrong(f"{self.name}: the answer has no output `probabilities`")

    def load(self, request: Request, expected: bytes, seconds: float, core: int) -> Load:
        return grpc_load.run(
            self.url(), framed(request.body), expected, seconds, folder=self.folder, core=core
        )


class BasculeGrpc(Grpc):
    name = "bascule-grpc"
    about = "`bascule serve --grpc-port`, as `bascule`, over gRPC with raw contents"
    distributions = ("hpack",)

    def command(self) -> list[str]:
        program = str(Path(sys.executable).with_name("bascule"))
        return [
            *(program, "serve", str(self.subject.bundle), "--workers=1", "--port=0"),
            *(f"--grpc-port={self.port}", f"--control-port={self.other_port}"),
        ]


class BareGrpcio(Grpc):
    name = "bare-grpcio"
    about = "grpcio's own server, 4 threads, generated messages, ONNX Runtime; checks nothing"
    distributions = ("grpcio", "protobuf")

    def command(self) -> list[str]:
        program, port = str(self.subject.program), str(self.port)
        return [sys.executable, "-m", "bench.servers.bare_grpcio", program, port]


def framed(message: bytes) -> bytes:
    """A message as it is sent."""
    return len(message).to_bytes(5) + message


def _texts(data: bytes, start: int, end: int) -> tuple[str, str]:
    found = {tag >> 3: data[a:b] for tag, _, a, b in fields(data, start, end)}
    return found[1].decode(), found[2].decode()
