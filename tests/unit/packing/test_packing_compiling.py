"""What other converters get wrong, and every step that has a compiler here."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, make_pipeline, make_union
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from tests.tiers import first_of

from bascule.packing.compilers.trees import rounded_down

NUMBERS = ["hour", "wind", "gust", "rain"]
WORDS = ["carrier", "airport", "plane"]


def proven(bundle, *, within=1e-12):
    """The compiled program is served, and is as near to the original as doubles allow."""
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    assert bundle.parity.passed
    assert bundle.parity.max_difference <= within
    assert bundle.parity.label_differences == 0
    return bundle


def table_pipeline(last, *, encoder=None, imputer=None):
    return make_pipeline(
        ColumnTransformer(
            [
                ("n", make_pipeline(imputer or SimpleImputer(), StandardScaler()), NUMBERS),
                ("c", encoder or OneHotEncoder(handle_unknown="ignore"), WORDS),
            ],
            sparse_threshold=0,
        ),
        last,
    )


# -- traps ---------------------------------------------------------------------------------------


def test_a_scaler_before_histogram_boosting_does_not_carry_values_over_thresholds(pack, cancer):
    """In floats, this very pipeline is wrong by 0.14."""
    X, y = cancer
    model = make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=30)).fit(X, y)
    proven(pack(model, X, (X, y)))


def test_the_indicator_of_an_imputer_is_compiled(pack, flights):
    table, late = flights
    model = table_pipeline(
        LogisticRegression(max_iter=500), imputer=SimpleImputer(add_indicator=True)
    ).fit(table, late)
    bundle = proven(pack(model, table, (table, late)))
    assert bundle.parity.probes > 0


def test_a_forest_rounds_its_input_to_floats_before_it_compares(pack, cancer):
    X, y = cancer
    # Every threshold of a tree that is grown on whole halves is itself reached by some row.
    X = np.floor(X * 8) / 8 + 1e-9
    model = RandomForestClassifier(20, random_state=0).fit(X, y)
    proven(pack(model, X, (X, y)), within=1e-6)


def test_a_forest_behind_a_scaler_rounds_at_the_same_place(pack, cancer):
    X, y = cancer
    model = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(X, y)
    proven(pack(model, X, (X, y)))


@pytest.mark.parametrize("value", [0.1, -0.1, 0.5, -0.5, 1e-300, -1e-300, 16777217.0, 3.5e38])
def test_a_threshold_is_rounded_down_and_never_up(value):
    (low,) = rounded_down(np.array([value]))
    assert np.float64(low) <= value
    with np.errstate(over="ignore"):
        assert np.float64(np.nextafter(low, np.float32(np.inf))) > value


def test_a_tie_between_trees_goes_to_the_first_class_as_in_the_original(pack):
    """With fully grown trees, 10 of 20 for each class is common on such data."""
    random = np.random.default_rng(0)
    X = random.integers(0, 3, (300, 4)).astype(float)
    y = random.integers(0, 2, 300)
    model = RandomForestClassifier(20, random_state=0).fit(X, y)
    proven(pack(model, X, (X, y)), within=1e-6)


def test_histogram_boosting_on_pandas_categories(pack, flights):
    table, late = flights
    columns = ["hour", "wind", "rain", "plane"]
    model = HistGradientBoostingClassifier(max_iter=20).fit(table[columns], late)
    bundle = proven(pack(model, table[columns], (table[columns], late)))
    assert "plane" in {field.name for field in bundle.signature.inputs if field.nullable}


def test_histogram_boosting_with_categories_in_a_matrix(pack, iris):
    X, y = iris
    X = np.column_stack([X, (np.arange(150) * 7 + y) % 11])
    model = HistGradientBoostingClassifier(max_iter=10, categorical_features=[4]).fit(X, y)
    proven(pack(model, X, (X, y)))


# -- the compilers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoder",
    first_of(
        [
            OneHotEncoder(handle_unknown="ignore", min_frequency=170),
            OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=3),
            OneHotEncoder(drop="first"),
            OneHotEncoder(
                drop="if_binary", min_frequency=150, handle_unknown="infrequent_if_exist"
            ),
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
            OrdinalEncoder(
                handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2
            ),
            make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()),
            make_pipeline(
                SimpleImputer(strategy="constant", fill_value="none", add_indicator=True),
                OneHotEncoder(handle_unknown="ignore"),
            ),
            TargetEncoder(cv=3),
        ]
    ),
    ids=lambda encoder: repr(encoder).replace("\n", "")[:60],
)
def test_an_encoder_of_texts_is_compiled(pack, flights, encoder):
    table, late = flights
    model = table_pipeline(DecisionTreeClassifier(max_depth=5), encoder=encoder).fit(table, late)
    proven(pack(model, table, (table, late)))


@pytest.mark.parametrize(
    "encoder",
    first_of([OneHotEncoder(handle_unknown="ignore"), OrdinalEncoder(), TargetEncoder(cv=3)]),
)
def test_an_encoder_of_numbers_is_compiled(pack, flights, encoder):
    table, late = flights
    model = make_pipeline(
        ColumnTransformer([("c", encoder, ["hour", "rain"])]), LogisticRegression()
    ).fit(table, late)
    proven(pack(model, table, (table, late)))


def test_a_target_encoder_of_three_classes_is_compiled(pack, flights):
    table, _ = flights
    three = table.hour.to_numpy() % 3
    model = make_pipeline(
        ColumnTransformer([("c", TargetEncoder(cv=3), ["carrier", "airport"])]),
        LogisticRegression(),
    ).fit(table, three)
    proven(pack(model, table))


@pytest.mark.parametrize(
    "step",
    first_of(
        [
            MinMaxScaler(clip=True),
            MaxAbsScaler(),
            RobustScaler(),
            StandardScaler(with_mean=False),
            Binarizer(threshold=0.01),
            PCA(4, whiten=True),
            FunctionTransformer(np.exp),
            SelectKBest(k=4),
            FeatureUnion([("a", PCA(2)), ("b", StandardScaler())], transformer_weights={"a": 3.0}),
        ],
        3,
    ),
    ids=lambda step: type(step).__name__,
)
def test_arithmetic_on_numbers_is_compiled(pack, diabetes, step):
    X, y = diabetes
    model = make_pipeline(step, Ridge()).fit(X, y)
    proven(pack(model, X, (X, y)))


def test_missing_flags_alone_are_compiled(pack, flights):
    table, late = flights
    model = make_pipeline(
        ColumnTransformer([("m", make_union(SimpleImputer(), MissingIndicator()), NUMBERS)]),
        GradientBoostingClassifier(n_estimators=5),
    ).fit(table, late)
    proven(pack(model, table, (table, late)))


@pytest.mark.parametrize(
    "model",
    [
        GradientBoostingClassifier(n_estimators=5),
        GradientBoostingClassifier(n_estimators=5, init="zero"),
        RandomForestClassifier(8),
        ExtraTreesClassifier(8),
        DecisionTreeClassifier(max_depth=4),
        HistGradientBoostingClassifier(max_iter=5),
        LogisticRegression(max_iter=5000),
        RidgeClassifier(),
        LinearSVC(),
        GaussianNB(),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("labels", first_of(["text", "int"]))
def test_a_classifier_gives_its_own_labels(pack, iris, model, labels):
    X, y = iris
    y = {"int": y * 5 - 5, "text": np.array(["a", "b", "c"])[y]}[labels]
    model.fit(X, y)
    bundle = proven(pack(model, X, (X, y)), within=1e-6)
    answer = bundle.predict(X)
    assert answer["label"].tolist() == model.predict(X).tolist()
    assert ("probabilities" in answer) == hasattr(model, "predict_proba")
    assert bundle.classes == tuple(model.classes_.tolist())


@pytest.mark.parametrize("two", first_of([[False, True], [0.0, 1.0], [-1, 1]]))
@pytest.mark.parametrize(
    "model", first_of([GradientBoostingClassifier(n_estimators=3), RidgeClassifier()])
)
def test_two_classes_may_be_flags_or_numbers(pack, iris, model, two):
    X, y = iris
    y = np.array(two)[(y == 1).astype(int)]
    model.fit(X, y)
    bundle = proven(pack(model, X), within=1e-6)
    assert bundle.predict(X)["label"].tolist() == model.predict(X).tolist()


def test_boosting_with_the_exponential_loss_is_compiled(pack, cancer):
    X, y = cancer
    model = GradientBoostingClassifier(n_estimators=5, loss="exponential").fit(X, y)
    proven(pack(model, X, (X, y)), within=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        GradientBoostingRegressor(n_estimators=5),
        RandomForestRegressor(8),
        HistGradientBoostingRegressor(max_iter=5, loss="poisson"),
        LinearRegression(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_regressor_is_compiled_in_doubles(pack, diabetes, model):
    X, y = diabetes
    model.fit(X, y)
    bundle = proven(pack(model, X, (X, y)))
    assert np.asarray(bundle.predict(X)).dtype == np.float64
    assert bundle.task == "regression"
    assert bundle.classes is None


def test_a_committee_is_compiled_with_its_weights(pack, iris, diabetes):
    X, y = iris
    members = [
        ("a", make_pipeline(StandardScaler(), LogisticRegression())),
        ("b", DecisionTreeClassifier(max_depth=2)),
    ]
    soft = VotingClassifier(members, voting="soft", weights=[1, 2]).fit(X, y)
    proven(pack(soft, X, (X, y)))
    X, y = diabetes
    proven(pack(VotingRegressor([("a", Ridge()), ("b", LinearRegression())]).fit(X, y), X))


@pytest.mark.parametrize(
    ("model", "classes"),
    first_of(
        [
            (HistGradientBoostingClassifier(max_iter=5), 2),
            (HistGradientBoostingClassifier(max_iter=5), 3),
            (HistGradientBoostingClassifier(max_iter=1), 11),
            (HistGradientBoostingRegressor(max_iter=5, loss="poisson"), 9),
            (make_pipeline(StandardScaler(), GradientBoostingClassifier(n_estimators=5)), 2),
            (RandomForestClassifier(8), 3),
        ],
        2,
    ),
)
def test_a_row_has_the_same_bits_in_any_company(pack, model, classes):
    """The runtime's own sigmoid and softmax give one row in fifty another last bit."""
    random = np.random.default_rng(0)
    X = random.normal(size=(600, 5))
    y = np.arange(600) % classes
    bundle = proven(pack(model.fit(X, y), X), within=1e-6)
    assert bundle.manifest.programs[0].batch_invariant
    alone = [bundle.predict(X[i : i + 1]) for i in range(len(X))]
    together = bundle.predict(X)
    for name, values in together.items():
        assert values.tobytes() == np.concatenate([row[name] for row in alone]).tobytes()


