from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.tiers import first_of

import bascule
from bascule.core.errors import Invalid, ModelFailed


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


@pytest.mark.filterwarnings("ignore::bascule.BasculeWarning")  # one row tells the types alone
def test_images_of_any_size_are_answered_and_those_of_another_rank_are_named(pack):
    """As of the networks of `test_packing_real_onnx.py`."""
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        "average",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3, "high", "wide"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 3, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    bundle = pack(model, np.ones((1, 3, 4, 8), np.float32))
    assert bundle.signature.inputs[0].shape == (3, -1, -1)
    for size in ((4, 8), (2, 3)):
        answer = np.asarray(bundle.predict({"x": np.full((2, 3, *size), 5, np.float32)}))
        assert answer.ravel().tolist() == [5.0] * 6
    with pytest.raises(Invalid, match=r"the model takes \['rows', 3, -1, -1\]"):
        bundle.predict({"x": np.ones((2, 1, 4, 8), np.float32)})


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


# -- first dimensions that are not the rows --------------------------------------------------------


def graph_of(nodes, inputs, outputs, constants=()):
    """A graph of floats: its inputs and outputs with their shapes."""
    made = helper.make_graph(
        [helper.make_node(kind, given, [to], **more) for kind, given, to, more in nodes],
        "graph",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT64
_PAD = ("pads", np.array([1, 0, 1, 0]))


@pytest.mark.parametrize(
    ("node", "constants", "shape", "found"),
    [
        (("Pad", ["x", "pads"], {}), [_PAD], ["n", "w"], "3 rows for 1 rows"),
        (("Transpose", ["x"], {"perm": [1, 0]}), [], ["n", "m"], "3 rows for 1 rows"),
        (("Reshape", ["x", "s"], {}), [("s", np.array([-1]))], ["n"], "3 rows for 1 rows"),
        (("ReduceSum", ["x", "s"], {"keepdims": 0}), [("s", np.array([0]))], ["n"],
         "3 rows for 1 rows"),
        (("Slice", ["x", "a", "b"], {}), [("a", np.array([0, 0])), ("b", np.array([4, 3]))],
         ["n", "w"], "4 rows for 5 rows"),
    ],
    ids=["padded", "transposed", "flattened", "summed", "cut"],
)  # fmt: skip
@pytest.mark.parametrize("given", [False, True])
def test_an_output_with_another_number_of_rows_is_refused(
    tmp_path, node, constants, shape, found, given
):
    kind, inputs, more = node
    model = graph_of(
        [(kind, inputs, "y", more)], {"x": ["rows", "w"]}, {"y": (_FLOAT, shape)}, constants
    )
    train = np.ones((9, 3), np.float32) if given else None
    with pytest.raises(Invalid, match=f"^y has {found}, so its first") as raised:
        bascule.pack(model, name="odd", train=train, to=tmp_path / "m")
    assert "first dimension of every input and output" in raised.value.hint


def of_what_is_not_zero():
    return graph_of(
        [
            ("NonZero", ["x"], "i", {}),
            ("Transpose", ["i"], "t", {}),
            ("GatherND", ["x", "t"], "y", {}),
        ],
        {"x": ["n", 1]},
        {"y": (_FLOAT, ["k"])},
    )


def test_an_output_whose_rows_depend_on_the_values_is_refused(tmp_path):
    train = np.array([[1.0], [0.0]])
    with pytest.raises(Invalid, match=r"^y has 1 rows for 2 rows"):
        bascule.pack(of_what_is_not_zero(), name="odd", train=train, to=tmp_path / "m")


def test_an_answer_with_another_number_of_rows_is_an_error_when_it_comes(tmp_path):
    """No row at pack was zero, so nothing was seen of it there."""
    train = np.ones((4, 1))
    bundle = bascule.pack(of_what_is_not_zero(), name="odd", train=train, to=tmp_path / "m")
    with pytest.raises(ModelFailed, match=r"y has the shape \[1\] for 2 rows"):
        bundle.predict(np.array([[1.0], [0.0]], np.float32))


def test_a_graph_that_takes_one_row_alone_is_refused(tmp_path):
    model = graph_of(
        [("Reshape", ["x", "s"], "w", {}), ("Add", ["w", "x"], "y", {})],
        {"x": ["n", 3]},
        {"y": (_FLOAT, ["n", 3])},
        [("s", np.array([1, 3]))],
    )
    with pytest.raises(Invalid, match="answers for 1 row, and fails for 2: "):
        bascule.pack(model, name="odd", to=tmp_path / "m")


def test_an_input_whose_rows_are_looked_up_is_refused(tmp_path):
    """Attention: every row of x is compared with all rows of `keys`, however many there are."""
    model = graph_of(
        [("Transpose", ["keys"], "t", {}), ("MatMul", ["x", "t"], "m", {}),
         ("ReduceMax", ["m", "axis"], "y", {})],
        {"x": ["rows", 3], "keys": ["others", 3]},
        {"y": (_FLOAT, ["rows", 1])},
        [("axis", np.array([1]))],
    )  # fmt: skip
    with pytest.raises(Invalid, match="keys need not have as many rows as x, and y depends on"):
        bascule.pack(model, name="odd", to=tmp_path / "m")


@pytest.mark.parametrize("kind", first_of(["Add", "Concat"]))
def test_inputs_whose_rows_have_names_of_their_own_are_packed(tmp_path, kind):
    width = 6 if kind == "Concat" else 3
    more = {"axis": 1} if kind == "Concat" else {}
    model = graph_of(
        [(kind, ["a", "b"], "y", more)],
        {"a": ["rows_of_a", 3], "b": ["rows_of_b", 3]},
        {"y": (_FLOAT, ["n", width])},
    )
    bundle = bascule.pack(model, name="two", to=tmp_path / "m")
    rows = np.ones((4, 3), np.float32)
    assert bundle.predict({"a": rows, "b": rows})["y"].shape == (4, width)
