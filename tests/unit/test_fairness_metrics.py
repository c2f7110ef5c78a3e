"""Fairness is fairlearn's, and its intervals hold as often as they say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fairlearn import metrics as fairlearn
from sklearn.metrics import accuracy_score, mean_absolute_error
from tests.own_environments import packages_of

from bascule.core import Invalid
from bascule.metrics import FEWEST_IN_GROUP, Labelled, disparity, group_rows

THEIRS = {
    f"{name}_{form}": getattr(fairlearn, f"{name}_{form}")
    for name in ("demographic_parity", "equalized_odds", "equal_opportunity")
    for form in ("difference", "ratio")
}
RATES = ("selection_rate", "true_positive_rate", "false_positive_rate", "false_negative_rate")


def decided(rng, group, selected, true=0.4):
    """Rows of groups that select `selected` of their rows, by group."""
    truth = (rng.random(len(group)) < true).astype(int)
    answers = (rng.random(len(group)) < np.asarray(selected)[group]).astype(int)
    return Labelled("classification", truth, answers, (0, 1))


@pytest.fixture(scope="module")
def people():
    rng = np.random.default_rng(0)
    sex, race = rng.choice(["F", "M"], 3_000, p=[0.4, 0.6]), rng.choice(["a", "b", "c"], 3_000)
    place = np.unique(np.char.add(sex, race), return_inverse=True)[1]
    return decided(rng, place, [0.2, 0.3, 0.35, 0.4, 0.5, 0.6]), {"sex": sex, "race": race}


def compare_with_fairlearn(rows, attributes):
    grouped = group_rows(rows, attributes)
    table = pd.DataFrame(attributes)
    for name, theirs in THEIRS.items():
        expected = theirs(rows.truth, rows.answers, sensitive_features=table)
        found = disparity(name, grouped)
        assert found.value == pytest.approx(expected, abs=1e-12), name
        assert found.lower <= found.value <= found.upper
    frame = fairlearn.MetricFrame(
        metrics={"accuracy": accuracy_score}
        | {name: getattr(fairlearn, name) for name in RATES},
        y_true=rows.truth, y_pred=rows.answers, sensitive_features=table,
    )  # fmt: skip
    for place, name in enumerate(grouped.names):
        expected = frame.by_group.loc[tuple(name.split(", ")) if len(attributes) > 1 else name]
        for rate in ("accuracy", *RATES):
            assert grouped.of(rate, place).value == pytest.approx(expected[rate], abs=1e-12)
    assert disparity("accuracy_ratio", grouped).value == pytest.approx(frame.ratio()["accuracy"])


@pytest.mark.parametrize("names", [("sex",), ("race",), ("sex", "race")])
def test_values_are_those_of_fairlearn(people, names):
    rows, attributes = people
    compare_with_fairlearn(rows, {name: attributes[name] for name in names})


@pytest.mark.slow
@pytest.mark.parametrize("names", [("SEX",), ("RAC1P",), ("SEX", "RAC1P")])
def test_values_are_those_of_fairlearn_on_the_census(names):
    """The answers of NannyML's model of employment; groups of too few rows are left out of both."""
    data = packages_of("nannyml") / "nannyml" / "datasets" / "data"
    table = pd.read_parquet(data / "employment_MA_reference.pq")
    attributes = {name: table[name].astype(str).to_numpy() for name in names}
    grouped = group_rows(_labelled(table), attributes)
    left_out = disparity("equalized_odds_difference", grouped).too_few
    joined = pd.DataFrame(attributes).agg(", ".join, axis=1)
    kept = ~joined.isin(left_out).to_numpy()
    compare_with_fairlearn(
        _labelled(table[kept]), {name: values[kept] for name, values in attributes.items()}
    )


def _labelled(table):
    truth, answers = (table[name].to_numpy(int) for name in ("employed", "prediction"))
    return Labelled("classification", truth, answers, (0, 1))


def test_numbers_have_means_and_errors_by_group():
    rng = np.random.default_rng(1)
    sex = rng.choice(["F", "M"], 500)
    truth = rng.normal(size=500)
    answers = truth + np.where(sex == "F", 1.0, 0.2)
    grouped = group_rows(Labelled("regression", truth, answers), {"sex": sex})
    by_group = [answers[sex == name].mean() for name in ("F", "M")]
    assert disparity("mean_prediction_difference", grouped).value == pytest.approx(
        abs(by_group[0] - by_group[1])
    )
    errors = [mean_absolute_error(truth[sex == name], answers[sex == name]) for name in "FM"]
    found = disparity("mae_difference", grouped)
    assert found.value == pytest.approx(errors[0] - errors[1])
    assert (found.most, found.least) == ("F", "M")
    below = group_rows(Labelled("regression", truth, answers - 9), {"sex": sex})
    assert "below zero" in disparity("mean_prediction_ratio", below).note


def test_a_group_of_too_few_rows_is_named_and_left_out():
    rng = np.random.default_rng(2)
    group = np.repeat([0, 1, 2], [200, 200, FEWEST_IN_GROUP - 1])
    rows = decided(rng, group, [0.5, 0.5, 0.0])
    names = np.array(["F", "M", "X"])[group]
    found = disparity("demographic_parity_difference", group_rows(rows, {"sex": names}))
    assert found.too_few == ("X",)
    assert found.value < 0.2
    whole = disparity(
        "demographic_parity_difference",
        group_rows(
            decided(rng, np.append(group, 2), [0.5, 0.5, 0.0]), {"sex": np.append(names, "X")}
        ),
    )
    assert whole.too_few == ()
    assert whole.value > 0.4
    few = disparity(
        "demographic_parity_ratio", group_rows(rows.take(group > 0), {"sex": names[group > 0]})
    )
    assert few.value is None
    assert "fewer than two groups" in few.note


def test_more_groups_than_can_be_compared_are_refused():
    rows = Labelled("classification", np.zeros(60, int), np.zeros(60, int), (0, 1))
    with pytest.raises(Invalid, match="60 groups"):
        group_rows(rows, {"id": np.arange(60).astype(str)})


@pytest.mark.slow
@pytest.mark.parametrize("rows", [25, 60, 400])
@pytest.mark.parametrize("selected", [(0.5, 0.5), (0.3, 0.5), (0.05, 0.2), (0.2, 0.3, 0.3, 0.5)])
@pytest.mark.parametrize("form", ["difference", "ratio"])
def test_intervals_hold_the_true_value(rows, selected, form):
    """At least 93.5 in a hundred of 2,000 intervals of 95 %: see `coverage` for the figures."""
    assert coverage(rows, selected, form) >= 0.935


def coverage(rows, selected, form, draws=2_000):
    """The share of intervals that hold the true disparity of rates."""
    rng = np.random.default_rng(rows)
    group = np.repeat(np.arange(len(selected)), rows)
    names = {"group": group.astype(str)}
    low, high = min(selected), max(selected)
    true = high - low if form == "difference" else low / high
    held = 0
    for _ in range(draws):
        found = disparity(
            f"demographic_parity_{form}", group_rows(decided(rng, group, selected), names)
        )
        held += found.value is None or found.lower - 1e-12 <= true <= found.upper + 1e-12
    return held / draws
