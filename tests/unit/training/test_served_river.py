"""A model of river comes back from JSON as it was, and no other code comes with it."""

from __future__ import annotations

import json

import pytest
from river import (
    datasets,
    drift,
    ensemble,
    forest,
    linear_model,
    naive_bayes,
    neighbors,
    preprocessing,
    rules,
    tree,
)

from bascule.core import Untrusted
from bascule.training import opened as opened_model
from bascule.training.served_river import opened, saved

ROWS = list(datasets.Phishing())[:500]
MODELS = {
    "arf": lambda: forest.ARFClassifier(n_models=2, seed=1),
    "bayes": naive_bayes.GaussianNB,
    "drift": lambda: drift.DriftRetrainingClassifier(naive_bayes.GaussianNB(), drift.binary.DDM()),
    "efdt": lambda: tree.ExtremelyFastDecisionTreeClassifier(grace_period=50),
    "knn": lambda: neighbors.KNNClassifier(engine=neighbors.SWINN(seed=1)),
    "logistic": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "mondrian": lambda: forest.AMFClassifier(n_estimators=2, seed=1),
    "numpy": lambda: linear_model.BayesianLinearRegression(),
    "passive": linear_model.PAClassifier,
    "rules": lambda: rules.AMRules(delta=0.1, n_min=20),
    "trees": lambda: tree.HoeffdingTreeRegressor(grace_period=50),
}
DEAR = {"efdt", "knn"}


def learn(model, rows):
    """What it answers to each before it learns it."""
    answers = []
    for row, truth in rows:
        answers.append(model.predict_one(row))
        model.learn_one(row, truth)
    return answers


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in DEAR)) for name in MODELS],
)
def test_a_model_goes_on_as_it_was(name):
    model = MODELS[name]()
    learn(model, ROWS[:300])
    other = opened(saved(model))
    assert saved(other) == saved(model)
    assert learn(other, ROWS[300:]) == learn(model, ROWS[300:])


def test_generators_without_a_seed_make_no_difference_and_get_one_when_read():
    models = [ensemble.BaggingClassifier(naive_bayes.GaussianNB(), n_models=2) for _ in range(2)]
    first, second = map(saved, models)
    assert first == second
    draws = [opened(first, seed)._rng.random() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_a_generator_with_a_seed_goes_on_where_it_was():
    model = ensemble.BaggingClassifier(naive_bayes.GaussianNB(), n_models=2, seed=4)
    other = opened(saved(model))
    assert other._rng.random() == model._rng.random()


@pytest.mark.parametrize(
    "node",
    [
        {"is": "name", "of": "os:system"},
        {"is": "name", "of": "builtins:eval"},
        {"is": "call", "of": "subprocess:Popen", "args": ["touch ran"]},
        {"is": "new", "of": "posix:system", "args": ["touch ran"]},
        {"is": "call", "of": "river.datasets.base:RemoteDataset", "args": []},
        {"is": "name", "of": "river.stream.cache:Cache"},
        {"is": "name", "of": "river.base.base:inspect.os.system"},
        {"is": "name", "of": "river.utils.math:__loader__.exec_module"},
        {"is": "call", "of": "river.proba.gaussian:Gaussian", "args": []},
        {"is": "method", "of": "system", "args": [[1]]},
        {"is": "call", "of": "functools:partial", "args": [[1], "touch ran"]},
        {"is": "array", "of": "O", "order": "C", "data": [[1]]},
        {"is": "array", "of": "<U1000000000", "order": "C", "data": ["a"]},
        {"is": "call", "of": "builtins:str", "args": [[1]]},
        {"is": "call", "of": "copy:deepcopy", "args": [[1]]},
    ],
)
def test_a_file_that_names_other_code_is_refused_and_runs_nothing(node, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = json.dumps([node, {"is": "name", "of": "os:system"}]).encode()
    with pytest.raises(Untrusted, match="cannot be read"):
        opened_model(data)
    assert list(tmp_path.iterdir()) == []


def test_a_file_changes_no_code_of_river():
    function = naive_bayes.GaussianNB._make_gaussian
    node = {"is": "name", "of": "river.naive_bayes.gaussian:GaussianNB._make_gaussian"}
    changed = {**node, "state": {"__module__": "os", "__kwdefaults__": None}}
    assert opened(json.dumps([changed]).encode()) is function
    assert function.__module__ == "river.naive_bayes.gaussian"


def test_what_would_grow_without_end_is_not_made():
    tuples = [{"is": "tuple", "items": [[place + 2]] * 2} for place in range(60)]
    text = {"is": "call", "of": "builtins:str", "args": [[1]]}
    with pytest.raises(Untrusted, match="str is not called"):
        opened_model(json.dumps([text, *tuples, {"is": "list", "items": []}]).encode())


@pytest.mark.parametrize("data", [b"[", b"[{}]", b"[[0]]", b'[{"is": "tuple", "items": [[0]]}]'])
def test_a_damaged_file_is_refused(data):
    with pytest.raises(Untrusted, match="cannot be read"):
        opened_model(data)
