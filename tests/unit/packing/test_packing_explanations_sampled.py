"""Explanations of compiled models that are neither trees nor linear: the program is asked."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.neighbors import RadiusNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import bascule
from bascule.bundle import Said, card_page
from bascule.bundle.card_plots import plots
from bascule.bundle.explaining import Sampled, measured_of, open_explainer, read_explanation
from bascule.core import Untrusted


def flights(rows, seed=0):
    random = np.random.default_rng(seed)
    frame = pd.DataFrame({
        "wind": random.normal(10, 4, rows), "distance": random.gamma(3, 300, rows),
        "carrier": random.choice(np.array(["AA", "UA", "B6"], object), rows),
    })  # fmt: skip
    frame.loc[::7, "wind"] = np.nan
    late = np.nan_to_num(frame["wind"], nan=9.0) * (frame["carrier"] == "AA") > 8
    return frame, np.where(late, "late", "ok")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A network over numbers with missing values and texts; measured."""
    X, y = flights(700)
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer(
        (numbers, ["wind", "distance"]), (OneHotEncoder(handle_unknown="ignore"), ["carrier"])
    )
    with warnings.catch_warnings(action="ignore"):
        model = make_pipeline(columns, MLPClassifier((8,), max_iter=60, random_state=0)).fit(
            X[:500], y[:500]
        )
    return bascule.pack(
        model, name="late", train=(X[:500], y[:500]), test=(X[500:], y[500:]),
        to=tmp_path_factory.mktemp("mixed") / "late.bundle",
    )  # fmt: skip


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A regressor of ten columns: more than all coalitions are asked of."""
    X = np.random.default_rng(3).normal(size=(300, 10))
    y = np.sin(X[:, 0] * X[:, 1]) + X[:, 2] * X[:, 3] * X[:, 4]
    with warnings.catch_warnings(action="ignore"):
        model = MLPRegressor(hidden_layer_sizes=(16,), max_iter=80, random_state=0).fit(X, y)
    return bascule.pack(
        model, name="wide", train=(X, y), test=(X[:60], y[:60]), measure=False,
        to=tmp_path_factory.mktemp("wide") / "wide.bundle",
    )  # fmt: skip


def test_attributions_are_in_the_users_columns_and_add_up_to_the_answer(mixed):
    X, _ = flights(20, seed=1)
    answer = mixed.predict(X, parameters={"explain": True})
    explanation = read_explanation(mixed.path, mixed.manifest)
    assert explanation.columns == ("wind", "distance", "carrier")
    assert explanation.outputs == ("late", "ok")
    assert "32 training rows, exact" in explanation.about
    whole = answer["attributions_base"] + answer["attributions"].sum(axis=1)
    np.testing.assert_allclose(whole, answer["probabilities"], atol=1e-9)
    assert np.abs(answer["attributions"][:, 2]).mean() > 0.02


def exact(bundle):
    """Every coalition of the columns against the background of the bundle."""
    explanation = read_explanation(bundle.path, bundle.manifest)
    settings = {**explanation.settings, "pairs": 0}
    return Sampled(replace(explanation, settings=settings), {}, bundle.program)


def test_estimates_are_off_by_what_was_measured_and_always_the_same(wide):
    """The reference asks every coalition of the ten columns."""
    explanation = read_explanation(wide.path, wide.manifest)
    assert "from 14 pairs of permutations" in explanation.about
    explainer = open_explainer(wide.path, wide.manifest, explanation)
    name = wide.signature.inputs[0].name
    rows, every = wide.test_data()[0][name][8:16], exact(wide)
    found, expected = explainer.attributions({name: rows}), every.attributions({name: rows})
    np.testing.assert_allclose(explainer.base, every.base, atol=1e-9)
    np.testing.assert_allclose(found.sum(axis=1), expected.sum(axis=1), atol=1e-9)
    error = measured_of(wide.path).attribution_error
    assert 0 < error < 0.1 * np.abs(expected).max()
    assert np.quantile(np.abs(found - expected), 0.9) < 2 * error
    again = explainer.attributions({name: rows[::-1]})[::-1]
    np.testing.assert_allclose(found, again, atol=1e-12)  # in any company, at any time


@pytest.mark.parametrize("pairs", [0, -1, 10**9])
def test_a_bundle_that_asks_for_too_many_coalitions_is_refused(wide, pairs):
    explanation = read_explanation(wide.path, wide.manifest)
    many = tuple(f"x{place}" for place in range(30))
    settings = {**explanation.settings, "pairs": pairs}
    with pytest.raises(Untrusted, match="too many coalitions"):
        Sampled(replace(explanation, columns=many, settings=settings), {}, wide.program)


@pytest.mark.slow
def test_exact_values_are_those_of_shap_with_the_same_background(wide):
    with warnings.catch_warnings(action="ignore"):
        import shap
    name = wide.signature.inputs[0].name
    background = np.array(read_explanation(wide.path, wide.manifest).settings["rows"][0])
    rows = wide.test_data()[0][name][:4]
    oracle = shap.explainers.Exact(
        lambda X: wide.predict({name: X})["prediction"],
        shap.maskers.Independent(background, max_samples=100),
    )
    expected = oracle(rows)
    every = exact(wide)
    found = every.attributions({name: rows})[:, :, 0]
    np.testing.assert_allclose(found, expected.values, atol=1e-9)
    np.testing.assert_allclose(every.base[0], expected.base_values[0], atol=1e-9)


def test_the_card_shows_importances_and_what_they_are_computed_from(mixed):
    said = Said.of(mixed.statements())
    page = card_page(mixed.manifest, said, plots(mixed))
    section = next(one for one in page.sections if one.title == "Explanations")
    text, table, drawn = section.blocks
    assert "over 200 held-out rows; Shapley values against 32 training rows" in text.text
    assert {row[0] for row in table.rows} == {"wind", "distance", "carrier"}
    values = [float(row[1]) for row in table.rows]
    assert values == sorted(values, reverse=True)
    assert drawn.plots[0].title == "Importances"
    assert {plot.title for plot in drawn.plots[1:]} == {"wind", "distance", "carrier"}
    dependence = mixed.statements("importance")[-1].body["dependence"]["carrier"]
    assert dependence["values"] == ["AA", "B6", "UA"]
    assert list(dependence["answers"]) == ["ok"]
    frame, _ = flights(700)
    asked = frame[500:].assign(carrier="AA")
    mean = mixed.predict(asked)["probabilities"][:, 1].mean()
    assert dependence["answers"]["ok"][0] == pytest.approx(mean, abs=1e-6)


def test_a_model_that_is_not_compiled_has_no_explanations_and_says_why(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = RadiusNeighborsRegressor(5.0).fit(X, X[:, 0])
    bundle = bascule.pack(
        model, name="own", train=X, to=tmp_path / "own", serve_original=True, measure=False
    )
    assert read_explanation(bundle.path, bundle.manifest) is None
    assert "not compiled" in bundle.statements("explaining")[-1].body["told"]
