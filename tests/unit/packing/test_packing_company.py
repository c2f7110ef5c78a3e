"""A model whose answer to a row depends on its company, or on chance, is not packed."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression

import bascule
from bascule.core import DType, Field, Program
from bascule.core.errors import Invalid, ModelFailed
from bascule.packing.statements import company
from bascule.packing.statements.adversarial import Probes, made_up

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
_OF_A_ROW = Field("x", DType.FP32, (4,))


def graph(*nodes, constants=()):
    """y of four numbers for x of four, as an ONNX model."""
    made = helper.make_graph(
        [
            helper.make_node(kind, inputs.split(), outputs.split(), **more)
            for kind, inputs, outputs, more in nodes
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


_ROWS_AXIS = ("axis", np.array([0]))
_FLOATS = dict.fromkeys("sv", np.ones(4, np.float32)) | dict.fromkeys("bm", np.zeros(4, np.float32))
COMPANY = {
    "less the mean of the rows": graph(
        ("ReduceMean", "x axis", "m", {}), ("Sub", "x m", "y", {}), constants=[_ROWS_AXIS]
    ),
    "softmax over the rows": graph(("Softmax", "x", "y", {"axis": 0})),
    "sum of the rows before": graph(
        ("CumSum", "x zero", "y", {}), constants=[("zero", np.array(0))]
    ),
    "sorted": graph(
        ("Shape", "x", "s", {}), ("Gather", "s axis", "k", {}), ("TopK", "x k", "y i", {"axis": 0}),
        constants=[_ROWS_AXIS],
    ),
    "quantized by the largest number": graph(
        ("DynamicQuantizeLinear", "x", "q s z", {}), ("DequantizeLinear", "q s z", "y", {})
    ),
    "scaled where one number is large": graph(
        ("ReduceMax", "x", "m", {"keepdims": 0}), ("Greater", "m most", "g", {}),
        ("Where", "g byte one", "f", {}), ("Div", "x f", "y", {}),
        constants=[(n, np.float32(v)) for n, v in {"most": 100, "byte": 255, "one": 1}.items()],
    ),
    "of the parity of their number": graph(
        ("Shape", "x", "s", {}), ("Gather", "s axis", "k", {}), ("Mod", "k two", "o", {}),
        ("Cast", "o", "f", {"to": 1}), ("Add", "x f", "y", {}),
        constants=[_ROWS_AXIS, ("two", np.array([2]))],
    ),
}  # fmt: skip
CHANCE = {
    "noise": graph(("RandomNormalLike", "x", "r", {}), ("Add", "x r", "y", {})),
    "little noise": graph(("RandomNormalLike", "x", "r", {"scale": 1e-4}), ("Add", "x r", "y", {})),
    "noise with a seed": graph(
        ("RandomUniformLike", "x", "r", {"seed": 1.0}), ("Add", "x r", "y", {})
    ),
    "dropout left on": graph(
        ("Dropout", "x share on", "y", {}),
        constants=[("share", np.float32(0.5)), ("on", np.array(True))],
    ),
    "batch norm in training": graph(
        ("BatchNormalization", "x s b m v", "y rm rv", {"training_mode": 1}),
        constants=list(_FLOATS.items()),
    ),
}


@pytest.mark.filterwarnings("ignore:train has one row")
@pytest.mark.parametrize("train", [None, X, X[:1]], ids=["no rows", "rows", "one row"])
@pytest.mark.parametrize("model", COMPANY.values(), ids=COMPANY)
def test_a_graph_that_computes_over_the_rows_is_refused(model, train, tmp_path):
    with pytest.raises(Invalid, match=r"answers a row otherwise when .* by up to") as refused:
        bascule.pack(model, name="graph", train=train, to=tmp_path / "m", measure=False)
    assert "would change each other's answers" in refused.value.message
    assert "take out the step that computes over all rows at once" in refused.value.hint


@pytest.mark.filterwarnings("ignore:train has one row")
@pytest.mark.parametrize("train", [None, X, X[:1]], ids=["no rows", "rows", "one row"])
@pytest.mark.parametrize("model", CHANCE.values(), ids=CHANCE)
def test_a_graph_that_answers_by_chance_or_state_is_refused(model, train, tmp_path):
    with pytest.raises(Invalid, match="answers the same rows otherwise when it is asked twice"):
        bascule.pack(model, name="graph", train=train, to=tmp_path / "m", measure=False)


class Code(Program):
    """A program that is a function of the matrix and of how often it was asked."""

    name = "code"
    inputs = (_OF_A_ROW,)

    def __init__(self, answer, dtype=DType.FP64):
        self.outputs = (Field("label" if dtype is DType.INT64 else "prediction", dtype),)
        self._answer, self._calls = answer, 0

    def run(self, columns, outputs=None):
        self._calls += 1
        return {self.outputs[0].name: self._answer(columns["x"].astype(float), self._calls)}


def found(program, tolerance=1e-5):
    probes = made_up(program.inputs, {"x": X}, huge=True)
    return company.find(program, {"x": X}, probes, tolerance=tolerance)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x, calls: x.sum(axis=1),
        lambda x, calls: np.nan_to_num(x).max(axis=1),
        lambda x, calls: np.where(x[:, 0] > 0, np.nan, x[:, 1]),
    ],
)
def test_a_program_that_looks_at_each_row_alone_depends_on_nothing(answer):
    assert found(Code(answer)) is None


@pytest.mark.parametrize(
    ("answer", "way", "is_repeated"),
    [
        (lambda x, calls: x[:, 0] + calls, "twice", True),
        (lambda x, calls: x[:, 0] + (calls > 30), "again after other calls", True),
        (lambda x, calls: x[:, 0] + time.perf_counter() * 1e4 % 1, "twice", True),
        (lambda x, calls: x[:, 0].argsort().argsort(), "alone", False),
        (lambda x, calls: x[:, 0] + (len(x) == 3), "in batches of 3", False),
        (lambda x, calls: x[:, 0] + (len(x) > 64), "among 100 rows", False),
        (lambda x, calls: x[:, 0] + (len(x) > 400), "among 500 rows", False),
        (lambda x, calls: x[:, 0] * np.isfinite(x).all(), "beside rows that are extreme", False),
    ],
)
def test_the_way_that_shows_the_dependence_is_named(answer, way, is_repeated):
    dependence = found(Code(lambda x, calls: answer(x, calls).astype(float)))
    assert (dependence.way, dependence.is_repeated) == (way, is_repeated)
    assert dependence.largest > 0.01


@pytest.mark.parametrize(("size", "is_offered"), [(1e-3, True), (0.1, False)])
def test_a_small_difference_may_be_accepted_as_the_tolerance(size, is_offered):
    program = Code(lambda x, calls: 1 + size * (np.arange(len(x)) > 0))
    hint = found(program).hint
    assert ("tolerance=" in hint) is is_offered
    if is_offered:
        accepted = float(hint.rpartition("tolerance=")[2])
        assert found(program, accepted) is None


@pytest.mark.parametrize(
    ("dtype", "rounding"), [(DType.FP64, 1e-5), (DType.FP32, 1e-3), (DType.FP16, 2e-2)]
)
def test_what_counts_as_rounding_is_that_of_the_type_of_the_answers(dtype, rounding):
    def program(size):
        return Code(lambda x, calls: 1 + size * (np.arange(len(x)) > 0), dtype)

    assert found(program(rounding / 2)) is None
    assert found(program(rounding * 2)) is not None


def test_labels_without_numbers_are_compared_as_they_are():
    dependence = found(Code(lambda x, calls: (x[:, 0] > x[:, 0].mean()).astype(int), DType.INT64))
    assert re.search(r"among others: with another label for \d+ of 16 rows", dependence.reason)


def test_a_program_that_fails_for_a_row_alone_is_refused():
    def deviating(x, calls):
        if len(x) < 2:
            raise ModelFailed("the deviation of one row")
        return x[:, 0]

    with pytest.raises(
        Invalid, match=r"answers \d+ rows together, and fails .* asked alone: the dev"
    ):
        found(Code(deviating))


class OverRows(torch.nn.Module):
    """Softmax along the rows, as a slip of the dimension makes it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.scores = torch.nn.Linear(4, 2)

    def forward(self, x):
        return torch.softmax(self.scores(x), 0)


