from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingClassifier

import bascule


@pytest.fixture(scope="session")
def cancer():
    return load_breast_cancer(return_X_y=True)


@pytest.fixture(scope="session")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="session")
def diabetes():
    return load_diabetes(return_X_y=True)


@pytest.fixture(scope="session")
def boosted(cancer):
    X, y = cancer
    return GradientBoostingClassifier(n_estimators=10, random_state=0).fit(X, y)


@pytest.fixture(scope="session")
def flights():
    """A table like those of real life: texts, whole numbers, flags, categories, missing values."""
    random = np.random.default_rng(7)
    n = 600
    table = pd.DataFrame(
        {
            "carrier": random.choice(["AA", "BB", "CC", "DD"], n),
            "airport": random.choice(["EWR", "JFK", "LGA"], n),
            "hour": random.integers(0, 24, n),
            "wind": random.normal(size=n),
            "gust": random.normal(size=n) * 10,
            "rain": random.random(n) < 0.3,
            "plane": pd.Categorical(random.choice(["old", "new", "lent"], n)),
        }
    )
    late = ((table.hour > 12) & (table.wind > -0.5)) | (table.carrier == "AA")
    table.loc[random.random(n) < 0.1, "airport"] = None
    table.loc[random.random(n) < 0.2, "wind"] = np.nan
    table.loc[random.random(n) < 0.1, "plane"] = None
    return table, late.to_numpy()


@pytest.fixture(scope="session")
def say_of_cost():
    """`say_of_cost(bundle, onnx={"1": 10.0}, ...)`: lay times by batch size beside a bundle."""

    def say(bundle, cpu="Abacus 3", **latency_us):
        body = {"latency_us": latency_us, "peak_memory_bytes": None, "size_bytes": 1}
        bundle.add_statement("cost", {**body, "machine": {"cpu": cpu}}, by="a test")

    return say


@pytest.fixture
def pack(tmp_path):
    """Pack a model into a fresh folder.

    Its cost is measured, outliers are scored and answers explained only where a test says so:
    they take half of the time of a small model.
    """

    def packed(model, train, test=None, *, name="model", **settings):
        folder = tmp_path / f"bundle{len(list(tmp_path.iterdir()))}"
        settings = {"measure": False, "outliers": False, "explain": False, **settings}
        return bascule.pack(model, name=name, train=train, test=test, to=folder, **settings)

    return packed
