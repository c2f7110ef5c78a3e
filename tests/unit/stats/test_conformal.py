from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.core.digests import canonical_json
from bascule.core.errors import Invalid, Untrusted
from bascule.core.fields import DType, Field
from bascule.stats import conformal
from bascule.stats.conformal import (
    Calibration,
    Scores,
    aps_scores,
    calibrate,
    check_confidence,
    class_sets,
    intervals,
    methods_for,
    rank,
    rows_needed,
)

PROBABILITIES = Field("probabilities", DType.FP64, (3,))
LABEL = Field("label", DType.INT64)
PREDICTION = Field("prediction", DType.FP64)


def test_the_rank_is_exact_where_binary_numbers_are_not():
    assert (100 * 0.55, rank(99, 0.55)) == (55.00000000000001, 55)
    assert (100 * 0.57, rank(99, 0.57)) == (56.99999999999999, 57)


@given(st.integers(0, 100_000), st.integers(1, 9_999))
def test_the_rank_is_the_ceiling_of_the_decimal_product(rows, ten_thousandths):
    confidence = Decimal(ten_thousandths) / 10_000
    assert rank(rows, float(confidence)) == math.ceil((rows + 1) * confidence)


@pytest.mark.parametrize(("confidence", "rows"), [(0.5, 1), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_a_confidence_needs_enough_rows(confidence, rows):
    assert rows_needed(confidence) == rows
    scores = np.arange(rows, dtype=float)
    assert Scores.of(scores).threshold(confidence) == rows - 1
    with pytest.raises(Invalid, match=r"more than .* calibration rows can support") as refused:
        Scores.of(scores[:-1]).threshold(confidence)
    assert f"{rows:,} calibration rows" in refused.value.hint


@pytest.mark.parametrize("wrong", [0, 1, -0.1, 1.1, math.nan, math.inf, "0.9", None, True, [0.9]])
def test_what_is_no_confidence_is_refused(wrong):
    with pytest.raises(Invalid, match=r"confidence: .* is not a number over 0 and under 1"):
        check_confidence(wrong)


@pytest.mark.parametrize("right", [1e-9, 0.5, np.float32(0.5), 1 - 1e-9])
def test_a_confidence_lies_between_nought_and_one(right):
    assert check_confidence(right) == pytest.approx(right)


def test_up_to_the_bound_every_score_is_kept_and_of_more_a_sample(monkeypatch):
    monkeypatch.setattr(conformal, "MAX_EXACT_SCORES", 1_000)
    scores = np.random.default_rng(0).random(1_000)
    assert np.array_equal(Scores.of(scores).values, np.sort(scores))
    many = Scores.of(np.random.default_rng(0).random(50_000))
    assert 1_000 < len(many.values) <= 1_200


@pytest.mark.parametrize("confidence", [0.001, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999])
def test_a_sampled_threshold_is_never_lower_and_hardly_higher(confidence):
    scores = np.random.default_rng(1).exponential(size=60_000)
    exact = np.sort(scores)[rank(60_000, confidence) - 1]
    sampled = Scores.of(scores).threshold(confidence)
    assert sampled >= exact
    between = ((scores > exact) & (scores <= sampled)).sum()
    assert between <= math.ceil(60_000 / conformal.MAX_EXACT_SCORES)


def test_the_last_scores_of_many_are_all_kept_for_the_highest_confidences():
    scores = np.random.default_rng(1).exponential(size=60_000)
    top = np.sort(scores)
    for rows in (60_000, 59_999, 59_850):
        assert Scores.of(scores).threshold((rows - 0.5) / 60_001) == top[rows - 1]


def calibration(rows: int = 40) -> Calibration:
    random = np.random.default_rng(3)
    outputs = {"probabilities": random.dirichlet(np.ones(3), rows)}
    return calibrate(["lac", "aps"], outputs, random.integers(0, 3, rows), classes=(0, 1, 2))


def test_a_calibration_survives_its_json():
    made = calibration()
    again = Calibration.from_json(json.loads(canonical_json(made.to_json())))
    assert canonical_json(again.to_json()) == canonical_json(made.to_json())
    for confidence in (0.1, 0.5, 0.9):
        for method in ("lac", "aps"):
            assert again.threshold(confidence, method) == made.threshold(confidence, method)


@pytest.mark.parametrize(
    "alter",
    [
        lambda value: value.pop("rows"),
        lambda value: value.update(methods=[]),
        lambda value: value.update(rows=1),
        lambda value: value["methods"][0].update(name="magic"),
        lambda value: value["methods"][0].update(name="absolute"),
        lambda value: value["methods"][0]["values"].reverse(),
        lambda value: value["methods"][0]["values"].append(math.nan),
        lambda value: value["methods"][0].update(ranks=[1]),
        lambda value: value["methods"][0].update(values="text"),
        lambda value: value.update(methods=7),
    ],
)
def test_what_is_no_calibration_is_not_trusted(alter):
    value = calibration().to_json()
    alter(value)
    with pytest.raises(Untrusted, match="calibration cannot be read"):
        Calibration.from_json(value)


def test_a_newer_calibration_says_what_to_do():
    with pytest.raises(Untrusted, match="has format 2, and this bascule reads 1"):
        Calibration.from_json({"format": 2})


def test_a_label_that_the_model_does_not_know_counts_as_never_covered():
    """Nine known rows and one unknown: 0.9 would have to hold the tenth as well."""
    outputs = {"probabilities": np.tile([0.5, 0.3, 0.2], (10, 1))}
    truth = np.array(["a"] * 9 + ["new"])
    made = calibrate(["lac"], outputs, truth, classes=("a", "b", "c"))
    assert made.threshold(0.8) == 0.5
    with pytest.raises(Invalid, match="1 of them with a truth that the model cannot answer"):
        made.threshold(0.9)


def test_sets_hold_what_is_not_over_the_threshold():
    probabilities = np.array([[0.5, 0.3, 0.2]])
    assert class_sets("lac", probabilities, 0.7).tolist() == [[True, True, False]]
    assert class_sets("lac", probabilities, 0.69).tolist() == [[True, False, False]]
    assert class_sets("lac", probabilities, 0.1).tolist() == [[False, False, False]]


def test_adaptive_scores_are_the_mass_on_the_way_to_a_class():
    probabilities = np.array([[0.2, 0.5, 0.3]])
    np.testing.assert_allclose(aps_scores(probabilities), [[1.0, 0.5, 0.8]])
    np.testing.assert_allclose(aps_scores(probabilities, np.array([0.5])), [[0.9, 0.25, 0.65]])


def test_of_equal_probabilities_the_first_is_taken_first():
    np.testing.assert_allclose(aps_scores(np.full((1, 4), 0.25)), [[0.25, 0.5, 0.75, 1.0]])


def test_intervals_are_as_wide_as_their_method_says():
    outputs = {"prediction": np.array([1.0, 2.0]), "scale": np.array([1.0, 3.0])}
    assert [end.tolist() for end in intervals("absolute", outputs, 2.0)] == [[-1, 0], [3, 4]]
    assert [end.tolist() for end in intervals("normalised", outputs, 2.0)] == [[-1, -4], [3, 8]]
    ends = {"lower_quantile": np.array([0.0, 0.0]), "upper_quantile": np.array([1.0, 3.0])}
    assert [end.tolist() for end in intervals("cqr", ends, 1.0)] == [[-1, -1], [2, 4]]


def test_quantiles_that_are_drawn_in_past_each_other_meet_in_the_middle():
    ends = {"lower_quantile": np.array([0.0]), "upper_quantile": np.array([1.0])}
    assert [end.tolist() for end in intervals("cqr", ends, -0.75)] == [[0.5], [0.5]]


def test_a_scale_that_is_not_over_nought_is_refused():
    outputs = {"prediction": np.zeros(2), "scale": np.array([1.0, 0.0])}
    with pytest.raises(Invalid, match="scale is not over 0"):
        calibrate(["normalised"], outputs, np.zeros(2))


@pytest.mark.parametrize(
    ("task", "outputs", "classes", "methods"),
    [
        ("classification", (LABEL, PROBABILITIES), ("a", "b", "c"), ("lac", "aps")),
        ("classification", (LABEL, PROBABILITIES), ("a", "b"), ()),
        ("classification", (LABEL,), ("a", "b", "c"), ()),
        ("regression", (PREDICTION,), None, ("absolute",)),
        ("regression", (Field("prediction", DType.FP64, (2,)),), None, ()),
        ("other", (PREDICTION, Field("upper", DType.FP64)), None, ()),
        ("other", (Field("variable", DType.FP32, (1,)),), None, ()),
        ("other", (Field("prediction", DType.FP32, (1,)),), None, ("absolute",)),
        ("other", (PREDICTION, Field("scale", DType.FP64)), None, ("normalised",)),
        (
            "other",
            (Field("lower_quantile", DType.FP64), Field("upper_quantile", DType.FP64)),
            None,
            ("cqr",),
        ),
    ],
)
def test_the_outputs_say_which_methods_there_are(task, outputs, classes, methods):
    assert methods_for(task, outputs, classes) == methods


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        (np.array([]), "there are no rows"),
        (np.array([1.0, math.nan]), "1 of 2 truths"),
        (np.array(["a", "b"]), "not a number"),
    ],
)
def test_a_truth_that_cannot_be_used_is_named(truth: Any, said: str):
    with pytest.raises(Invalid, match=said):
        calibrate(["absolute"], {"prediction": np.zeros(len(truth))}, truth)


def test_an_answer_that_is_no_number_is_refused():
    with pytest.raises(Invalid, match="an answer of the model is not a finite number"):
        calibrate(["absolute"], {"prediction": np.array([math.nan])}, np.zeros(1))


def test_a_method_that_was_not_calibrated_is_named_with_those_that_were():
    with pytest.raises(Invalid, match="'raps' is no method") as refused:
        calibration().method("raps")
    assert refused.value.hint == "it has lac, aps"
