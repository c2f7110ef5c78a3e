"""The same model and rows give the same digest, wherever and whenever they are packed."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from catboost import CatBoostClassifier
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from tests.tiers import first_of

import bascule

_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static time_t moved(void) {
    const char *days = getenv("MOVED_DAYS");
    return days ? 86400 * atol(days) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += moved();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *told) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (told) *told = exact.tv_sec;
    return exact.tv_sec;
}
"""

_BEGIN = """
import os, sys, time, warnings
import numpy as np, pandas as pd
there = int(sys.argv[1])
import bascule
from bascule.bundle.originals import python as python_original
from bascule.packing.flavors import python
python.lock = lambda requirements: "numpy==1 --hash=sha256:" + "0" * 64
python_original.interpreter = lambda locked: sys.executable
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
junk = [object() for _ in range(there * 400_000)]
random = np.random.default_rng(0)
table = pd.DataFrame({"a": random.normal(size=80), "b": random.choice(["x", "y"], 80)})
y = (table.a > 0).to_numpy()
matrix = table[["a"]].to_numpy()
floats = random.normal(size=(20, 3)).astype(np.float32)

def packed(name, model, train, **more):
    print(name, bascule.pack(model, name=name, train=train, to=name, measure=False, **more).digest)
"""

_PIPELINE = """
packed("same", make_pipeline(
    ColumnTransformer([("n", make_pipeline(SimpleImputer(), StandardScaler()), ["a"]),
                       ("c", OneHotEncoder(handle_unknown="ignore"), ["b"])]),
    GradientBoostingClassifier(n_estimators=3, random_state=0),
).fit(table, y), (table, y), test=(table, y))
"""

_MODELS = """
packed("forest", RandomForestClassifier(3, random_state=0).fit(matrix, y), matrix)

from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
said = ["a good film", "the bad film", "so so", "great and good"] * 20
counted = {
    "english": TfidfVectorizer(stop_words="english"),
    "stopped": CountVectorizer(stop_words=list({"so", "the", "a", "and", "film"})),
}
for name, words in counted.items():
    packed(name, make_pipeline(words, LogisticRegression()).fit(said, y), said)
searched = make_pipeline(StandardScaler(), LogisticRegression(), memory=os.path.abspath("cache"))
searched = GridSearchCV(searched, {"logisticregression__C": [0.1, 1.0]}, cv=2)
packed("searched", searched.fit(matrix, y), matrix, serve_original=True)

import catboost, lightgbm, xgboost
categories = table.assign(b=table.b.astype("category"))
boosted = {
    "xgboost": xgboost.XGBClassifier(n_estimators=3, enable_categorical=True),
    "lightgbm": lightgbm.LGBMClassifier(n_estimators=3, verbose=-1),
}
for name, model in boosted.items():
    packed(name, model.fit(categories, y), (categories, y), test=(categories, y))
model = catboost.CatBoostClassifier(3, verbose=0, allow_writing_files=False)
packed("catboost", model.fit(matrix, y), matrix)
model = catboost.CatBoostClassifier(3, cat_features=["b"], verbose=0, allow_writing_files=False)
packed("categories", model.fit(table, y), (table, y), test=(table, y), serve_original=True)

from onnx import TensorProto, helper, save
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["prediction"])], "graph",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
    [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["N", 1])],
    [helper.make_tensor("w", TensorProto.FLOAT, [3, 1], [1.0, 2.0, 3.0])])
save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "m.onnx")
packed("onnx", "m.onnx", floats)

os.makedirs("mine/inner")
files = ["mine/own.py", "mine/inner/other.py"]
for place in files[::-1] if there else files:
    with open(place, "w") as file:
        file.write("class Model:\\n    def predict(self, columns):\\n"
                   "        return columns['input'].sum(axis=1)\\n")
    os.utime(place, (time.time(),) * 2)
with open("weights.bin", "wb") as file:
    file.write(b"1")
packed("code", bascule.PythonModel(
    "mine.own:Model", code="mine", files={"weights.bin": "weights.bin"}), floats)
"""

_NETWORKS = """
import keras, torch
keras.utils.set_random_seed(0)
given, twice = keras.Input((3,)), keras.layers.Dense(3)
network = keras.Model(given, keras.layers.Dense(2)(twice(twice(given))))
network.compile("adam", "mse")
packed("network", network, floats)
torch.manual_seed(0)
packed("module", torch.nn.Sequential(
    torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)), floats)
"""

_NETWORK_NAMES = "network", "module"
_MODEL_NAMES = (
    "forest", "english", "stopped", "searched", "xgboost", "lightgbm", "catboost",
    "categories", "onnx", "code",
)  # fmt: skip


@pytest.fixture(scope="module")
def on_another_day(tmp_path_factory):
    """The environment in which a process lives 400 days later, and all of its C code too."""
    compiler = shutil.which("cc")
    assert compiler, "cc is missing: apt-get install gcc libc6-dev"
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(_CLOCK)
    library = str(folder / "clock.so")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, str(folder / "clock.c"), "-ldl"], check=True
    )
    return {"LD_PRELOAD": library, "MOVED_DAYS": "400"}


