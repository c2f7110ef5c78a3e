"""A fit on a real Ray cluster: the same model and log as here, also when the worker is killed."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.e2e.test_batch_on_ray import WAIT_S, environment
from tests.own_environments import python_of
from tests.unit.training.test_training_runs import TOML, table

pytestmark = [pytest.mark.slow, pytest.mark.serial]  # a node tells the next where its cluster is

# What the environment of Ray lacks, such as scikit-learn, is that of the tests. Not in front of its
# own, in PYTHONPATH: the agent of a node is given 15 s to import its packages.
OTHERS = f"""
import sys
sys.path.append({sysconfig.get_path("purelib")!r})
"""
FIT = f"""{OTHERS}
import os, signal
from pathlib import Path
from helpers import Scaled

def fit(X, y, run, dies="", fails=False):
    if dies and not Path(dies).exists():
        Path(dies).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if fails:
        raise ValueError("no column of mine")
    run.log("loss", 0.5, step=1)
    run.log("pid", os.getpid())
    (run.folder / "note.txt").write_text("kept")
    return Scaled().fit(X, y)
"""
HELPERS = """
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

def Scaled():
    return Pipeline([("scale", StandardScaler()), ("fit", LogisticRegression())])
"""
RUN = f"""{OTHERS}
import json, os
from pathlib import Path
import pyarrow.parquet as pq
from bascule.core import BasculeError
from bascule.training import prepare, read_pipeline, train

told = dict(own=os.getpid())
try:
    pipeline = read_pipeline(Path("pipeline.toml"))
    made = train(prepare(pipeline.with_parameters(json.loads(sys.argv[1]))), Path(sys.argv[2]))
    inputs = pq.read_table("rows.parquet").select(["distance", "weather"]).slice(0, 50).to_pandas()
    told |= dict(facts=made.facts, known=made.was_known)
    told["answers"] = made.bundle.predict(inputs)["probabilities"].tolist()
except BasculeError as error:
    told |= dict(error=error.message, kind=type(error).__name__)
print(json.dumps(told))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(FIT)
    (tmp_path / "helpers.py").write_text(HELPERS)
    pq.write_table(table(), tmp_path / "rows.parquet")
    return tmp_path


def trained(folder: Path, work: str, on: str, **parameters: Any) -> dict[str, Any]:
    (folder / "pipeline.toml").write_text(f'{TOML}on = "{on}"\n')
    done = subprocess.run(
        [python_of("ray"), "-c", RUN, json.dumps(parameters), work], cwd=folder,
        env=environment(), capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.stdout.strip(), done.stderr[-5_000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_the_model_and_its_log_are_those_of_this_machine_also_when_the_worker_is_killed(folder):
    here = trained(folder, "here", "")
    dies = str(folder / "died")
    there = trained(folder, "there", "ray", dies=dies)
    assert "error" not in there, there
    assert Path(dies).exists()
    assert there["answers"] == here["answers"]
    assert there["facts"]["curves"]["loss"] == [[1.0, 0.5]]
    assert there["facts"]["metrics"]["pid"] != there["own"], "it was fitted by a worker"
    assert there["facts"]["artefacts"] == ["note.txt"]
    assert (next(folder.glob("there/*/artefacts/note.txt"))).read_text() == "kept"
    assert trained(folder, "here", "ray")["known"], "where it is fitted is no input"


def test_an_error_of_the_code_and_a_cluster_that_is_away_are_told_as_they_are(folder):
    failed = trained(folder, "work", "ray", fails=True)
    assert failed["kind"] == "ModelFailed"
    assert failed["error"] == "train.py:fit failed: no column of mine"
    away = trained(folder, "work", "ray://127.0.0.1:9")
    assert away["kind"] == "Unavailable"
    assert "ray://127.0.0.1:9" in away["error"]
