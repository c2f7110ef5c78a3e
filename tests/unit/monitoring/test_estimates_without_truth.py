"""Estimates without truth are as near as NannyML's, on the data that it ships.

`THEIRS` is the mean absolute error of CBPE and DLE of NannyML 0.13.1 over the same chunks (pandas
2, scikit-learn 1.9, LightGBM 4.5). Here only its files are read.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.own_environments import packages_of

from bascule.metrics import Labelled, estimate
from bascule.monitoring.performance import estimator_of

pytestmark = pytest.mark.slow

THEIRS = {
    "car_loan": {
        "auc": 0.002115, "accuracy": 0.003112, "f1": 0.002575, "precision": 0.008042,
        "recall": 0.010858,
    },
    "employment": {
        "auc": 0.002953, "accuracy": 0.004300, "f1": 0.005202, "precision": 0.010402,
        "recall": 0.006838,
    },
    "cards": {
        "auc": 0.033665, "accuracy": 0.037825, "f1_macro": 0.037220, "precision_macro": 0.036246,
        "recall_macro": 0.036542,
    },
    "car_price": {"mae": 10.2859, "mse": 26846.3, "rmse": 14.0945},
}  # fmt: skip
ROUNDING = 1.005
"""Half a percent: the pair of a row with itself counts in their area under the curve."""


@pytest.fixture(scope="module")
def data():
    return packages_of("nannyml") / "nannyml" / "datasets" / "data"


def compare(name, reference, rows, chunk, inputs=(None, None)):
    estimator = estimator_of(reference, inputs[0])
    chunks = np.split(np.arange(len(rows)), range(chunk, len(rows) - chunk // 2, chunk))
    missed = {metric: [] for metric in THEIRS[name]}
    for places in chunks:
        part = rows.take(places)
        asked = inputs[1] and {column: values[places] for column, values in inputs[1].items()}
        found = estimator.estimate(part, asked)
        for metric, values in missed.items():
            values.append(abs(found[metric] - estimate(metric, part).value))
    for metric, values in missed.items():
        assert np.mean(values) <= THEIRS[name][metric] * ROUNDING, metric


def of_two(table, truth, answer, chance):
    chances = np.column_stack([1 - table[chance], table[chance]])
    truths, answers = (table[name].to_numpy(int) for name in (truth, answer))
    return Labelled("classification", truths, answers, (0, 1), chances)


def test_of_car_loans(data):
    reference, later, truth = (
        pd.read_csv(data / f"synthetic_car_loan_{part}.csv")
        for part in ("reference", "analysis", "analysis_target")
    )
    names = ("repaid", "y_pred", "y_pred_proba")
    later = later.merge(truth, on="id")
    compare("car_loan", of_two(reference, *names), of_two(later, *names), 5_000)


def test_of_employment_in_a_census(data):
    reference, later, truth = (
        pd.read_parquet(data / f"employment_MA_{part}.pq")
        for part in ("reference", "analysis", "analysis_target")
    )
    names = ("employed", "prediction", "predicted_probability")
    later = later.merge(truth, on="id")
    compare("employment", of_two(reference, *names), of_two(later, *names), 10_000)


def test_of_three_kinds_of_cards(data):
    kinds = ["highstreet_card", "prepaid_card", "upmarket_card"]

    def labelled(table):
        truth, answers = (table[name].map(kinds.index).to_numpy() for name in ("y_true", "y_pred"))
        chances = table[[f"y_pred_proba_{kind}" for kind in kinds]].to_numpy()
        return Labelled("classification", truth, answers, kinds, chances)

    later = pd.read_csv(data / "mc_analysis.csv").merge(pd.read_csv(data / "mc_analysis_gt.csv"))
    reference = pd.read_csv(data / "mc_reference.csv")
    compare("cards", labelled(reference), labelled(later), 6_000)


def test_of_prices_of_cars(data):
    reference, later, truth = (
        pd.read_csv(data / f"regression_synthetic_{part}.csv")
        for part in ("reference", "analysis", "analysis_targets")
    )
    columns = (
        "car_age", "km_driven", "price_new", "accident_count", "door_count", "fuel", "transmission",
    )  # fmt: skip

    def inputs(table):
        return {
            name: table[name].to_numpy(None if table[name].dtype.kind in "if" else object)
            for name in columns
        }

    def labelled(table, truths):
        return Labelled("regression", truths.to_numpy(float), table.y_pred.to_numpy(float))

    compare(
        "car_price", labelled(reference, reference.y_true), labelled(later, truth.y_true), 6_000,
        (inputs(reference), inputs(later)),
    )  # fmt: skip