def started(
    home: Path, code: str, *, there: bool, user: str, seed: str, clock: dict[str, str]
) -> subprocess.Popen[str]:
    """A process of its own, which packs as that user and prints the digests."""
    home.mkdir()
    environment = {
        **os.environ,
        **clock,
        "HOME": str(home),
        "KERAS_BACKEND": "torch",
        "LOGNAME": user,
        "USER": user,
        "PYTHONHASHSEED": seed,
        "TZ": "Asia/Tokyo" if there else "UTC",
    }
    return subprocess.Popen(
        [sys.executable, "-c", code, str(int(there))],
        cwd=home,
        env=environment,
        umask=0o077 if there else 0o022,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pack_twice(here: Path, code: str, clock: dict[str, str]) -> list[dict[str, str]]:
    """The digests of both; most of their time goes into imports, so they run side by side."""
    both = [
        started(here, code, there=False, user="ada", seed="1", clock={}),
        started(here.with_name("there"), code, there=True, user="bob", seed="2", clock=clock),
    ]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return [dict(line.split() for line in out.splitlines()) for out, _ in said]


@pytest.fixture(scope="module")
def packed_twice(tmp_path_factory, on_another_day):
    """`packed_twice(name)`: the folder of the first bundles, and the digests of both."""
    made = {}

    def get(name):
        what = _PIPELINE
        if name != "same":
            what = _NETWORKS if name in _NETWORK_NAMES else _MODELS
        if what not in made:
            here = tmp_path_factory.mktemp("reproducible") / "here"
            made[what] = here, pack_twice(here, _BEGIN + what, on_another_day)
        return made[what]

    return get


@pytest.mark.parametrize("name", first_of(["same", *_MODEL_NAMES, *_NETWORK_NAMES]))
def test_another_folder_process_day_and_user_give_the_same_digest(packed_twice, name):
    _, (first, second) = packed_twice(name)
    assert first[name].startswith("sha256:")
    assert first[name] == second[name]


def test_the_other_day_was_another_day(packed_twice):
    """What is said of a bundle tells who packed it and when, and so the clock was moved."""
    here, _ = packed_twice("same")
    said = [
        next(one for one in bascule.load(place / "same").statements("parity"))
        for place in (here, here.with_name("there"))
    ]
    assert [one.by for one in said] == ["ada", "bob"]
    days = (datetime.fromisoformat(said[1].at) - datetime.fromisoformat(said[0].at)).days
    assert days in (399, 400)


_CLOCKS = """
import calendar, ctypes, datetime, time
print(datetime.datetime.now().timestamp(), time.time(), time.time_ns() / 1e9,
      time.mktime(time.localtime()), calendar.timegm(time.gmtime()), ctypes.CDLL(None).time(None))
"""


def test_no_clock_of_a_process_stays_behind(on_another_day):
    shown = subprocess.run(
        [sys.executable, "-c", _CLOCKS], env={**os.environ, **on_another_day}, check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    for clock in shown.split():
        assert 399 <= (float(clock) - time.time()) / 86400 <= 400.01


_REBUILD = """
import sys
import numpy as np, pandas as pd
import bascule
random = np.random.default_rng(0)
table = pd.DataFrame({"a": random.normal(size=80), "b": random.choice(["x", "y"], 80)})
rows = (table, (table.a > 0).to_numpy())
floats = random.normal(size=(20, 3)).astype(np.float32)
train = {"same": rows, "module": floats}[sys.argv[2]]
rebuilt = bascule.rebuild(sys.argv[1] + "/" + sys.argv[2], train=train)
print(rebuilt.rebuilt, rebuilt.same, len(rebuilt.differences))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["same", "module"])
def test_another_process_rebuilds_it_elsewhere_on_another_day(
    packed_twice, name, tmp_path, on_another_day
):
    here, (first, _) = packed_twice(name)
    moved = shutil.copytree(here, tmp_path / "moved")

    said = subprocess.run(
        [sys.executable, "-c", _REBUILD, str(moved), name],
        cwd=tmp_path,
        env={
            **os.environ,
            **on_another_day,
            "LOGNAME": "bob",
            "PYTHONHASHSEED": "2",
            "TZ": "Asia/Tokyo",
        },
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert said == f"{first[name]} True 0\n"


def test_nothing_of_the_memory_between_a_tree_s_fields_is_sealed():
    """The nodes have gaps, which hold whatever was there before: it is neither kept nor told."""
    from bascule.bundle.originals.sklearn import load_trusted
    from bascule.packing.flavors.sklearn import save

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
    from bascule.packing.flavors.sklearn import save

    X, y = load_breast_cancer(return_X_y=True)

    def trained():
        own = CatBoostClassifier(iterations=3, verbose=0, allow_writing_files=False)
        return save(make_pipeline(StandardScaler(), own).fit(X, y))

    assert trained() == trained()
