from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier

from bascule.packing import pack


def rows(count, seed):
    random = np.random.default_rng(seed)
    X = random.standard_normal((count, 6))
    return X, (X[:, 0] + X[:, 1] * X[:, 2] + 0.3 * random.standard_normal(count) > 0).astype(int)


@pytest.fixture(scope="session")
def boosted(tmp_path_factory):
    """A boosted classifier of 60 trees with 1,200 held-out rows."""
    train, test = rows(1_000, 0), rows(1_200, 1)
    model = GradientBoostingClassifier(n_estimators=60, random_state=0).fit(*train)
    place = tmp_path_factory.mktemp("optimising") / "gb.bundle"
    return pack(model, name="gb", train=train, test=test, to=place, measure=False, explain=False)
