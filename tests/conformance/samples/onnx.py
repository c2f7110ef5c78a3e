"""ONNX: a graph with two inputs and two outputs, asked through the reference implementation."""

from __future__ import annotations

import numpy as np
from conformance_sample import Sample
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def two_in_two_out() -> Sample:
    random = np.random.default_rng(5)
    weights = random.normal(size=(4, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["numbers", "w"], ["m"]),
            helper.make_node("Add", ["m", "shift"], ["sums"]),
            helper.make_node("Tanh", ["sums"], ["bent"]),
        ],
        "two",
        [
            helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("shift", TensorProto.FLOAT, ["n", 3]),
        ],
        [
            helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("bent", TensorProto.FLOAT, ["n", 3]),
        ],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    reference = ReferenceEvaluator(model)
    names = [value.name for value in graph.output]

    def ask(rows):
        return dict(zip(names, reference.run(None, dict(rows)), strict=True))

    rows = {
        "numbers": random.normal(size=(80, 4)).astype(np.float32),
        "shift": random.normal(size=(80, 3)).astype(np.float32),
    }
    train = {name: values[:20] for name, values in rows.items()}
    return Sample(model, train, rows, ask, saved_within=1e-5)


SAMPLES = {"two-in-two-out": two_in_two_out}
