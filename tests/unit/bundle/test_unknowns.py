"""How many unknowns a model has, read from its compiled graph."""

from __future__ import annotations

import pytest

from bascule.bundle.programs import count_unknowns
from bascule.serving.execution.limiting import unknowns_of


def test_a_ridge_regression_has_a_weight_for_each_column_and_one_more(regressor_bundle):
    assert unknowns_of(regressor_bundle, "ridge") == 10 + 1


def test_a_softmax_regression_has_those_of_each_class(packed, iris):
    from sklearn.linear_model import LogisticRegression

    X, y = iris
    path = packed("softmax", LogisticRegression(max_iter=500).fit(X, y), X)
    assert unknowns_of(path, "softmax") == (4 + 1) * 3


def test_trees_have_their_leaves(cancer_bundle):
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier

    model = GradientBoostingClassifier(random_state=0).fit(*load_breast_cancer(return_X_y=True))
    leaves = sum(tree.get_n_leaves() for tree in model.estimators_.ravel())
    assert unknowns_of(cancer_bundle, "gb") == pytest.approx(leaves, abs=2), "and a base value"


def test_bytes_without_a_graph_have_none():
    assert count_unknowns(b"") == 0
