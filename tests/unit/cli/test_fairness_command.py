"""`bascule fairness` and `bascule check --attributes`: what is printed, and what is recorded."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from tests.production import Day, fill, flights, late, packed

import bascule
from bascule.release import reweighing


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("fair"))


@pytest.fixture
def tables(tmp_path):
    """Held-out rows with ids, and a register of what the model does not take."""
    random = np.random.default_rng(7)
    rows = pd.DataFrame(flights(random, 600))
    rows.assign(y=late(random, rows), passenger=range(600)).to_csv("test.csv", index=False)
    ages = random.choice(["young", "old"], 600)
    register = pd.DataFrame({"passenger": range(600), "age": ages}).sample(frac=1, random_state=1)
    register.to_parquet("people.parquet")
    return ("--test=test.csv", "--target=y", "--attributes=people.parquet", "--id=passenger")


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_a_report_is_printed_recorded_and_on_the_card(run, bundle):
    bascule.push(bundle.path)
    code, out, _ = run("fairness", "late/1", "--attribute=carrier", "--positive=late")
    assert code == 0
    assert "1,000 rows of the held-out rows; selected is late" in out
    assert "demographic_parity_difference" in out
    assert "too few to say" in out  # carrier ZZ
    _, card, _ = run("card", "late/1")
    assert "## Fairness" in card
    assert "equalized_odds_difference" in card
    code, out, _ = run("fairness", "late/1", "--attribute=carrier", "--json")
    assert json.loads(out)["attributes"]["carrier"]["disparities"]["accuracy_difference"]["value"]


def test_a_gate_is_judged_on_attributes_that_are_joined(run, bundle, tables):
    criterion = ("-c", "equalized_odds_difference[age*carrier] <= 0.9")
    code, out, messages = run("check", bundle.path, *tables, *criterion)
    assert code == 0, messages
    assert "95 %" in out
    code, _, messages = run("check", bundle.path, *criterion)
    assert code == 2
    assert "joined with --attributes" in messages
    code, _, messages = run("check", bundle.path, *tables[2:], *criterion)
    assert code == 2
    assert "the rows in a bundle have no ids" in messages


def test_the_ledger_is_read_by_version(run, bundle, tmp_path):
    bascule.push(bundle.path)
    fill(tmp_path / "home", bundle, "1", [Day(back, truths=0.5) for back in (3, 2, 1)])
    code, out, _ = run("fairness", "late", "--attribute=carrier", "--from-ledger", "--json")
    assert code == 0
    groups = json.loads(out)["1"]["attributes"]["carrier"]["groups"]
    assert sum(group["rows"] for group in groups.values()) == 600
    code, out, _ = run("fairness", "late", "--attribute=carrier", "--from-ledger")
    assert out.startswith("version 1")
    _, card, _ = run("card", "late/1")
    assert "## Fairness in production" in card
    code, _, messages = run("fairness", "late", "--attribute=age", "--from-ledger")
    assert code == 2
    assert "the ledger has no 'age'" in messages


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("reweigh", "demographic_parity_difference"),
        pytest.param("threshold", "equalized_odds_difference", marks=pytest.mark.slow),
    ],
)
def test_a_model_is_made_fairer_and_says_what_it_changed(run, tmp_path, method, name):
    """One sex is paid more at the same income."""
    random = np.random.default_rng(3)
    rows = pd.DataFrame({"income": random.normal(size=2_000), "sex": random.integers(0, 2, 2_000)})
    paid = rows.income + rows.sex + random.normal(0, 0.5, 2_000) > 0.5
    y = paid.astype(int).to_numpy()
    model = LogisticRegression().fit(rows[:1_200], y[:1_200])
    bascule.pack(
        model, name="pay", train=(rows[:1_200], y[:1_200]), test=(rows[1_200:], y[1_200:]),
        to="pay.bundle", measure=False,
    )  # fmt: skip
    rows[:1_200].assign(y=y[:1_200]).to_csv("train.csv", index=False)
    options = ("--attribute=sex", f"--mitigate={method}", "--target=y", "--to=fairer.bundle")
    code, _, messages = run("fairness", "pay.bundle", *options, "--train=train.csv")
    assert code == 0, messages
    fairer = bascule.load(tmp_path / "fairer.bundle")
    step = fairer.statements("mitigation")[-1].body
    assert step["method"] == method
    assert step["after"][name]["value"] < 0.7 * step["before"][name]["value"]
    assert step["of"] == bascule.load("pay.bundle").digest
    assert fairer.statements("provenance")[0].body["parameters"]["mitigation"]["of"] == step["of"]
    code, _, messages = run("fairness", "pay.bundle", *options)
    assert code == 2
    assert "--train FILE --target COLUMN" in messages


def test_weights_make_group_and_truth_independent():
    random = np.random.default_rng(0)
    groups, truth = random.choice(["a", "b", "c"], 500), random.integers(0, 2, 500)
    truth[groups == "a"] |= random.integers(0, 2, (groups == "a").sum())
    weights = reweighing(groups, truth)
    assert weights.sum() == pytest.approx(500)
    for group in "abc":
        rows = groups == group
        share = np.average(truth[rows], weights=weights[rows])
        assert share == pytest.approx(truth.mean())
