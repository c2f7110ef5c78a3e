from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from tests.tiers import first_of

from bascule.bundle.statements.parity import Parity
from bascule.core.fields import DType, Field
from bascule.packing.statements import parity
from bascule.packing.statements.parity import compare


def judge(expected, found, tolerance=1e-5, **more):
    return compare(
        {name: np.asarray(v) for name, v in expected.items()},
        {name: np.asarray(v) for name, v in found.items()},
        tolerance=tolerance,
        program="onnx",
        precision="float32",
        probes=0,
        **more,
    )


@pytest.mark.parametrize(("off", "passed"), [(0.5e-5, True), (2e-5, False)])
def test_probabilities_are_compared_absolutely(off, passed):
    judged = judge(
        {"label": [0], "probabilities": [[0.9, 0.1]]},
        {"label": [0], "probabilities": [[0.9 - off, 0.1 + off]]},
    )
    assert judged.passed is passed
    assert judged.max_difference == pytest.approx(off)


def test_one_other_label_is_one_too_many():
    expected = {"label": [0, 1], "probabilities": [[0.9, 0.1], [0.4, 0.6]]}
    judged = judge(expected, {**expected, "label": [0, 0]})
    assert not judged.passed
    assert judged.reason == "onnx gives another label than the original for 1 of 2 rows"


def test_a_label_that_differs_in_a_tie_is_counted_and_explained():
    expected = {"label": [0, 1], "probabilities": [[0.5, 0.5], [0.4, 0.6]]}
    judged = judge(expected, {**expected, "label": [1, 1]})
    assert judged.passed
    assert (judged.label_differences, judged.ties) == (1, 1)
    assert "1 labels differ where two classes tie" in judged.reason


CLIPPED = {"label": [1, 0, 0], "probabilities": [[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]]}
"""Of two scores that are clipped alike, the second is the larger in the first row."""


def test_equal_probabilities_are_no_tie_where_they_do_not_decide_the_label():
    """As those of `SGDClassifier(loss="modified_huber")`, of which several are clipped at 1."""
    judged = judge(CLIPPED, {**CLIPPED, "label": [0, 0, 0]})
    assert (judged.label_differences, judged.ties, judged.passed) == (1, 0, False)


@pytest.mark.parametrize(("scores", "ties"), [([7.0, 9.0], 0), ([7.0, 7.0 + 1e-6], 1)])
def test_a_tie_is_of_the_decision_function_where_that_decides(scores, ties):
    decision = np.array([scores, [9.0, 7.0], [9.0, 7.0]])
    judged = judge(CLIPPED, {**CLIPPED, "label": [0, 0, 0]}, decision=lambda: decision)
    assert (judged.ties, judged.passed) == (ties, ties == 1)


@pytest.mark.parametrize(("score", "passed"), [(2e-6, True), (0.3, False)])
def test_one_score_decides_by_its_sign(score, passed):
    """The labels of chances that are cut at a threshold of 0.3 are no ties at a half."""
    expected = {"label": [1, 1, 0], "probabilities": [[0.5, 0.5], [0.6, 0.4], [0.9, 0.1]]}
    decision = np.array([score, 1.0, -1.0])
    found = {**expected, "label": [0, 1, 0]}
    assert judge(expected, found, decision=lambda: decision).passed is passed


@pytest.mark.parametrize(("scores", "passed"), [([-1e-9, 1, -2], True), ([-1e-9, -1, -2], False)])
def test_a_decision_function_that_does_not_tell_the_labels_excuses_nothing(scores, passed):
    """As that of a classifier whose threshold is not 0."""
    decision = np.array(scores, float)
    expected = {"label": [0, 1, 0]}
    assert judge(expected, {"label": [1, 1, 0]}, decision=lambda: decision).passed is passed


@pytest.mark.parametrize(("ties", "passed"), [(2, True), (3, False)])
def test_more_ties_than_one_row_in_a_thousand_are_no_ties(ties, passed):
    shares = np.tile([[0.2, 0.8]], (2000, 1))
    shares[:ties] = 0.5
    expected = {"label": (shares[:, 1] > 0.5).astype(int), "probabilities": shares}
    judged = judge(expected, {**expected, "label": np.ones(2000, int)})
    assert (judged.ties, judged.passed) == (ties if passed else 0, passed)


def test_ties_are_looked_for_output_by_output():
    """A row with a tie in one output and another label in the other is answered otherwise."""
    even, clear = [[0.5, 0.5], [0.4, 0.6]], [[0.2, 0.8], [0.9, 0.1]]
    expected = {
        "label.a": [0, 1], "label.b": [1, 0], "probabilities.a": even, "probabilities.b": clear,
    }  # fmt: skip
    assert judge(expected, {**expected, "label.a": [1, 1]}).passed
    assert not judge(expected, {**expected, "label.b": [0, 0]}).passed
    assert not judge(expected, {**expected, "label.a": [1, 1], "label.b": [0, 0]}).passed


