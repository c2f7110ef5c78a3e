"""Parity asks the model about the rows as its author has them, not as a signature reads them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from catboost import CatBoostClassifier
from lightgbm import LGBMClassifier
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder
from tests.tiers import first_of
from xgboost import XGBClassifier

from bascule.core.errors import Invalid
from bascule.core.fields import DType

# Truth is no matter here: the tables are asked about, not judged.
pytestmark = pytest.mark.filterwarnings("ignore::bascule.BasculeWarning")

_ROWS = 90
_WIDE = 2**53


def encoded(*encoders):
    """One column `c` encoded, and `x` as it is."""
    encoder = make_pipeline(*encoders, OneHotEncoder(handle_unknown="ignore"))
    return make_pipeline(
        ColumnTransformer([("c", encoder, ["c"])], remainder="passthrough"),
        LogisticRegression(C=1e4, max_iter=500),
    )


def table_of(values, dtype=None):
    """The values over and over in a column `c`, and whether the place of each is even."""
    places = np.arange(_ROWS) % len(values)
    column = pd.Series([values[place] for place in places], dtype=dtype)
    x = np.random.default_rng(0).normal(size=_ROWS)
    return pd.DataFrame({"c": column, "x": x}), places % 2


def is_as_the_model(bundle, model, rows):
    """Whether the bundle answers as the fitted model, within what it claims."""
    passed = [one.max_difference for one in bundle.parities.values() if one.passed]
    found = np.asarray(bundle.predict(rows)["probabilities"])
    return bool(np.abs(found - model.predict_proba(rows)).max() <= max([*passed, 1e-7]))


# -- whole numbers that a double cannot tell apart ------------------------------------------------


@pytest.mark.parametrize("dtype", first_of(["int64", "uint64", "Int64", "category", "object"]))
def test_wide_categories_are_kept_apart(pack, dtype):
    table, late = table_of([_WIDE, _WIDE + 1, _WIDE + 2, _WIDE + 3], dtype)
    model = encoded().fit(table, late)

    bundle = pack(model, table, table, serve_original=True)

    if dtype != "Int64":  # which scikit-learn itself reads as doubles
        assert bundle.manifest.serves == "original"
        assert "beyond 2**53" in bundle.parity.reason
    assert is_as_the_model(bundle, model, table)


def test_a_wide_category_is_not_its_neighbour_that_was_never_seen(pack):
    table, late = table_of([5, _WIDE])
    model = encoded().fit(table, late)
    bundle = pack(model, table, serve_original=True)
    assert is_as_the_model(bundle, model, table.assign(c=_WIDE + 1))


def test_wide_categories_in_a_matrix_are_kept_apart(pack):
    X = np.array([[_WIDE + place % 4, place % 3] for place in range(_ROWS)])
    model = make_pipeline(OrdinalEncoder(), LogisticRegression()).fit(X, X[:, 0] % 2)
    bundle = pack(model, X, serve_original=True)
    assert is_as_the_model(bundle, model, X)


@pytest.mark.parametrize("dtype", ["Int64", "category"])
def test_wide_categories_beside_missing_ones_are_refused_by_name(pack, dtype):
    table, late = table_of([_WIDE, _WIDE + 1, None, _WIDE + 3, _WIDE + 7], "Int64")
    table = table.astype({"c": dtype})
    model = encoded().fit(table, late)
    if dtype == "Int64":  # which scikit-learn itself reads as doubles
        assert is_as_the_model(pack(model, table), model, table)
        return
    with pytest.raises(Invalid, match=r"'c' holds whole numbers beyond 2\*\*53") as raised:
        pack(model, table)
    assert "into text" in raised.value.hint


def test_wide_numbers_that_are_only_measured_stay_compiled(pack):
    """Nanoseconds since 1970: a model reads them as doubles itself."""
    table, _ = table_of([1_700_000_000_000_000_000 + 10**12 * place for place in range(40)])
    late = (table.c > table.c.median()).astype(int)
    scaled = FunctionTransformer(np.log)
    model = make_pipeline(SimpleImputer(), scaled, LogisticRegression())
    table["x"] = np.abs(table.x)
    bundle = pack(model.fit(table, late), table)
    assert bundle.parity.passed
    assert bundle.signature.inputs[0].dtype is DType.INT64


def test_numbers_of_more_than_64_bits_are_refused(pack):
    table, late = table_of([2**70, 2**70 + 1], "object")
    model = encoded().fit(table, late)
    with pytest.raises(Invalid, match="'c' holds whole numbers of more than 64 bits"):
        pack(model, table)


# -- missing values of several kinds ---------------------------------------------------------------


def test_none_and_nan_in_one_column_are_refused(pack):
    table, late = table_of(["a", "b", None, np.nan], "object")
    model = encoded().fit(table, late)
    with pytest.raises(Invalid, match="'c' holds more than one of None, NaN and NA") as raised:
        pack(model, table)
    assert raised.value.facts["field"] == "c"
    assert "where(df[c].notna(), None)" in raised.value.hint


def test_none_and_nan_are_packed_where_the_model_does_not_read_them(pack):
    table, late = table_of(["a", "b", None, np.nan], "object")
    model = make_pipeline(ColumnTransformer([("x", "passthrough", ["x"])]), LogisticRegression())
    bundle = pack(model.fit(table, late), table, table)
    assert bundle.parity.passed


@pytest.mark.parametrize(
    "values", first_of([[True, False, None], [1, 2.5, None], [1.0, np.nan, 2.0], [True, 2, 0]], 2)
)
def test_objects_that_are_no_texts_stay_objects(pack, values):
    table, late = table_of(values, "object")
    model = encoded().fit(table, late)
    bundle = pack(model, table, table, serve_original=True)
    assert is_as_the_model(bundle, model, table)


@pytest.mark.parametrize(("trained", "asked"), [(np.nan, None), (None, np.nan)])
def test_held_out_rows_with_another_kind_of_missing_text_are_refused(pack, trained, asked):
    table, _ = table_of(["a", "b", trained], "object")
    model = encoded().fit(table, table.c.isna())
    other = table_of(["a", "b", asked], "object")[0]
    with pytest.raises(Invalid, match="'c' holds another kind of missing value"):
        pack(model, table, other)


@pytest.mark.parametrize(
    ("trained", "asked"),
    first_of([(np.nan, None), (None, np.nan), (np.nan, pd.NA), (None, pd.NA)], 2),
)
@pytest.mark.parametrize("first", first_of([[], [SimpleImputer(strategy="most_frequent")]]))
def test_rows_with_another_kind_of_missing_text_are_not_answered(pack, trained, asked, first):
    if first and trained is None:
        first = (SimpleImputer(strategy="most_frequent", missing_values=None),)
    table, _ = table_of(["a", "b", trained], "object")
    model = encoded(*first).fit(table, table.c == "a")
    bundle = pack(model, table, table)
    assert is_as_the_model(bundle, model, table)
    with pytest.raises(Invalid, match=r"'c' holds .* it may tell the two apart") as raised:
        bundle.predict(table_of(["a", "b", asked], "object")[0])
    assert "column.notna()" in raised.value.hint


def test_a_missing_text_of_json_or_a_dict_is_what_it_was_in_training(pack):
    table, _ = table_of(["a", "b", np.nan], "object")
    model = encoded().fit(table, table.c.isna())
    bundle = pack(model, table)
    answer = bundle.predict({"c": ["a", None], "x": [0.0, 0.0]})
    assert answer["label"].tolist() == [False, True]


# -- categorical types -----------------------------------------------------------------------------


@pytest.mark.parametrize("values", [["a", "b", None], [3, 7, None]])
def test_a_category_that_was_never_seen_is_what_the_model_takes_it_for(pack, values):
    table, _ = table_of(values)
    table = table.astype({"c": "category"})
    model = encoded().fit(table, table.c.isna())
    bundle = pack(model, table, table)
    fresh = pd.DataFrame({"c": pd.Categorical([values[0], values[1] * 2, None]), "x": [0.0] * 3})
    assert bundle.parity.passed
    assert is_as_the_model(bundle, model, fresh)


def test_a_category_that_was_never_seen_in_an_enum_of_polars_is_too(pack):
    texts = ["a", "b", None] * 30
    table = pl.DataFrame({"c": pl.Series(texts, dtype=pl.Enum(["b", "a"])), "x": [0.5] * 90})
    model = encoded().fit(table, [text is None for text in texts])
    bundle = pack(model, table, serve_original=True)
    fresh = pl.DataFrame({"c": pl.Series(["a", "z"], dtype=pl.Enum(["a", "z"])), "x": [0.5] * 2})
    assert is_as_the_model(bundle, model, fresh)


@pytest.mark.parametrize("values", [[1, None, 3], [_WIDE, None, 5]])
def test_whole_numbers_of_polars_may_be_missing(pack, values):
    table = pl.DataFrame({"c": pl.Series(values * 30, dtype=pl.Int64), "x": [0.5] * 90})
    model = encoded().fit(table, [value is None for value in values] * 30)
    bundle = pack(model, table, serve_original=True)
    assert is_as_the_model(bundle, model, table)


# -- every library, in its own types ---------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    first_of(
        [
            XGBClassifier(n_estimators=10),
            LGBMClassifier(n_estimators=10, verbose=-1, min_child_samples=1),
            CatBoostClassifier(10, verbose=0, allow_writing_files=False),
        ]
    ),
    ids=["xgboost", "lightgbm", "catboost"],
)
@pytest.mark.parametrize("kind", first_of(["wide", "nullable", "close doubles"]))
def test_a_boosted_model_is_asked_in_the_types_of_its_author(pack, model, kind):
    table, late = table_of([1, 2, 3, 4])
    if kind == "wide":
        table["c"] += _WIDE
    elif kind == "nullable":
        table["c"] = table.c.astype("Int64").where(table.x > -1)
        table["b"] = (table.x > 0).astype("boolean")
    else:
        table["c"] = 0.1 + table.c * 1e-9
    model.fit(table, late)
    bundle = pack(model, table, table, serve_original=True)
    assert is_as_the_model(bundle, model, table)


def test_a_tree_of_catboost_without_a_test_is_packed(pack):
    X = np.column_stack([2**24 + np.arange(_ROWS) % 9, np.zeros(_ROWS)])
    model = CatBoostClassifier(20, verbose=0, allow_writing_files=False)
    model.fit(X.astype(np.int64), np.arange(_ROWS) % 9 % 2)
    assert is_as_the_model(pack(model, X.astype(np.int64)), model, X.astype(np.int64))


# -- texts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["object", "category"])
def test_the_text_that_stands_for_a_missing_one_is_refused(pack, dtype):
    table, _ = table_of(["a", "b", np.nan], "object")
    table = table.astype({"c": dtype})
    model = encoded().fit(table, table.c.isna())
    bundle = pack(model, table)
    with pytest.raises(Invalid, match="c: the text in row 1 is reserved") as raised:
        bundle.predict(
            pd.DataFrame({"c": ["a", "\ufdd0missing"], "x": [0.0] * 2}).astype({"c": dtype})
        )
    assert "missing (null)" in raised.value.hint


def test_half_of_a_pair_of_surrogates_is_refused(pack):
    table, late = table_of(["a", "b\ud800"], "object")
    model = encoded().fit(table, late)
    with pytest.raises(Invalid, match=r"'c' holds .*half of a surrogate pair"):
        pack(model, table)
    table, late = table_of(["a", "b"], "object")
    bundle = pack(encoded().fit(table, late), table)
    with pytest.raises(Invalid, match="half of a surrogate pair"):
        bundle.predict(table_of(["a", "b\udfff"], "object")[0])


@pytest.mark.parametrize("names", [["", "b"], ["label", "probabilities"], ["a\0", "a"]])
def test_a_column_of_any_name_is_answered(pack, names):
    X = np.random.default_rng(0).normal(size=(_ROWS, 2))
    table = pd.DataFrame(X, columns=names)
    model = LogisticRegression().fit(table, X[:, 0] > 0)
    bundle = pack(model, table, table, serve_original=True)
    assert is_as_the_model(bundle, model, table)
