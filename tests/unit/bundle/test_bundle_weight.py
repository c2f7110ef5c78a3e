"""A serving worker reads bundles, and must stay small: what is imported is a promise."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from tests.tiers import first_of

import bascule

HEAVY = ("onnx", "pandas", "polars", "pyarrow", "skl2onnx", "sklearn", "skops", "scipy")
_PROBE = """
import sys
{code}
print(sorted(set({heavy!r}) & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "code",
    first_of(
        [
            "import bascule",
            "import bascule.bundle.disk.folder, bascule.bundle.programs.onnx",
            "from bascule.bundle import open_program, read_manifest; p = {path!r}; "
            "open_program(p, read_manifest(p))",
            "import bascule; bascule.load({path!r}).predict([[0.0] * 30])",
        ],
        2,
    ),
)
def test_reading_and_predicting_import_no_framework(pack, boosted, cancer, code):
    bundle = pack(boosted, cancer[0])
    probe = _PROBE.format(code=code.format(path=str(bundle.path)), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


_LOADED = """
import re, sys, time

sys.path.insert(0, {home!r})
before = set(sys.modules)

def held_mb():
    return int(re.search(r"VmRSS:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

held, started = [held_mb()], time.perf_counter()
from bascule.bundle import load
bundle = load({path!r})
held.append(held_mb())
program = bundle.program()
took_s = time.perf_counter() - started
held.append(held_mb())
modules = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(program.name, *held, took_s, *sorted(modules - sys.stdlib_module_names))
"""
READING = {"bascule", "bascule_client", "lazy_loader", "msgspec", "numpy", "typing_extensions"}
"""What reads a bundle; msgspec imports `typing_extensions`, where that is installed."""


@pytest.mark.parametrize(
    ("model", "program", "engines", "most_mb"),
    [
        (LogisticRegression(max_iter=5000), "onnx", {"onnxruntime"}, 66),
        (GradientBoostingClassifier(n_estimators=10), "llvm", {"onnxruntime", "llvmlite"}, 100),
    ],
)
def test_a_bare_interpreter_loads_a_compiled_bundle_and_few_modules(
    pack, cancer, say_of_cost, model, program, engines, most_mb
):
    """`-I`: no variables, no folder of the user's. Bare it holds 10 MB, with numpy 26."""
    bundle = pack(model.fit(*cancer), cancer[0])
    say_of_cost(bundle, **{program: {"1": 1.0}}, original={"1": 100.0})
    code = _LOADED.format(home=str(Path(bascule.__file__).parents[1]), path=str(bundle.path))
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    name, bare_mb, loaded_mb, opened_mb, took_s, *modules = done.stdout.split()

    assert name == program
    assert READING - {"typing_extensions"} | engines <= set(modules) <= READING | engines
    assert float(bare_mb) < float(loaded_mb) <= 45
    assert float(loaded_mb) < float(opened_mb) <= most_mb
    assert float(took_s) <= 10


def test_packing_a_scikit_learn_model_loads_no_pytorch(tmp_path):
    """skops asks scikit-learn for all its estimators, which loads PyTorch where it is installed."""
    code = f"""
import sys
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
import bascule
X, y = load_iris(return_X_y=True)
model = LogisticRegression(max_iter=500).fit(X, y)
bundle = bascule.pack(model, name="iris", train=X, to={str(tmp_path / "iris")!r})
bundle.original().run({{"input": X}})
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    assert find_spec("torch") is not None


_CPU_OF_PACK = """
import resource, sys, time
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
import bascule
from bascule.packing.flavors.sklearn import SklearnOriginal

X, y = load_breast_cancer(return_X_y=True)
model = eval(sys.argv[1]).fit(X[:400], y[:400])
spent_s = [0.0]
run = SklearnOriginal.run

def timed(self, *args):
    started = time.process_time()
    try:
        return run(self, *args)
    finally:
        spent_s[0] += time.process_time() - started

SklearnOriginal.run = timed

def cpu_s():
    used = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)

before_s = cpu_s()
bascule.pack(model, name="m", train=(X[:400], y[:400]), test=(X[400:], y[400:]), to=sys.argv[2])
print(cpu_s() - before_s - spent_s[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["LogisticRegression(max_iter=5000)", "GradientBoostingClassifier(random_state=0)"]
)
def test_packing_a_small_model_takes_little_beside_what_the_original_takes(tmp_path, model):
    """Processor time, the fresh process that memory is measured in included; the best of three."""
    command = [sys.executable, "-c", _CPU_OF_PACK, model]
    taken_s = [
        float(subprocess.check_output([*command, str(tmp_path / str(turn))], text=True))
        for turn in range(3)
    ]
    assert min(taken_s) <= 2.5
