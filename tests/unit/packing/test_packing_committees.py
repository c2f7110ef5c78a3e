"""Models made of models, calibrated ones, and machines of support vectors."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    GradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, PowerTransformer, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, NuSVC, NuSVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from tests.tiers import first_of

from bascule.bundle.programs.onnx import open_onnx
from bascule.core.fields import DType, Field
from bascule.packing.compilers.graph import Graph
from bascule.packing.compilers.piecewise import piecewise_linear

WORDS = np.array(["setosa", "versicolor", "virginica"])


def proven(bundle, *, within=1e-12):
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    assert bundle.parity.max_difference <= within
    assert bundle.parity.label_differences == 0
    return bundle


def named(model):
    return repr(model).replace("\n", "").replace(" ", "")[:70]


BASES = (
    GaussianNB(),
    make_pipeline(StandardScaler(), LinearSVC()),
    RandomForestClassifier(5, random_state=0),
    GradientBoostingClassifier(n_estimators=3, random_state=0),
    SVC(),
)
METHODS = ("sigmoid", "isotonic", "temperature")


def is_other(pair):
    """Neither of the base that is tried by each method, nor of the method that tries each base."""
    return pair[0] is not BASES[0] and pair[1] != METHODS[0]


@pytest.mark.parametrize(
    ("base", "method"),
    first_of(sorted(product(BASES, METHODS), key=is_other)),
    ids=named,
)
@pytest.mark.parametrize("classes", first_of([3, 2]))
def test_a_calibrated_classifier_is_compiled(pack, iris, base, method, classes):
    X, y = iris
    y = np.minimum(y, classes - 1)
    model = CalibratedClassifierCV(base, method=method, cv=2).fit(X, WORDS[y])
    bundle = proven(pack(model, X, (X, WORDS[y])), within=1e-10)
    assert bundle.predict(X)["label"].tolist() == model.predict(X).tolist()


def test_a_model_that_was_fitted_before_it_was_calibrated_is_compiled(pack, iris):
    X, y = iris
    search = GridSearchCV(LogisticRegression(max_iter=500), {"C": [0.1, 1.0]}, cv=2).fit(X, y)
    proven(pack(CalibratedClassifierCV(FrozenEstimator(search)).fit(X, y), X))


def test_a_fold_that_never_saw_a_class_gives_it_nothing(pack):
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 3))
    y = np.array(["a", "b", "c", "d"])[random.integers(0, 4, 60)]
    model = CalibratedClassifierCV(LogisticRegression(), cv=2).fit(X, y)
    fold = model.calibrated_classifiers_[0]
    fold.estimator = LogisticRegression().fit(X[y != "b"], y[y != "b"])
    fold.calibrators = fold.calibrators[:3]
    proven(pack(model, X))


XS, YS = np.array([-1.0, 0.0, 1e-9, 2.0, 7.0]), np.array([0.0, 0.1, 0.8, 0.8, 1.0])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_line_through_points_is_that_of_numpy_at_each_point_and_beside_it(count):
    field = Field("x", DType.FP64, (1,))
    graph = Graph((field,))
    made = Field("y", DType.FP64, (1,))
    graph.output(piecewise_linear(graph, "x", XS[:count], YS[:count]), made)
    program = open_onnx(graph.finish(), name="p", file="p", inputs=(field,), outputs=(made,))
    near = np.concatenate([XS, np.nextafter(XS, -9), np.nextafter(XS, 9), [-1e9, 5e-10, 1e9]])
    found = program.run({"x": near.reshape(-1, 1)})["y"].ravel()
    np.testing.assert_allclose(found, np.interp(near, XS[:count], YS[:count]), atol=1e-15)


@pytest.mark.parametrize(
    "members",
    [
        [("a", LogisticRegression(max_iter=500)), ("b", DecisionTreeClassifier(max_depth=2))],
        [("a", make_pipeline(StandardScaler(), SVC())), ("b", RidgeClassifier())],
        [("a", GaussianNB()), ("b", NuSVC(kernel="poly", nu=0.2))],
    ],
    ids=["probabilities", "decisions", "mixed"],
)
@pytest.mark.parametrize(("classes", "passthrough"), first_of(product([3, 2], [True, False])))
def test_a_stack_of_classifiers_is_compiled(pack, iris, members, classes, passthrough):
    X, y = iris
    y = WORDS[np.minimum(y, classes - 1)]
    model = StackingClassifier(members, passthrough=passthrough, cv=2).fit(X, y)
    proven(pack(model, X, (X, y)), within=1e-9)


def test_a_stack_of_labels_and_one_of_numbers_are_compiled(pack, iris, diabetes):
    X, y = iris
    model = StackingClassifier(
        [("a", DecisionTreeClassifier(max_depth=2)), ("b", GaussianNB())], stack_method="predict"
    ).fit(X, WORDS[y])
    proven(pack(model, X))
    X, y = diabetes
    proven(pack(StackingRegressor([("a", Ridge()), ("b", SVR())], cv=2).fit(X, y), X))


def test_a_vote_by_hands_goes_to_the_first_of_a_tie_and_heeds_the_weights(pack, iris):
    X, y = iris
    members = [(str(k), DecisionTreeClassifier(max_features=1, random_state=k)) for k in range(4)]
    equal = VotingClassifier(members).fit(X, WORDS[y])
    weighted = VotingClassifier(members, weights=[1, 1, 1, 2.5]).fit(X, WORDS[y])
    noise = np.random.default_rng(0).normal(size=(500, 4)) + X.mean(axis=0)
    for model in (equal, weighted):
        bundle = proven(pack(model, X))
        assert bundle.predict(noise)["label"].tolist() == model.predict(noise).tolist()
    ballots = np.stack([member.predict(noise) for member in equal.estimators_])
    assert any(sorted(np.bincount(one).tolist())[-2:] == [2, 2] for one in ballots.T)


@pytest.mark.parametrize(
    "model",
    [
        BaggingClassifier(DecisionTreeClassifier(max_depth=3), 5, max_features=0.5),
        BaggingClassifier(LinearSVC(), 4),
        BaggingClassifier(n_estimators=3, max_samples=4),  # some see two classes of three
    ],
    ids=named,
)
def test_a_bag_of_classifiers_is_compiled(pack, iris, model):
    X, y = iris
    proven(pack(model.fit(X, WORDS[y]), X))


def test_a_bag_of_regressors_is_compiled(pack, diabetes):
    X, y = diabetes
    model = BaggingRegressor(DecisionTreeRegressor(max_depth=3), 5, max_features=0.7)
    proven(pack(model.fit(X, y), X))


@pytest.mark.parametrize(
    ("kernel", "classes"),
    first_of(
        [*zip(("rbf", "linear", "poly", "sigmoid", "rbf"), (2, 3, 3, 3, 3), strict=True),
         ("linear", 2), ("poly", 2), ("sigmoid", 2)]
    ),
)  # fmt: skip
def test_support_vectors_are_compiled_in_doubles(pack, iris, diabetes, kernel, classes):
    X, y = iris
    for shape in ("ovr", "ovo"):
        model = SVC(kernel=kernel, decision_function_shape=shape)
        model.fit(X, np.minimum(y, classes - 1))
        proven(pack(model, X))
    X, y = diabetes
    proven(pack(NuSVR(kernel=kernel).fit(X, y), X), within=1e-10)


def test_distances_far_from_the_origin_keep_their_digits(pack):
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 3)) + 1e6
    model = SVR(gamma=1.0).fit(X, np.sin(X[:, 0]))
    proven(pack(model, X), within=1e-9)


@pytest.mark.parametrize(
    "step",
    first_of(
        [
            PowerTransformer(),
            PowerTransformer(standardize=False),
            Normalizer("l1"),
            Normalizer("l2"),
            Normalizer("max"),
        ],
        2,
    ),
    ids=named,
)
def test_powers_and_unit_rows_are_compiled(pack, diabetes, step):
    X, y = diabetes
    X = np.vstack([X, np.zeros(X.shape[1])])
    proven(pack(make_pipeline(step, Ridge()).fit(X, [*y, 0.0]), X))


def test_powers_of_numbers_above_zero_and_the_logarithm_are_compiled(pack, diabetes):
    X, y = diabetes
    model = make_pipeline(PowerTransformer("box-cox"), Ridge()).fit(np.exp(X), y)
    model[0].lambdas_[0] = 0.0
    proven(pack(model, np.exp(X)))
    model = make_pipeline(PowerTransformer(), Ridge()).fit(X, y)
    model[0].lambdas_[:2] = 0.0, 2.0
    proven(pack(model, X))
