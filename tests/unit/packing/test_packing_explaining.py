"""Shapley values beside their definition: every coalition of columns, asked one by one."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from itertools import chain, combinations, product
from math import factorial

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor

import bascule
from bascule.bundle import disk, load
from bascule.bundle.explaining import (
    EXPLAINING_KIND,
    measured_of,
    open_explainer,
    read_explanation,
    to_files,
    trees as explained_trees,
)
from bascule.core import Invalid, ModelFailed, Untrusted
from bascule.packing import rebuild

ROWS = np.random.default_rng(5)


def shapley(value, players):
    """From the definition; `value(coalition)` has any shape."""
    empty = value(())
    made = np.zeros((players, *np.shape(empty)))
    for j in range(players):
        others = [i for i in range(players) if i != j]
        subsets = chain.from_iterable(combinations(others, k) for k in range(players))
        for subset in subsets:
            size = len(subset)
            weight = factorial(size) * factorial(players - size - 1) / factorial(players)
            made[j] += weight * (value((*subset, j)) - value(subset))
    return made


def over_rows(margin, row, background):
    """The interventional value of a coalition: its columns from the row, others from each row."""

    def value(coalition):
        mixed = background.copy()
        for column in coalition:
            if isinstance(mixed, pd.DataFrame):
                mixed.isetitem(column, [row.iloc[column]] * len(mixed))
            else:
                mixed[:, column] = row[column]
        return np.asarray(margin(mixed)).reshape(len(mixed), -1).mean(axis=0)

    return value


def over_shares(tree, row):
    """The path-dependent value of a coalition in one tree of scikit-learn."""

    def expected(node, coalition):
        left, right = tree.children_left[node], tree.children_right[node]
        if left < 0:
            return tree.value[node, 0]
        if tree.feature[node] in coalition:
            goes_left = np.float32(row[tree.feature[node]]) <= tree.threshold[node]
            return expected(left if goes_left else right, coalition)
        weights = tree.weighted_n_node_samples
        both = weights[left] * expected(left, coalition) + weights[right] * expected(
            right, coalition
        )
        return both / weights[node]

    return lambda coalition: expected(0, coalition)


def packed(model, X, y, path, **more):
    return bascule.pack(model, name="m", train=(X, y), to=path / "b", measure=False, **more)


def explainer_of(bundle):
    return open_explainer(
        bundle.path, bundle.manifest, read_explanation(bundle.path, bundle.manifest)
    )


def attributions(bundle, rows):
    """Shape (rows, columns, outputs)."""
    explanation = read_explanation(bundle.path, bundle.manifest)
    answer = bundle.predict(rows, parameters={"explain": True})
    shape = (len(rows), len(explanation.columns), len(explanation.outputs))
    return answer["attributions"].reshape(shape)


@pytest.fixture(scope="module")
def numbers():
    X = ROWS.normal(size=(300, 4))
    return X, (X[:, 0] * X[:, 1] + np.sin(X[:, 2]) > 0).astype(int) + (X[:, 3] > 1)


@pytest.fixture(scope="module")
def people():
    n = 60
    table = pd.DataFrame(
        {
            "age": ROWS.normal(40, 10, n),
            "city": ROWS.choice(list("abc"), n),
            "income": ROWS.normal(3, 1, n),
        }
    )
    table.loc[::9, "age"] = np.nan
    y = (table.age.fillna(30) > 40).astype(int) + (table.city == "b") > 0
    return table, y.astype(int).to_numpy()


def prepared(last):
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    encoded = OneHotEncoder(handle_unknown="ignore")
    return make_pipeline(
        make_column_transformer((numbers, ["income", "age"]), (encoded, ["city"])), last
    )


@pytest.mark.parametrize(
    "model",
    [
        DecisionTreeRegressor(max_depth=7, random_state=0),  # columns are tested again below
        RandomForestClassifier(3, max_depth=4, random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_path_dependent_values_are_those_of_the_definition(numbers, tmp_path, monkeypatch, model):
    """For rows of a block together, and one by one."""
    X, y = numbers
    bundle = packed(model.fit(X, y), X, y, tmp_path)
    members = getattr(model, "estimators_", [model])
    expected = [
        np.mean([shapley(over_shares(one.tree_, row), 4) for one in members], axis=0)
        for row in X[:4]
    ]
    assert attributions(bundle, X[:4]) == pytest.approx(np.array(expected), abs=1e-12)
    for name, value in (("_FEW_ROWS", 0), ("_FEW_ROWS", 10)):
        monkeypatch.setattr(explained_trees, name, value)
        again = attributions(bascule.load(bundle.path), X[:4])
        assert again == pytest.approx(np.array(expected), abs=1e-12)


@pytest.mark.parametrize(
    ("model", "margin"),
    [
        (GradientBoostingClassifier(n_estimators=4, random_state=0), "decision_function"),
        (HistGradientBoostingClassifier(max_iter=3, random_state=0), "decision_function"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_interventional_values_are_those_of_the_definition(numbers, tmp_path, model, margin):
    X, y = numbers
    X = X[:40].copy()
    if isinstance(model, HistGradientBoostingClassifier):
        X[::5, 0] = np.nan
    model.fit(X, y[:40])
    bundle = packed(model, X, y[:40], tmp_path, explain=len(X))
    expected = [shapley(over_rows(getattr(model, margin), row, X), 4) for row in X[:4]]
    assert attributions(bundle, X[:4]) == pytest.approx(np.array(expected), abs=1e-12)
    assert read_explanation(bundle.path, bundle.manifest).background_rows == 40


@pytest.mark.parametrize(
    ("last", "explain"),
    [
        (LogisticRegression(), True),
        (GradientBoostingClassifier(n_estimators=5, random_state=0), 60),
    ],
    ids=["linear", "trees"],
)
def test_encoded_columns_are_explained_as_the_columns_that_were_sent(
    people, tmp_path, last, explain
):
    table, y = people
    model = prepared(last).fit(table, y)
    bundle = packed(model, table, y, tmp_path, explain=explain)
    rows = [0, 9]
    expected = [
        shapley(over_rows(model.decision_function, table.iloc[row], table), 3) for row in rows
    ]
    found = attributions(bundle, table.iloc[rows])
    assert found == pytest.approx(np.array(expected), abs=1e-12)
    explanation = read_explanation(bundle.path, bundle.manifest)
    assert explanation.columns == ("age", "city", "income")
    assert (explanation.link, explanation.outputs) == ("logit", ("1",))


def test_words_are_explained_as_the_column_of_texts(tmp_path):
    texts = ["good movie", "bad film", "great good thing", "awful bad stuff"] * 9
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0] * 9)
    bundle = packed(model, texts, [1, 0, 1, 0] * 9, tmp_path)
    margins = model.decision_function(texts)
    expected = margins[:4] - margins.mean()
    assert attributions(bundle, texts[:4])[:, 0, 0] == pytest.approx(expected, abs=1e-12)


def test_several_classes_have_attributions_each(numbers, tmp_path):
    X, y = numbers
    model = LogisticRegression().fit(X, y)
    bundle = packed(model, X, y, tmp_path)
    answer = bundle.predict(X[:7], parameters={"explain": True})
    centred = X[:7, :, None] - X.mean(axis=0)[:, None]
    assert answer["attributions"] == pytest.approx(centred * model.coef_.T, abs=1e-12)
    assert answer["attributions_base"][0] == pytest.approx(
        model.decision_function(X).mean(axis=0), abs=1e-12
    )


KINDS = ["sklearn", "histogram", "forest", "xgboost", "lightgbm", "catboost"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "classes"),  # shap knows no GradientBoostingClassifier of three classes
    [case for case in product(KINDS, (0, 2, 3)) if case != ("sklearn", 3)],
)
def test_path_dependent_values_are_those_of_shap(tmp_path, kind, classes):
    """On 30 columns with missing values; XGBoost rounds its own values to floats."""
    X = ROWS.normal(size=(1500, 30))
    score = X[:, :10].sum(axis=1) + X[:, 0] * X[:, 1]
    y = score if not classes else np.digitize(score, [-1, 1][: classes - 1])
    model = tree_model(kind, classes)
    if kind != "sklearn":
        X[ROWS.random(X.shape) < 0.1] = np.nan
    model.fit(X, y)
    bundle = packed(model, X, y, tmp_path)
    with warnings.catch_warnings(action="ignore"):
        import shap  # it takes seconds, and the other tests need none of it

        expected = shap.TreeExplainer(model).shap_values(X, check_additivity=False)
    found = attributions(bundle, X)
    largest = float(np.abs(expected).max())
    within = 1e-5 * largest if kind == "xgboost" else 1e-9
    assert found == pytest.approx(np.reshape(expected, found.shape), abs=within)


def tree_model(kind, classes):
    import catboost
    import lightgbm
    import xgboost

    own = {
        "sklearn": (GradientBoostingRegressor, GradientBoostingClassifier, {}),
        "histogram": (HistGradientBoostingRegressor, HistGradientBoostingClassifier, {}),
        "forest": (RandomForestRegressor, RandomForestClassifier, {"max_depth": 8}),
        "xgboost": (xgboost.XGBRegressor, xgboost.XGBClassifier, {"max_depth": 4}),
        "lightgbm": (lightgbm.LGBMRegressor, lightgbm.LGBMClassifier, {"verbose": -1}),
        "catboost": (
            catboost.CatBoostRegressor, catboost.CatBoostClassifier,
            {"verbose": 0, "allow_writing_files": False},
        ),
    }[kind]  # fmt: skip
    count = "max_iter" if kind == "histogram" else "n_estimators"
    return own[bool(classes)](**{count: 30}, **own[2])


@pytest.fixture(scope="module")
def boosted(numbers, tmp_path_factory):
    X, y = numbers
    model = GradientBoostingClassifier(n_estimators=5, random_state=0).fit(X, y > 0)
    return packed(model, X, y > 0, tmp_path_factory.mktemp("explained"))


def test_the_largest_are_kept_and_the_rest_stays_in_the_sum(boosted, numbers):
    X, _ = numbers
    whole = boosted.predict(X, parameters={"explain": True})
    few = boosted.predict(X, parameters={"explain": "top2"})
    assert (np.count_nonzero(few["attributions"], axis=1) <= 2).all()
    kept = few["attributions"] != 0
    assert few["attributions"][kept].tolist() == whole["attributions"][kept].tolist()
    assert np.abs(whole["attributions"])[~kept].max() <= np.abs(few["attributions"]).max()
    total = few["attributions"].sum(axis=1) + few["attributions_rest"]
    assert total == pytest.approx(whole["attributions"].sum(axis=1), abs=1e-12)
    assert not whole["attributions_rest"].any()
    assert list(boosted.predict(X, parameters={"explain": False})) == ["label", "probabilities"]


@pytest.mark.parametrize("value", [True, "top2"])
def test_no_rows_have_no_attributions(boosted, value):
    (extra,) = [one for one in boosted.extras if one.name == "explain"]
    outputs = {"probabilities": np.empty((0, 2))}
    added = extra.add({"input": np.empty((0, 4))}, outputs, (value,))
    assert {name: values.shape for name, values in added.items()} == {
        "attributions": (0, 4), "attributions_base": (0,), "attributions_rest": (0,)
    }  # fmt: skip


@pytest.mark.parametrize("value", ["top0", "best", 3, 1.0, "top-1"])
def test_what_asks_for_nothing_known_is_refused(boosted, numbers, value):
    with pytest.raises(Invalid, match="is not true, or a text such as top5"):
        boosted.predict(numbers[0][:1], parameters={"explain": value})


def test_an_explanation_that_does_not_add_up_is_an_error(boosted, numbers):
    (extra,) = [one for one in boosted.extras if one.name == "explain"]
    rows = {"input": numbers[0][:3]}
    outputs = dict(boosted.predict(numbers[0][:3]))
    assert len(extra.add(rows, outputs, (True,))["attributions"]) == 3
    outputs["probabilities"] = outputs["probabilities"][::-1]
    with pytest.raises(ModelFailed, match="differ from the answer"):
        extra.add(rows, outputs, (True,))


def test_a_bundle_without_explanations_says_what_to_do(numbers, tmp_path):
    X, y = numbers
    bundle = packed(Ridge().fit(X, y), X, y, tmp_path, explain=False)
    assert disk.EXPLAINING not in bundle.manifest.files
    with pytest.raises(Invalid, match="holds no explanations") as refused:
        bundle.predict(X, parameters={"explain": True})
    assert "pack the model again" in refused.value.hint


@pytest.mark.parametrize("explain", [-1, "all", None])
def test_a_background_is_a_number_of_rows(numbers, tmp_path, explain):
    X, y = numbers
    with pytest.raises(Invalid, match="is not true, false or a number of rows"):
        packed(Ridge().fit(X, y), X, y, tmp_path, explain=explain)


def test_features_of_several_columns_are_left_to_other_methods(numbers, tmp_path):
    X, y = numbers
    model = make_pipeline(PCA(2), Ridge()).fit(X, y)
    bundle = packed(model, X, y, tmp_path)
    if disk.EXPLAINING in bundle.manifest.files:
        assert read_explanation(bundle.path, bundle.manifest).method not in ("trees", "linear")
        return
    (statement,) = bundle.statements("explaining")
    assert "a feature is made of several columns" in statement.body["told"]


@pytest.mark.slow
def test_the_same_model_gives_the_same_files_and_is_rebuilt(numbers, tmp_path):
    X, y = numbers
    model = GradientBoostingRegressor(n_estimators=3, random_state=0).fit(X, y)
    digests = []
    for explain in (True, 20):
        bundle = packed(model, X, y, tmp_path / f"{explain}", explain=explain)
        rebuilt = rebuild(bundle.path, train=(X, y))
        assert rebuilt.same, rebuilt.differences
        digests.append(bundle.digest)
        measured = measured_of(bundle.path)
        assert measured.error < 1e-9
        assert 0 < measured.row_cost_s <= measured.one_row_s
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays: arrays["nodes"]["column"].__setitem__(1, 4),  # beyond the last
        lambda arrays: arrays["nodes"]["place"].__setitem__(1, 4),
        lambda arrays: arrays["nodes"]["parent"].__setitem__(1, 1),  # its own parent
        lambda arrays: arrays["nodes"]["above"].__setitem__(2, 2),
        lambda arrays: arrays["nodes"]["right"].__setitem__(0, 10_000),
        lambda arrays: arrays["nodes"]["flags"].__setitem__(1, -1),
        lambda arrays: arrays["firsts"].__setitem__(-1, 10_000),
        lambda arrays: arrays.__setitem__("nodes", arrays["nodes"]["parent"].copy()),
        lambda arrays: arrays.pop("nodes"),
    ],
)
def test_numbers_that_lead_out_of_memory_are_refused(boosted, tmp_path, damage):
    explanation = read_explanation(boosted.path, boosted.manifest)
    arrays = dict(np.load(boosted.path / disk.EXPLAINING_ARRAYS))
    damage(arrays)
    manifest = boosted.manifest
    files = dict(manifest.files)
    for name, data in to_files(explanation, arrays).items():
        files[name] = disk.write_file(tmp_path, name, data)
    with pytest.raises(Untrusted):
        open_explainer(tmp_path, replace(manifest, files=files), explanation)


def test_the_command_shows_bars_and_json(command, boosted, numbers, tmp_path):
    np.save(tmp_path / "rows.npy", numbers[0][:3])
    code, out, _ = command("explain", boosted.path, tmp_path / "rows.npy", "--json", "--top=2")
    assert code == 0
    rows = json.loads(out)
    assert [row["row"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert len(row["attributions"]) <= 2
        share = 1 / (1 + np.exp(-row["margin"]))
        assert share == pytest.approx(row["answer"]["probabilities"][1], abs=1e-6)
    code, out, messages = command("explain", boosted.path, tmp_path / "rows.npy", "--rows=1")
    assert code == 0
    assert out.count("row ") == 1
    assert set("█░") & set(out)
    assert "exact path-dependent Shapley values" in messages


def test_a_program_that_would_keep_a_server_busy_is_not_sampled(costly_bundle):
    statement = load(costly_bundle).statements(EXPLAINING_KIND)[-1]
    assert "would ask a program of" in statement.body["told"]
