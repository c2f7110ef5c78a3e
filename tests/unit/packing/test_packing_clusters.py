"""Clusters, mixtures, thresholds, transformed targets and projections."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import BisectingKMeans, FeatureAgglomeration, KMeans, MeanShift
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import FactorAnalysis, FastICA
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.random_projection import SparseRandomProjection
from tests.tiers import first_of

from bascule.core.errors import Untrusted

SCALED = make_pipeline(StandardScaler(), LogisticRegression())
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def proven(bundle, *, within=1e-9):
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    assert bundle.parity.max_difference <= within
    return bundle


def named(model):
    return repr(model).replace("\n", "").replace(" ", "")[:60]


@pytest.mark.parametrize(
    "model",
    [
        KMeans(3, n_init=1, random_state=0),
        MeanShift(bandwidth=2.0),
        make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0)),
    ],
    ids=named,
)
def test_clusters_are_numbered_as_the_model_numbers_them(pack, iris, model):
    X, _ = iris
    bundle = proven(pack(model.fit(X), X, X))
    assert bundle.task == "other"
    assert [field.name for field in bundle.signature.outputs] == ["label"]
    assert (bundle.predict(X)["label"] == model.predict(X)).all()


@pytest.mark.parametrize(
    ("kind", "covariance"),
    [
        *((GaussianMixture, each) for each in ("full", "diag", "spherical")),
        (BayesianGaussianMixture, "full"),
    ],
)
def test_a_mixture_answers_the_probability_of_each_component(pack, iris, kind, covariance):
    X, _ = iris
    model = kind(n_components=3, covariance_type=covariance, random_state=0, max_iter=300).fit(X)
    answer = proven(pack(model, X)).predict(X)
    np.testing.assert_allclose(answer["probabilities"], model.predict_proba(X), atol=1e-9)
    assert (answer["label"] == model.predict(X)).all()


def test_clusters_without_a_compiler_are_served_by_the_original(pack, iris):
    X, _ = iris
    model = BisectingKMeans(3, random_state=0).fit(X)
    bundle = pack(model, X, serve_original=True)
    assert bundle.manifest.serves == "original"
    assert (bundle.predict(X)["label"] == model.predict(X)).all()


@pytest.mark.parametrize("width", [3, 5])
def test_centers_of_other_rows_are_refused_before_compiled_code_reads_them(pack, iris, width):
    """The rows have four columns: centers of fewer or more lead outside of an array."""
    from bascule.bundle.originals.structures import check_estimator

    model = KMeans(3, n_init=1).fit(iris[0])
    check_estimator(model, "model")
    model.cluster_centers_ = np.zeros((3, width))
    with pytest.raises(Untrusted, match="centers are of other rows"):
        check_estimator(model, "model")


@pytest.mark.parametrize(
    "model",
    first_of(
        [
            FixedThresholdClassifier(SCALED, threshold=0.2),
            FixedThresholdClassifier(SCALED, threshold=0.2, pos_label=0),
            FixedThresholdClassifier(SCALED, threshold=1.5, response_method="decision_function"),
            TunedThresholdClassifierCV(SCALED, cv=2),
        ],
        3,
    ),
    ids=named,
)
def test_a_threshold_decides_the_label_and_leaves_the_probabilities(pack, cancer, model):
    X, y = cancer
    model.fit(X, y)
    answer = proven(pack(model, X, (X, y))).predict(X)
    assert (answer["label"] == model.predict(X)).all()
    np.testing.assert_allclose(answer["probabilities"], model.predict_proba(X), atol=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1),
        TransformedTargetRegressor(Ridge(), transformer=StandardScaler()),
        DummyRegressor(),
        make_pipeline(FastICA(4, random_state=0, whiten="unit-variance"), Ridge()),
        make_pipeline(FactorAnalysis(3), Ridge()),
        make_pipeline(SparseRandomProjection(4, random_state=0), Ridge()),
        make_pipeline(FeatureAgglomeration(3), Ridge()),
        make_pipeline(RBFSampler(gamma=0.1, random_state=0), Ridge()),
        make_pipeline(KMeans(3, n_init=1, random_state=0), Ridge()),
    ],
    ids=named,
)
def test_transformed_targets_and_projections_are_compiled(pack, diabetes, model):
    X, y = diabetes
    proven(pack(model.fit(X, y), X, (X, y)), within=1e-6)


def test_a_constant_classifier_answers_any_row(pack, iris):
    X, y = iris
    answer = proven(pack(DummyClassifier().fit(X, y), X, (X, y))).predict(X[:2] * np.nan)
    assert answer["probabilities"].tolist() == [[1 / 3, 1 / 3, 1 / 3]] * 2


@pytest.mark.parametrize(
    ("order", "add_indicator"), first_of([("ascending", False), ("roman", True)])
)
def test_missing_values_are_estimated_from_the_other_columns(pack, diabetes, order, add_indicator):
    X, y = diabetes
    X = X.copy()
    X[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
    imputer = IterativeImputer(
        max_iter=3, imputation_order=order, add_indicator=add_indicator, random_state=0
    )
    model = make_pipeline(imputer, LinearRegression()).fit(X, y)
    proven(pack(model, X, (X, y)), within=1e-8)
