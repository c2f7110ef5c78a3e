"""Fairness as a gate, as a report, and in production."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from fairlearn import metrics as fairlearn
from sklearn.linear_model import LinearRegression, LogisticRegression

import bascule
from bascule.core import Invalid
from bascule.release import (
    Criterion,
    check,
    held_out_fairness,
    join_attributes,
)
from bascule.release.conditions import Groups
from bascule.release.measure import measure

T0 = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def people():
    """Applicants: sex is an input of the model, race is known beside it."""
    random = np.random.default_rng(5)
    n = 1_600
    table = pd.DataFrame({"income": random.normal(size=n), "sex": random.integers(0, 2, n)})
    race = random.choice(["a", "b"], n)
    paid = (table.income + 0.8 * table.sex + random.normal(size=n) > 0.2).astype(int)
    return table, race, paid.to_numpy()


@pytest.fixture(scope="module")
def lender(people, packed):
    table, _, paid = people
    model = LogisticRegression().fit(table[:800], paid[:800])
    return bascule.load(
        packed("lender", model, (table[:800], paid[:800]), (table[800:], paid[800:]))
    )


def test_a_gate_on_groups_is_judged_by_its_value_and_says_its_interval(lender, people):
    table, _, paid = people
    answers = lender.predict(table[800:])["label"]
    expected = fairlearn.equalized_odds_difference(
        paid[800:], answers, sensitive_features=table.sex[800:]
    )
    report = check(
        lender,
        [f"equalized_odds_difference[sex] <= {expected + 1e-9}", "accuracy_difference[sex] <= 0"],
        now=T0, by="ann", record=lambda _: None,
    )  # fmt: skip
    assert report.results[0].passed
    assert not report.results[1].passed
    assert report.results[0].value == pytest.approx(expected)
    assert "95 % interval" in report.results[0].reason
    assert "of 0 is least and of 1 most" in report.results[0].reason


def test_what_the_model_does_not_take_is_joined_by_id(lender, people):
    table, race, paid = people
    ids = np.arange(800, 1_600)
    order = np.random.default_rng(0).permutation(ids)
    register = pa.table({"id": order.astype(str), "race": race[order], "age": order})
    joined = join_attributes(ids, register.slice(0, 790), "id")
    assert sum(value is None for value in joined["race"]) == 10
    joined = join_attributes(ids, register, "id")
    np.testing.assert_array_equal(joined["race"], race[800:])
    criterion = Criterion.parse("demographic_parity_ratio[sex * race] >= 0.5")
    assert criterion.condition == Groups(("sex", "race"))
    assert str(criterion) == "demographic_parity_ratio[sex*race] >= 0.5"
    with pytest.raises(Invalid, match="no column 'race'"):
        check(lender, [criterion], now=T0, by="ann", record=lambda _: None)
    found = measure(
        lender, [criterion], test=(table[800:], paid[800:]), attributes=joined
    )[criterion.measure]  # fmt: skip
    expected = fairlearn.demographic_parity_ratio(
        paid[800:], lender.predict(table[800:])["label"],
        sensitive_features=pd.DataFrame({"sex": table.sex[800:], "race": race[800:]}),
    )  # fmt: skip
    assert found.value == pytest.approx(expected)


def test_python_takes_attributes_of_any_kind(lender, people, tmp_path, monkeypatch):
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))
    table, race, paid = people
    folder = shutil.copytree(lender.path, tmp_path / "lender")
    report = bascule.check(
        folder, ["accuracy_difference[race] <= 0.5"], test=(table[800:], paid[800:]),
        attributes={"race": pd.Series(race[800:])},
    )  # fmt: skip
    assert report.passed


@pytest.mark.parametrize(
    ("register", "complaint"),
    [
        ({"id": [1, 1], "race": ["a", "b"]}, "has an id of 'id' twice"),
        ({"id": [7], "race": ["a"]}, "none of the rows' ids"),
        ({"key": [1], "race": ["a"]}, "no column 'id'"),
    ],
)
def test_attributes_that_cannot_be_joined_are_refused(register, complaint):
    with pytest.raises(Invalid, match=complaint):
        join_attributes(np.array([1, 2]), pa.table(register), "id")


def test_ids_are_texts_and_a_number_is_the_same_with_a_fraction_of_zero():
    register = pa.table({"id": ["7", "007", "8"], "race": ["a", "b", "c"]})
    joined = join_attributes(np.array(["007", "7", "8#3", "9"]), register, "id")
    assert joined["race"].tolist() == ["b", "a", "c", None]
    joined = join_attributes(np.array([8, 7, np.nan]), register, "id")
    assert joined["race"].tolist() == ["c", "a", None]


def test_a_report_has_every_group_and_how_far_they_lie_apart(lender):
    body = held_out_fairness(lender, ["sex"])
    sexes = body["attributes"]["sex"]
    assert sum(group["rows"] for group in sexes["groups"].values()) == body["rows"] == 800
    assert set(sexes["groups"]["0"]["rates"]) == {
        "selection_rate", "true_positive_rate", "false_positive_rate", "accuracy",
    }  # fmt: skip
    selection = [sexes["groups"][sex]["rates"]["selection_rate"]["value"] for sex in "01"]
    apart = sexes["disparities"]["demographic_parity_difference"]
    assert apart["value"] == pytest.approx(selection[1] - selection[0])
    assert (apart["least"], apart["most"]) == ("0", "1")
    other = held_out_fairness(lender, ["sex"], positive="0")["attributes"]["sex"]["groups"]
    assert other["0"]["rates"]["selection_rate"]["value"] == pytest.approx(1 - selection[0])


def test_a_model_of_numbers_has_means_and_errors(people, packed):
    table, _, _ = people
    y = table.income * 2 + table.sex
    model = LinearRegression().fit(table[["income"]], y)
    bundle = bascule.load(packed("linear", model, table[["income"]], (table[["income"]], y)))
    found = measure(
        bundle, [Criterion.parse("mae_difference[sex] <= 1")],
        test=(table[["income"]], y), attributes={"sex": table.sex.to_numpy()},
    )  # fmt: skip
    assert 0 <= found["mae_difference[sex]"].value < 0.1
    with pytest.raises(Invalid, match="is of classification"):
        check(bundle, ["demographic_parity_ratio[income] >= 0"], now=T0, by="a", record=print)


def test_a_group_is_named_even_if_the_gate_says_nothing_without_it():
    for text in ("equalized_odds_difference <= 1", "equalized_odds_difference[sex*sex] <= 1"):
        with pytest.raises(Invalid, match="groups need an attribute"):
            Criterion.parse(text)
