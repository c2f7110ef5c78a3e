"""What `pack` refuses, with a next step; each step is taken here, and works."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.datasets import load_wine
from sklearn.decomposition import NMF
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import LocalOutlierFactor, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, SplineTransformer, StandardScaler
from tests.tiers import first_of

from bascule import packing
from bascule.core.errors import BasculeError

ROWS = np.random.default_rng(0).normal(size=(120, 3))
SIGNS = (ROWS[:, 0] > 0).astype(int)
TEXTS = [f"word{i} word{i + 1} word{(i * 7) % 10_050}" for i in range(10_050)]
WINE, WINES = load_wine(return_X_y=True)
DICTS = [{"size": float(row[0]), "city": "Rome" if row[1] > 0 else "Oslo"} for row in ROWS]
WORDS = pd.DataFrame({"words": [f"{d['city']} by night" for d in DICTS], "size": ROWS[:, 0]})
TWO_KINDS = pd.DataFrame(
    {
        "size": ROWS[:, 0],
        "city": pd.Series([None, np.nan, "Rome", "Oslo"] * 30, dtype=object),
    }
)


def of_table():
    encoded = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["city"]), remainder="passthrough"
    )
    return make_pipeline(encoded, LogisticRegression()).fit(pd.DataFrame(DICTS), SIGNS)


def one_kind():
    city = TWO_KINDS["city"]
    return TWO_KINDS.assign(city=city.astype(object).where(city.notna(), None))


def catboost(**settings):
    from catboost import CatBoostClassifier, CatBoostRegressor

    kind = CatBoostRegressor if "loss_function" in settings else CatBoostClassifier
    return kind(iterations=3, verbose=False, allow_writing_files=False, **settings)


def counted():
    texts = make_column_transformer((TfidfVectorizer(), "words"), remainder="passthrough")
    return make_pipeline(texts, catboost())


def factorised():
    steps = NMF(3, random_state=0, max_iter=300), LogisticRegression(max_iter=500)
    return make_pipeline(*steps).fit(WINE, WINES)


def boosted(**settings):
    import xgboost

    X = np.where(ROWS < -1.5, 0.0, ROWS)
    return xgboost.XGBClassifier(n_estimators=3, **settings).fit(X, SIGNS)


def quantiles():
    import xgboost

    model = xgboost.XGBRegressor(
        n_estimators=3, objective="reg:quantileerror", quantile_alpha=[0.1, 0.9]
    )
    return make_pipeline(StandardScaler(), model).fit(ROWS, ROWS[:, 0])


REFUSED = {
    "not fitted": (
        Ridge,
        {"train": ROWS},
        "call model.fit(X, y)",
        lambda: (Ridge().fit(ROWS, SIGNS), {"train": ROWS}),
    ),
    "no training rows": (
        lambda: Ridge().fit(ROWS, SIGNS),
        {"train": None},
        "train=X",
        lambda: (Ridge().fit(ROWS, SIGNS), {"train": ROWS}),
    ),
    "an outlier factor of its own rows": (
        lambda: LocalOutlierFactor().fit(ROWS),
        {"train": ROWS},
        "novelty=True",
        lambda: (LocalOutlierFactor(novelty=True).fit(ROWS), {"train": ROWS}),
    ),
    "no converter": (
        lambda: NearestCentroid().fit(ROWS, SIGNS),
        {"train": ROWS},
        "serve_original=True",
        lambda: (
            NearestCentroid().fit(ROWS, SIGNS),
            {"train": ROWS, "serve_original": True},
        ),
    ),
    "another word for missing": (
        lambda: boosted(missing=0.0),
        {"train": ROWS},
        "missing=nan",
        lambda: (boosted(), {"train": ROWS}),
    ),
    "rows that are dicts": (
        lambda: make_pipeline(DictVectorizer(), LogisticRegression()).fit(DICTS, SIGNS),
        {"train": DICTS},
        "serve_original=True",
        lambda: (
            make_pipeline(DictVectorizer(), LogisticRegression()).fit(DICTS, SIGNS),
            {"train": DICTS, "serve_original": True},
        ),
    ),
    "texts that CatBoost reads itself": (
        lambda: catboost(text_features=["words"]).fit(WORDS, SIGNS),
        {"train": WORDS},
        "TfidfVectorizer in a pipeline",
        lambda: (counted().fit(WORDS, SIGNS), {"train": WORDS}),
    ),
    "two kinds of missing texts": (
        lambda: of_table().fit(TWO_KINDS, SIGNS),
        {"train": TWO_KINDS},
        "df[c].astype(object).where(df[c].notna(), None)",
        lambda: (of_table().fit(one_kind(), SIGNS), {"train": one_kind()}),
    ),
    "a factorisation that stops when a batch is good enough": (
        lambda: factorised(),
        {"train": WINE, "serve_original": True},
        "accept the difference: tolerance=0.0",
        lambda: (factorised(), {"train": WINE, "serve_original": True, "tolerance": 0.01}),
    ),
    "several quantiles of one truth behind a step": (
        quantiles,
        {"train": (ROWS, ROWS[:, 0])},
        "column_stack([y] * 2)",
        lambda: (quantiles(), {"train": (ROWS, np.column_stack([ROWS[:, 0]] * 2))}),
    ),
    "a model that draws at random": (
        lambda: DummyClassifier(strategy="uniform").fit(WORDS[["size"]], SIGNS),
        {"train": WORDS[["size"]]},
        "take out dropout, sampling",
        lambda: (
            DummyClassifier(strategy="prior").fit(WORDS[["size"]], SIGNS),
            {"train": WORDS[["size"]], "serve_original": True},
        ),
    ),
    "more words than are compiled": (
        lambda: words(),
        {"train": TEXTS},
        "max_features=10000",
        lambda: (words(max_features=10_000), {"train": TEXTS}),
    ),
}
"""By case: the model, the arguments, a part of the hint, and what a reader of it does."""


def words(**settings):
    wanted = np.arange(len(TEXTS)) % 2
    return make_pipeline(TfidfVectorizer(**settings), LogisticRegression()).fit(TEXTS, wanted)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", first_of(REFUSED, len(REFUSED) - 1))  # the last takes seconds
def test_the_next_step_of_a_refusal_works(pack, case):
    model, given, hint, follow = REFUSED[case]
    with pytest.raises(BasculeError) as refused:
        pack(model(), **given)
    assert hint in refused.value.hint
    followed, better = follow()
    assert pack(followed, **better).manifest.digest


@pytest.mark.parametrize("objective", ["binary:logitraw", "binary:hinge"])
def test_objectives_without_probabilities_answer_as_the_estimator_does(pack, objective):
    model = boosted(objective=objective)
    bundle = pack(model, (ROWS, SIGNS), (ROWS, SIGNS))
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    answer = bundle.predict(ROWS)
    assert (answer["label"] == model.predict(ROWS)).all()
    np.testing.assert_allclose(answer["probabilities"], model.predict_proba(ROWS), atol=1e-5)


@pytest.mark.filterwarnings("ignore:Cannot compute class probabilities")
def test_a_classifier_with_an_objective_of_ones_own_answers_its_sums(pack):
    import lightgbm

    def logistic(truth, sums):
        shares = 1 / (1 + np.exp(-sums))
        return shares - truth, shares * (1 - shares)

    model = lightgbm.LGBMClassifier(n_estimators=3, objective=logistic, verbose=-1)
    model.fit(ROWS, SIGNS)
    bundle = pack(model, ROWS)
    assert bundle.task == "regression"
    np.testing.assert_allclose(bundle.predict(ROWS)["prediction"], model.predict(ROWS))


IMAGES = np.random.default_rng(0).normal(size=(30, 3, 6, 6)).astype(np.float32)


@pytest.mark.parametrize(
    "truth", first_of([np.arange(30) % 2, IMAGES[:, :1] > 0]), ids=["labels", "masks"]
)
def test_held_out_images_are_kept_with_a_truth_of_any_rank(pack, truth):
    import torch

    network = torch.nn.Conv2d(3, 1, 3, padding=1).eval()
    rows, kept = pack(network, IMAGES, (IMAGES, truth)).test_data()
    (images,) = rows.values()
    assert images.dtype == np.float32
    assert (images == IMAGES).all()
    assert kept.shape == truth.shape
    assert (kept == truth).all()


def test_a_file_of_images_of_another_shape_is_refused(pack):
    from bascule.bundle.disk.heldout import from_parquet, to_parquet
    from bascule.core.errors import Untrusted
    from bascule.core.fields import DType, Field, Signature

    signature = Signature((Field("x", DType.FP32, (3, -1, 6)),), ())
    data = to_parquet({"x": IMAGES}, None, signature)
    assert (from_parquet(data, signature)[0]["x"] == IMAGES).all()
    other = Signature((Field("x", DType.FP32, (3, 6, 5)),), ())
    with pytest.raises(Untrusted, match=r"shape \[3, 6, 6\], not \[3, 6, 5\]"):
        from_parquet(data, other)


def test_texts_in_two_dimensions_are_refused_before_the_model_is_compiled(pack):
    """The refusal comes from the rows, at once; `compiled to ONNX` is never said."""
    from bascule.bundle.disk.heldout import to_parquet
    from bascule.core.errors import Invalid
    from bascule.core.fields import DType, Field, Signature

    signature = Signature((Field("x", DType.BYTES, (2, 2)),), ())
    with pytest.raises(Invalid, match="texts in 3 dimensions") as refused:
        to_parquet({"x": np.full((4, 2, 2), "a", object)}, None, signature)
    assert "keep_test=False" in refused.value.hint


def test_a_step_inside_others_is_named_with_its_columns(pack):
    table = pd.DataFrame(ROWS, columns=["a", "b", "c"])
    curves = ColumnTransformer([("curves", SplineTransformer(), ["a", "b"])])
    with pytest.raises(BasculeError, match="SplineTransformer has no converter") as refused:
        pack(make_pipeline(curves, Ridge()).fit(table, SIGNS), train=table)
    place = "(step 'curves' of ColumnTransformer, for columns 'a', 'b')"
    assert refused.value.message.endswith(place)
    assert "serve_original=True" in refused.value.hint


def test_every_refusal_of_packing_is_written_with_a_next_step():
    """`Unconvertible` has one already: to serve the original."""
    without = []
    for file in Path(packing.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            is_refusal = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Invalid"
            if is_refusal and all(keyword.arg != "hint" for keyword in node.keywords):
                without.append(f"{file.name}:{node.lineno}")
    assert not without
