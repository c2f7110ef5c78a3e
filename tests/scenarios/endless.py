"""A graph that loops for ever on one kind of row, and is quick on all others."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

POISON = 777.25


def endless(turns: int = 1) -> Any:
    """`y` is `x` plus `turns`; a row of `POISON` is counted up 2**62 times.

    A turn costs about a microsecond, so with many of them calls run on the model's thread.
    """
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
            helper.make_node("Add", ["before", "one"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, ["n", 1]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, ["n", 1]),
        ],
        [numpy_helper.from_array(np.ones((1, 1), np.float32), "one")],
    )
    constants = {
        "poison": np.float32(POISON),
        "none": np.float32(0),
        "for_ever": np.int64(2**62),
        "turns": np.int64(turns),
        "true": np.array(True),
    }
    nodes = [
        helper.make_node("Equal", ["x", "poison"], ["is_poison"]),
        helper.make_node("Cast", ["is_poison"], ["as_number"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["as_number"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "none"], ["is_endless"]),
        helper.make_node("Where", ["is_endless", "for_ever", "turns"], ["count"]),
        helper.make_node("Loop", ["count", "true", "x"], ["y"], body=body),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model
