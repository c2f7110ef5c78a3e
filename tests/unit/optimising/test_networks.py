"""Networks in fewer bits: smaller graphs, near answers, and rows that do not change each other."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bascule.bundle.disk import ProgramEntry
from bascule.core import DType, Field
from bascule.optimising.networks import WAYS, applies, make

ENTRY = ProgramEntry("onnx", "onnx", "p.onnx", (Field("x", DType.FP32, (128,)),), False, 1e-5)
ROWS = {"x": np.random.default_rng(1).standard_normal((200, 128)).astype(np.float32)}


@pytest.fixture(scope="module")
def graph():
    """Two layers, 128 x 256 x 8."""
    random = np.random.default_rng(0)
    weights = [
        random.standard_normal(shape).astype(np.float32) / 12 for shape in ((128, 256), (256, 8))
    ]
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "first"], ["hidden"]),
                helper.make_node("Relu", ["hidden"], ["positive"]),
                helper.make_node("MatMul", ["positive", "second"], ["y"]),
            ],
            "layers",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 128])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 8])],
            [numpy_helper.from_array(weights[at], ("first", "second")[at]) for at in (0, 1)],
        ),
        ir_version=9, opset_imports=[helper.make_opsetid("", 18)],
    )  # fmt: skip
    assert applies(model)
    return model


def ask(data, rows=ROWS):
    return onnxruntime.InferenceSession(data).run(["y"], rows)[0]


@pytest.mark.parametrize("way", WAYS)
def test_each_way_is_smaller_and_answers_nearly_the_same(graph, way):
    data = make(graph, {"way": way, "per_channel": True, "block": 64}, ENTRY, ROWS)
    expected = ask(graph.SerializeToString())
    most = {"float16": 0.55, "int4 weights": 0.2}.get(way, 0.32)
    assert len(data) < most * len(graph.SerializeToString())
    assert np.abs(ask(data) - expected).mean() < 0.2 * np.abs(expected).mean()


@pytest.mark.parametrize("way", WAYS)
def test_only_scales_over_a_whole_call_make_rows_change_each_other(graph, way):
    data = make(graph, {"way": way, "per_channel": True}, ENTRY, ROWS)
    few = {"x": ROWS["x"][:8]}
    beside = {"x": np.concatenate([few["x"], 100 * ROWS["x"][8:16]])}
    away = np.abs(ask(data, beside)[:8] - ask(data, few)).max()
    assert (away > 0.05) == (way == "dynamic int8")


@pytest.mark.parametrize("way", ["int8 weights", "int4 weights"])
def test_kernels_of_convolutions_take_8_bits_and_their_zeros_stay(way):
    random = np.random.default_rng(0)
    kernels = random.standard_normal((16, 8, 3, 3)).astype(np.float32)
    kernels[3] = 0
    shapes = [("x", [None, 8, 6, 6]), ("y", [None, 16, 4, 4])]
    source, answer = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes
    )
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Conv", ["x", "kernels"], ["y"])], "one", [source], [answer],
            [numpy_helper.from_array(kernels, "kernels")],
        ),
        ir_version=9, opset_imports=[helper.make_opsetid("", 18)],
    )  # fmt: skip
    whole = model.SerializeToString()
    data = make(model, {"way": way}, ENTRY, ROWS)
    rows = {"x": random.standard_normal((5, 8, 6, 6)).astype(np.float32)}
    expected, near = ask(whole, rows), ask(data, rows)
    assert len(data) < 0.4 * len(whole)
    assert np.abs(near - expected).max() < 0.02 * np.abs(expected).max()
    assert not near[:, 3].any()


def test_zeros_shrink_the_download_and_not_the_file(graph):
    import zlib

    whole = make(graph, {"way": "int8 weights"}, ENTRY, ROWS)
    pruned = make(graph, {"way": "int8 weights", "zeros": 0.7}, ENTRY, ROWS)
    assert len(pruned) == len(whole)
    assert len(zlib.compress(pruned)) < 0.7 * len(zlib.compress(whole))
    assert onnx.load_from_string(pruned).graph.node[0].op_type == "MatMulNBits"
