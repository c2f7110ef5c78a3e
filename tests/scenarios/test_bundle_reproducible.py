"""The same model and rows give the same digest, wherever and whenever they are packed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PACK = """
import datetime, sys, time, warnings
import numpy as np, pandas as pd
day = float(sys.argv[1])
real = time.time
time.time = lambda: real() + day * 86400
import bascule
from bascule.bundle import cost
cost.BATCH_SIZES = (1, 8)
cost.measure_memory = lambda path, program: int(day) + 1
import bascule.bundle.card
bascule.bundle.card.BATCH_SIZES = (1, 8)
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
junk = [object() for _ in range(int(day) * 1000)]
random = np.random.default_rng(0)
table = pd.DataFrame({"a": random.normal(size=80), "b": random.choice(["x", "y"], 80)})
y = (table.a > 0).to_numpy()
model = make_pipeline(
    ColumnTransformer([("n", make_pipeline(SimpleImputer(), StandardScaler()), ["a"]),
                       ("c", OneHotEncoder(handle_unknown="ignore"), ["b"])]),
    GradientBoostingClassifier(n_estimators=3, random_state=0),
).fit(table, y)
rows = (table, y)
print(bascule.pack(model, name="same", train=rows, test=rows, to="same").digest)
matrix = table[["a"]].to_numpy()
forest = RandomForestClassifier(3, random_state=0).fit(matrix, y)
print(bascule.pack(forest, name="forest", train=matrix, to="forest").digest)
"""


@pytest.fixture
def pack_elsewhere(tmp_path):
    def packed(folder: str, *, day: int, user: str, seed: str) -> str:
        home = tmp_path / folder
        home.mkdir()
        environment = {
            **os.environ,
            "LOGNAME": user,
            "PYTHONHASHSEED": seed,
            "TZ": "Asia/Tokyo" if day else "UTC",
        }
        return subprocess.run(
            [sys.executable, "-c", _PACK, str(day)],
            cwd=home,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    return packed


def test_another_folder_process_day_and_user_give_the_same_digest(pack_elsewhere):
    first = pack_elsewhere("here", day=0, user="ada", seed="1")
    second = pack_elsewhere("there", day=400, user="bob", seed="2")
    assert first.count("sha256:") == 2
    assert first == second
