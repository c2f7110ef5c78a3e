from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bascule
from bascule.core.errors import Invalid


def linear(rows="rows", *, element=TensorProto.FLOAT):
    """y = x @ w for three columns and two outputs."""
    weights = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", element, [rows, 3])],
        [helper.make_tensor_value_info("y", element, [rows, 2])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.fixture(params=["proto", "bytes", "path"])
def model(request, tmp_path):
    made = linear()
    if request.param == "bytes":
        return made.SerializeToString()
    if request.param == "path":
        onnx.save(made, tmp_path / "linear.onnx")
        return tmp_path / "linear.onnx"
    return made


def test_a_graph_is_packed_as_it_is(model, tmp_path):
    bundle = bascule.pack(model, name="linear", to=tmp_path / "bundle", measure=False)
    assert bundle.manifest.flavor == "onnx"
    assert bundle.parity.passed
    assert [(f.name, f.dtype.value, f.shape) for f in bundle.signature.inputs] == [
        ("x", "FP32", (3,))
    ]
    assert [(f.name, f.shape) for f in bundle.signature.outputs] == [("y", (2,))]
    answer = bundle.predict([[1, 1, 1], [1, 0, 0]])
    assert np.asarray(answer).tolist() == [[6, 9], [0, 1]]


def test_rows_can_be_given_to_a_graph(pack):
    X = np.random.default_rng(0).normal(size=(20, 3))
    bundle = pack(linear(), X, (X, X[:, 0]))
    columns, truth = bundle.test_data()
    np.testing.assert_array_equal(columns["x"], X.astype(np.float32))
    np.testing.assert_array_equal(truth, X[:, 0])
    assert bundle.parity.rows == 20


def test_a_graph_for_one_row_at_a_time_is_refused(tmp_path):
    with pytest.raises(Invalid, match="x takes exactly 1 rows") as raised:
        bascule.pack(linear(1), name="linear", to=tmp_path / "bundle")
    assert "dynamic first dimension" in raised.value.hint


def test_a_graph_with_its_weights_elsewhere_is_refused(tmp_path):
    onnx.save(
        linear(),
        tmp_path / "big.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    with pytest.raises(Invalid, match="refers to data in other files"):
        bascule.pack(tmp_path / "big.onnx", name="linear", to=tmp_path / "bundle")


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x09location"])
def test_what_is_no_graph_is_refused(data, tmp_path):
    with pytest.raises(Invalid, match="cannot be loaded by ONNX Runtime"):
        bascule.pack(data, name="linear", to=tmp_path / "bundle")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Invalid, match=r"gone\.onnx cannot be read: No such file"):
        bascule.pack(tmp_path / "gone.onnx", name="linear", to=tmp_path / "bundle")
