from __future__ import annotations

import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from bascule.core.digests import canonical_json
from bascule.core.errors import Invalid, Untrusted
from bascule.core.fields import Columns, DType, Field
from bascule.stats import conformal
from bascule.stats.conformal import (
    Calibration,
    Scores,
    aps_scores,
    calibrate,
    class_sets,
    intervals,
    methods_for,
    number_scores,
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
        (np.array(["a", "b"]), "not a number"),
    ],
)
def test_a_truth_that_cannot_be_used_is_named(truth: Any, said: str):
    with pytest.raises(Invalid, match=said):
        calibrate(["absolute"], {"prediction": np.zeros(len(truth))}, truth)


def test_a_method_that_was_not_calibrated_is_named_with_those_that_were():
    with pytest.raises(Invalid, match="'raps' is no method") as refused:
        calibration().method("raps")
    assert refused.value.hint == "it has lac, aps"


# -- every method at the edges of the law --

METHODS = ("lac", "aps", "absolute", "normalised", "cqr")
OF_NUMBERS = METHODS[2:]
CLASSES = ("a", "b", "c")


def answered(method: str, rows: int, *, digits: int | None = None) -> tuple[Columns, Any, Any]:
    """What a model answers, the truth, and the classes; rounded to so many digits, scores tie."""
    random = np.random.default_rng(rows)
    if method in ("lac", "aps"):
        probabilities = random.dirichlet(np.ones(3), rows)
        if digits is not None:
            probabilities = np.array([[0.5, 0.25, 0.25], [0.125, 0.5, 0.375]])[np.arange(rows) % 2]
        return {"probabilities": probabilities}, random.choice(CLASSES, rows), CLASSES
    prediction, truth = random.normal(size=(2, rows))
    made = {
        "absolute": {"prediction": prediction},
        "normalised": {"prediction": prediction, "scale": random.exponential(size=rows) + 0.6},
        "cqr": {"lower_quantile": prediction - 0.7, "upper_quantile": prediction + 0.7},
    }[method]
    if digits is not None:
        made = {name: values.round(digits) for name, values in made.items()}
        truth = truth.round(digits)
    return made, truth, None


def held(made: Calibration, method: str, confidence: float, outputs: Columns, truth: Any,
         classes: Any) -> int:  # fmt: skip
    return int(made.holds(made.added(outputs, confidence, method), truth, classes).sum())


@pytest.mark.parametrize("method", METHODS)
def test_of_the_rows_that_calibrated_as_many_are_held_as_the_rank_says(method):
    """The row whose score is the threshold is on the edge of its own set, and inside."""
    outputs, truth, classes = answered(method, 199)
    made = calibrate([method], outputs, truth, classes=classes)
    for k in range(1, 200):
        assert made.rank(k / 200, method) == k
        assert held(made, method, k / 200, outputs, truth, classes) == k