@pytest.mark.parametrize("serve_original", [False, True])
def test_a_torch_module_that_computes_over_the_rows_is_refused(tmp_path, serve_original):
    with pytest.raises(Invalid, match="answers a row otherwise when it is asked alone"):
        bascule.pack(
            OverRows().eval(), name="m", train=X, to=tmp_path / "m", measure=False,
            serve_original=serve_original,
        )  # fmt: skip


@pytest.mark.parametrize("strategy", ["uniform", "stratified"])
def test_labels_drawn_by_chance_are_refused_though_their_shares_tie(pack, strategy):
    y = (X[:, 0] > 0).astype(int)
    with pytest.raises(Invalid, match="answers the same rows otherwise when it is asked twice"):
        pack(DummyClassifier(strategy=strategy).fit(X, y), (X, y), serve_original=True)


def test_an_original_that_a_program_stands_in_for_is_asked_as_well(pack, monkeypatch):
    """The compiled program knows nothing of calls, and is equal on the rows that are compared."""
    y = (X[:, 0] > 0).astype(int)
    model = LogisticRegression().fit(X, y)
    shares, calls = LogisticRegression.predict_proba, []

    def drifting(self, rows):
        calls.append(len(rows))
        return shares(self, rows) + (len(calls) > 2) * 1e-3 * len(calls)

    monkeypatch.setattr(LogisticRegression, "predict_proba", drifting)
    with pytest.raises(Invalid, match="answers the same rows otherwise"):
        pack(model, (X, y))


def test_no_companions_are_needed():
    assert (
        company.find(Code(lambda x, calls: x.sum(axis=1)), {"x": X}, Probes({}, ()), tolerance=1e-5)
        is None
    )
