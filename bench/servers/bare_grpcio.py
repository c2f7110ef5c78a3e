"""The leanest honest gRPC server around an ONNX file that the usual library allows.

grpcio's own server, few threads, messages by the protobuf library, one ONNX Runtime session with
one thread, run on the thread that gRPC calls on.

    python -m bench.servers.bare_grpcio MODEL.onnx PORT
"""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pool, message_factory

from bascule.serving.protocols.descriptors import read_descriptors
from bench.servers.bare import load

THREADS = 4


def serve(path: str, port: int) -> None:
    pool = descriptor_pool.DescriptorPool()
    for file in read_descriptors():
        pool.AddSerializedFile(file.descriptor)
    request_of: Any
    request_of, response_of = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.ModelInfer{kind}"))
        for kind in ("Request", "Response")
    )
    session = load(path)
    field = session.get_inputs()[0]
    name = field.name
    taken: Any = np.float64 if "double" in field.type else np.float32
    types: dict[str, Any] = {"FP32": "<f4", "FP64": "<f8"}
    wide = "double" in session.get_outputs()[1].type
    given = "FP64" if wide else "FP32"

    def infer(request: Any, _context: Any) -> Any:
        tensor = request.inputs[0]
        raw = request.raw_input_contents[0]
        rows = np.frombuffer(raw, types[tensor.datatype]).reshape(tensor.shape)
        rows = rows.astype(taken, copy=False)
        label, probabilities = session.run(["label", "probabilities"], {name: rows})
        response = response_of(model_name="gb", id=request.id)
        response.outputs.add(name="label", datatype="INT64", shape=label.shape)
        response.outputs.add(name="probabilities", datatype=given, shape=probabilities.shape)
        response.raw_output_contents.append(label.tobytes())
        response.raw_output_contents.append(probabilities.tobytes())
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        infer, request_of.FromString, response_of.SerializeToString
    )
    server = grpc.server(ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                "inference.GRPCInferenceService", {"ModelInfer": handler}
            )
        ]
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: server.stop(0))
    server.wait_for_termination()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