@pytest.mark.parametrize("digits", [0, 1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_scores_that_tie_are_held_together_and_never_too_few(method, digits):
    outputs, truth, classes = answered(method, 199, digits=digits)
    made = calibrate([method], outputs, truth, classes=classes)
    values = made.methods[method].values
    assert len(np.unique(values)) < 199, "there are ties"
    for k in range(1, 200):
        within = int((values <= values[k - 1]).sum())
        assert held(made, method, k / 200, outputs, truth, classes) >= within >= k


@pytest.mark.parametrize("method", OF_NUMBERS)
def test_a_truth_that_most_rows_share_is_not_lost_to_rounding(method):
    """0.13 + (1.2 - 0.13) is 1.2 less its last digit, and of 100 rows all have that truth."""
    assert 0.13 + (1.2 - 0.13) < 1.2
    ends = {"lower_quantile": np.full(100, 0.1), "upper_quantile": np.full(100, 0.13)}
    outputs = {"prediction": np.full(100, 0.13), "scale": np.full(100, 0.7)} | ends
    for truth in (np.full(100, 1.2), np.full(100, 0.13 - 1.1)):
        made = calibrate([method], outputs, truth)
        assert held(made, method, 0.9, outputs, truth, None) == 100


@given(st.data(), st.sampled_from(OF_NUMBERS), st.floats(0, 1e6))
def test_an_interval_holds_the_truth_from_its_score_on(data, method, more):
    number = st.floats(-1e9, 1e9) | st.floats(-1, 1)
    low, high, truth = (data.draw(number) for _ in range(3))
    scale = data.draw(st.floats(1e-9, 1e9))
    outputs = {
        "prediction": np.array([low]),
        "scale": np.array([scale]),
        "lower_quantile": np.array([low]),  # they may cross
        "upper_quantile": np.array([high]),
    }
    score = float(number_scores(method, outputs, np.array([truth]))[0])
    for threshold in (score, np.nextafter(score, np.inf), score + more):
        lower, upper = intervals(method, outputs, threshold)
        assert lower[0] <= truth <= upper[0]


@given(st.data(), st.sampled_from(OF_NUMBERS))
def test_a_score_is_that_of_its_paper_to_the_last_digits(data, method):
    """The formulas in whole fractions: Lei et al. 2018, Romano, Patterson and Candes 2019, (6)."""
    number = st.floats(-1e6, 1e6)
    low, high, truth = (data.draw(number) for _ in range(3))
    scale = data.draw(st.floats(1e-3, 1e3))
    outputs = {
        "prediction": np.array([low]),
        "scale": np.array([scale]),
        "lower_quantile": np.array([low]),
        "upper_quantile": np.array([high]),
    }
    away = Fraction(truth) - Fraction(low)
    exact = {
        "absolute": abs(away),
        "normalised": abs(away) / Fraction(scale),
        "cqr": max(-away, Fraction(truth) - Fraction(high)),
    }[method]
    score = float(number_scores(method, outputs, np.array([truth]))[0])
    unit = max(abs(exact), abs(Fraction(low)) / Fraction(scale), abs(Fraction(high))) * 2**-52
    assert abs(Fraction(score) - exact) <= 2 * unit  # a difference and a quotient are rounded


def empirical_quantile(scores: list[float], level: Fraction) -> float | None:
    """The smallest z with F(z) >= level, F the empirical law; None where there is none."""
    for z in sorted(scores):
        if Fraction(sum(score <= z for score in scores), len(scores)) >= level:
            return z
    return None


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.integers(1, 999))
def test_the_threshold_is_the_empirical_quantile_of_the_paper(scores, thousandths):
    """Romano, Patterson and Candes 2019, (8): at the level (1 - alpha)(1 + 1 / n)."""
    level = Fraction(thousandths, 1_000) * (1 + Fraction(1, len(scores)))
    expected = empirical_quantile(scores, level)
    kept = Scores.of(np.array(scores, float))
    if expected is None:
        with pytest.raises(Invalid, match="calibration rows can support"):
            kept.threshold(thousandths / 1_000)
    else:
        assert kept.threshold(thousandths / 1_000) == expected


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("method", METHODS)
def test_where_the_rank_is_the_last_row_it_is_held_and_one_row_less_is_refused(method, confidence):
    rows = rows_needed(confidence)
    assert rank(rows, confidence) == rows
    outputs, truth, classes = answered(method, rows)
    made = calibrate([method], outputs, truth, classes=classes)
    assert made.threshold(confidence, method) == made.methods[method].values.max()
    assert held(made, method, confidence, outputs, truth, classes) == rows

    assert rank(rows - 1, confidence) == rows
    if rows > 1:
        fewer = {name: values[1:] for name, values in outputs.items()}
        short = calibrate([method], fewer, truth[1:], classes=classes)
        with pytest.raises(Invalid, match=f"more than {rows - 1} calibration rows can support"):
            short.added(fewer, confidence, method)


@pytest.mark.parametrize("method", ["lac", "aps"])
def test_unknown_labels_take_the_last_ranks_and_no_more(method):
    """They count as never covered: two rows of 29 have an infinite score; 0.9 asks for the 27th,
    and 0.91 for the 28th."""
    outputs, truth, classes = answered(method, 29)
    truth = np.array([*truth[:-2], "new", "newer"])
    made = calibrate([method], outputs, truth, classes=classes)
    assert (rank(29, 0.9), rank(29, 0.91)) == (27, 28)
    assert held(made, method, 0.9, outputs, truth, classes) == 27
    with pytest.raises(Invalid, match="2 of them with a truth that the model cannot answer"):
        made.added(outputs, 0.91, method)
    assert made.largest_confidence == 0.9


@given(st.integers(1, 400), st.integers(0, 3))
def test_the_largest_confidence_can_be_asked_for_and_the_next_number_cannot(rows, beyond):
    """5 / 6 is rounded up to 0.8333333333333334, which six times is more than five."""
    scores = np.append(np.zeros(rows), np.full(beyond, np.inf))
    kept = Scores.of(scores)
    assert kept.rank(kept.largest_confidence) == rows
    with pytest.raises(Invalid, match="can support"):
        kept.threshold(math.nextafter(kept.largest_confidence, 1))


@pytest.mark.parametrize("beyond", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("method", METHODS)
def test_no_answer_that_is_not_finite_calibrates(method, beyond):
    """Whichever of the outputs that the method reads it is in, and whatever its score would be."""
    outputs, truth, classes = answered(method, 12)
    for name, values in outputs.items():
        for place in np.ndindex(values[-1:].shape):
            spoiled = values.copy()
            spoiled[place] = beyond
            with pytest.raises(Invalid, match=f"{name}: an answer .* is not a finite number"):
                calibrate([method], outputs | {name: spoiled}, truth, classes=classes)


@pytest.mark.parametrize("beyond", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("method", OF_NUMBERS)
def test_no_truth_that_is_not_finite_calibrates(method, beyond):
    outputs, truth, classes = answered(method, 12)
    truth[3] = beyond
    with pytest.raises(Invalid, match="1 of 12 truths"):
        calibrate([method], outputs, truth, classes=classes)


def test_a_score_that_is_too_large_for_a_number_does_not_calibrate():
    with pytest.raises(Invalid, match="absolute scores: one is too large for a number"):
        calibrate(["absolute"], {"prediction": np.array([-1.7e308])}, np.array([1.7e308]))


@pytest.mark.parametrize("beyond", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("method", METHODS)
def test_an_answer_that_is_not_finite_holds_nothing_and_leaves_the_other_rows_alone(method, beyond):
    outputs, truth, classes = answered(method, 30)
    made = calibrate([method], outputs, truth, classes=classes)
    sound = made.added(outputs, 0.9, method)
    name = next(iter(outputs))
    spoiled = outputs[name].copy()
    spoiled[4] = beyond
    added = made.added(outputs | {name: spoiled}, 0.9, method)
    others = np.arange(30) != 4
    for output, values in added.items():
        assert np.array_equal(values[others], sound[output][others])
    # A lower quantile without end says that the interval has none on this side, and is right.
    if not (method == "cqr" and beyond == -math.inf):
        assert not made.holds(added, truth, classes)[4]


@pytest.mark.parametrize("beyond", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("method", ["lac", "aps"])
def test_one_probability_that_is_not_finite_leaves_no_class_in_the_set(method, beyond):
    outputs, truth, classes = answered(method, 30)
    made = calibrate([method], outputs, truth, classes=classes)
    for place in range(3):
        spoiled = outputs["probabilities"][:2].copy()
        spoiled[1, place] = beyond
        sets = made.added({"probabilities": spoiled}, 0.9, method)["prediction_set"]
        assert sets[0].any()
        assert not sets[1].any()