@pytest.mark.parametrize(
    "wrap", first_of([lambda m: m, OneVsRestClassifier, MultiOutputClassifier])
)
def test_labels_of_clipped_probabilities_are_the_model_s(pack, wrap):
    X, y = load_digits(return_X_y=True)
    model = wrap(SGDClassifier(loss="modified_huber", random_state=0))
    y = np.column_stack([y, y % 3]) if isinstance(model, MultiOutputClassifier) else y
    model.fit(X[:900], y[:900])

    bundle = pack(model, (X[:900], y[:900]), (X[900:1200], y[900:1200]))

    answer, expected = bundle.predict(X[900:1200]), model.predict(X[900:1200])
    names = [name for name in answer if name.startswith("label")]
    assert np.column_stack([answer[name] for name in names]).tolist() == (
        expected.reshape(len(expected), -1).tolist()
    )
    assert bundle.manifest.serves == "onnx"


def test_labels_without_probabilities_have_no_excuse():
    assert not judge({"label": ["a", "b"]}, {"label": ["a", "a"]}).passed


@pytest.mark.parametrize(("off", "passed"), [(0.9e-3, True), (1.1e-3, False)])
def test_numbers_are_compared_with_the_size_of_their_kind(off, passed):
    """Near zero, the median of all numbers (100) is the measure."""
    expected = {"prediction": [0.0, 100.0, -100.0]}
    assert judge(expected, {"prediction": [off, 100.0, -100.0]}).passed is passed


def test_a_number_in_place_of_nan_is_infinitely_far():
    expected = {"prediction": [math.nan, 1.0]}
    assert judge(expected, expected).passed
    judged = judge(expected, {"prediction": [0.0, 1.0]})
    assert judged.max_difference == math.inf
    assert Parity.from_json(judged.to_json()) == judged


class Averaging:
    """A program that looks at its neighbours."""

    name = "averaging"
    inputs = (Field("x", DType.FP64),)
    outputs = (Field("prediction", DType.FP64),)

    def run(self, columns, outputs=None):
        x = columns["x"]
        return {"prediction": x + x.mean() * 1e-16}


class Doubling(Averaging):
    def run(self, columns, outputs=None):
        return {"prediction": columns["x"] * 2}


@pytest.mark.parametrize(("program", "expected"), [(Averaging(), False), (Doubling(), True)])
def test_one_bit_that_depends_on_the_neighbours_is_seen(program, expected):
    columns = {"x": np.random.default_rng(0).normal(size=50)}
    assert parity.is_batch_invariant(program, columns) is expected


class Counting(Averaging):
    """A program that answers single rows as the original does, and batches otherwise."""

    def run(self, columns, outputs=None):
        return {"prediction": columns["x"] * 2 + 1e-3 * (len(columns["x"]) in self.sizes)}


@pytest.mark.parametrize("sizes", [{1}, {2}, {64}, {1000}])
def test_a_program_that_answers_a_few_rows_otherwise_than_many_does_not_pass(sizes):
    """Though its answers to the rows that are compared, all in one batch, are the original's."""
    program = Counting()
    program.sizes = sizes
    columns = {"x": np.random.default_rng(0).normal(size=500)}
    expected = {"prediction": columns["x"] * 2}
    about = {"tolerance": 1e-5, "precision": "float64", "probes": 0}
    judged, invariant = parity.judge(program, columns, expected, **about)
    assert (judged.passed, invariant) == (False, False)
    assert "averaging answers a few rows otherwise than many: by up to 0.0" in judged.reason
    assert judged.max_difference > 1e-4
    program.sizes = set()
    judged, invariant = parity.judge(program, columns, expected, **about)
    assert (judged.passed, invariant) == (True, True)


def test_the_last_bit_may_depend_on_the_batch():
    columns = {"x": np.random.default_rng(0).normal(size=500)}
    about = {"tolerance": 1e-5, "precision": "float64", "probes": 0}
    judged, invariant = parity.judge(Averaging(), columns, {"prediction": columns["x"]}, **about)
    assert (judged.passed, invariant) == (True, False)


def test_a_sample_is_spread_evenly_and_always_the_same():
    columns = {"x": np.arange(1000)}
    taken = parity.sample(columns, 10)["x"]
    assert taken.tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert parity.sample(columns, 1000) is columns


@pytest.mark.parametrize(("off", "passed"), [(0.9e-3, True), (1.1e-3, False)])
def test_a_tensor_is_compared_by_its_size_though_half_of_it_is_zeros(off, passed):
    """The root mean square of 200, 0 and zeros is 100; a difference of 1e-3 is 1e-5 of that."""
    expected = [[200.0, 0.0], [0.0, 0.0]]
    assert judge({"scores": expected}, {"scores": [[200.0, off], [0.0, 0.0]]}).passed is passed


@pytest.mark.parametrize(("width", "asked"), [(2_621, True), (2_622, False)])
def test_rows_so_large_that_few_can_be_asked_are_not_called_invariant(width, asked):
    class Sums:
        name, inputs, outputs = "sums", (Field("x", DType.FP32, (width,)),), ()

        def run(self, columns, _outputs=None):
            return {"sum": columns["x"][:, 0] * 2}

    assert parity.is_batch_invariant(Sums(), {"x": np.ones((3, width), np.float32)}) is asked