def test_a_tree_that_is_one_leaf_is_compiled(pack, iris):
    X, y = iris
    model = GradientBoostingRegressor(n_estimators=2, min_samples_leaf=150).fit(X, y)
    proven(pack(model, X))


def operations(bundle):
    graph = onnx.load(bundle.path / "programs/onnx.onnx").graph
    return [node.op_type for node in graph.node]


@pytest.mark.parametrize(
    "scalers",
    [
        [StandardScaler()],
        [RobustScaler(), MinMaxScaler()],
        [MaxAbsScaler()],
        [StandardScaler(with_mean=False), StandardScaler(with_std=False)],
    ],
)
@pytest.mark.parametrize("data", first_of(["cancer", "iris"]))
def test_scaling_in_front_of_a_linear_classifier_costs_nothing(pack, scalers, data, request):
    """It goes into the coefficients: large batches are not gone through for it."""
    X, y = request.getfixturevalue(data)
    bundle = proven(pack(make_pipeline(*scalers, LogisticRegression(max_iter=5000)).fit(X, y), X))
    assert operations(bundle)[:2] == ["MatMul", "Add"]
    assert not {"Sub", "Mul", "Div"} & set(operations(bundle)[: operations(bundle).index("Add")])


@pytest.mark.parametrize(("distance", "stays"), [(1e2, False), (1e8, True)])
def test_scaling_stays_where_columns_lie_far_from_zero(pack, distance, stays):
    """Else the score would be a small difference of large numbers, and lose its digits."""
    X = np.random.default_rng(0).normal(size=(300, 3))
    model = make_pipeline(StandardScaler(), LogisticRegression())
    bundle = proven(pack(model.fit(X + distance, X[:, 0] > 0), X + distance))
    assert ("Sub" in operations(bundle)) is stays


def test_a_regressor_keeps_its_scaling(pack, diabetes):
    """Its numbers have no scale of their own by which a lost digit could be judged."""
    X, y = diabetes
    bundle = proven(pack(make_pipeline(StandardScaler(), Ridge()).fit(X, y), X))
    assert operations(bundle)[:2] == ["Sub", "Div"]


def test_a_scaler_that_clips_is_not_taken_into_the_coefficients(pack, cancer):
    X, y = cancer
    scaler = MinMaxScaler(clip=True).fit(X[:100])
    model = make_pipeline(scaler, LogisticRegression(max_iter=5000)).fit(X[:100], y[:100])
    bundle = proven(pack(model, X[:100], (X, y)))
    assert "Clip" in operations(bundle)
