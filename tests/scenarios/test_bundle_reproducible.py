"""The same model and rows give the same digest, wherever and whenever they are packed."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from catboost import CatBoostClassifier
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

_PACK = """
import datetime, sys, time, warnings
import numpy as np, pandas as pd
day = float(sys.argv[1])
real = time.time
time.time = lambda: real() + day * 86400
import bascule
from bascule.bundle import cost
cost.BATCH_SIZES = (1, 8)
cost._MAX_SAMPLES = 2
cost.measure_memory = lambda path, program: int(day) + 1
import bascule.bundle.card
bascule.bundle.card.BATCH_SIZES = (1, 8)
from bascule.bundle import packing
packing.is_ever_fastest = lambda *_: False
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
import keras, torch
floats = random.normal(size=(20, 3)).astype(np.float32)
keras.utils.set_random_seed(0)
given, twice = keras.Input((3,)), keras.layers.Dense(3)
network = keras.Model(given, keras.layers.Dense(2)(twice(twice(given))))
network.compile("adam", "mse")
print(bascule.pack(network, name="network", train=floats, to="network").digest)
torch.manual_seed(0)
module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
print(bascule.pack(module, name="module", train=floats, to="module").digest)
"""


def started(home: Path, *, day: int, user: str, seed: str) -> subprocess.Popen[str]:
    """A process of its own, which packs on that day and prints the digests."""
    home.mkdir()
    environment = {
        **os.environ,
        "KERAS_BACKEND": "torch",
        "LOGNAME": user,
        "PYTHONHASHSEED": seed,
        "TZ": "Asia/Tokyo" if day else "UTC",
    }
    return subprocess.Popen(
        [sys.executable, "-c", _PACK, str(day)],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return tmp_path_factory.mktemp("reproducible") / "here"


@pytest.fixture(scope="module")
def packed_twice(here):
    """The digests of both; most of their time goes into imports, so they run side by side."""
    both = [
        started(here, day=0, user="ada", seed="1"),
        started(here.with_name("there"), day=400, user="bob", seed="2"),
    ]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return [out for out, _ in said]


def test_another_folder_process_day_and_user_give_the_same_digest(packed_twice):
    first, second = packed_twice
    assert first.count("sha256:") == 4
    assert first == second


_REBUILD = """
import sys, time
real = time.time
time.time = lambda: real() + 400 * 86400
import numpy as np, pandas as pd
import bascule
random = np.random.default_rng(0)
table = pd.DataFrame({"a": random.normal(size=80), "b": random.choice(["x", "y"], 80)})
rows = (table, (table.a > 0).to_numpy())
floats = random.normal(size=(20, 3)).astype(np.float32)
for name, train in (("same", rows), ("module", floats)):
    rebuilt = bascule.rebuild(sys.argv[1] + "/" + name, train=train)
    print(rebuilt.rebuilt, rebuilt.same, len(rebuilt.differences))
"""


def test_another_process_rebuilds_it_elsewhere_on_another_day(packed_twice, here, tmp_path):
    table, _, _, module = packed_twice[0].split()
    moved = shutil.copytree(here, tmp_path / "moved")

    said = subprocess.run(
        [sys.executable, "-c", _REBUILD, str(moved)],
        cwd=tmp_path,
        env={**os.environ, "LOGNAME": "bob", "PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert said.splitlines() == [f"{table} True 0", f"{module} True 0"]


def test_nothing_of_the_memory_between_a_tree_s_fields_is_sealed():
    """The nodes have gaps, which hold whatever was there before: it is neither kept nor told."""
    from bascule.bundle.flavors.sklearn import load_trusted, save

    X, y = load_breast_cancer(return_X_y=True)
    for model in (DecisionTreeClassifier(random_state=0), RandomForestRegressor(3, random_state=0)):
        saved = save(model.fit(X, y))
        assert save(load_trusted(saved, "it")) == saved
        with zipfile.ZipFile(io.BytesIO(saved)) as archive:
            held = [archive.read(name) for name in archive.namelist() if name.endswith(".npy")]
        loaded = [(data, np.load(io.BytesIO(data))) for data in held]
        records = [(data, array) for data, array in loaded if array.dtype.names]
        assert records
        for data, array in records:
            used = np.zeros(array.dtype.itemsize, bool)
            for part, place in array.dtype.fields.values():
                used[place : place + part.itemsize] = True
            assert not used.all()
            raw = np.frombuffer(data[-array.nbytes :], np.uint8).reshape(len(array), -1)
            assert not raw[:, ~used].any()


def test_equal_trainings_of_catboost_inside_a_pipeline_are_saved_equal():
    """CatBoost notes when a model was trained, and a number that it drew."""
    from bascule.bundle.flavors.sklearn import save

    X, y = load_breast_cancer(return_X_y=True)

    def trained():
        own = CatBoostClassifier(iterations=3, verbose=0, allow_writing_files=False)
        return save(make_pipeline(StandardScaler(), own).fit(X, y))

    assert trained() == trained()
