"""Pipelines are read, run once for equal inputs, judged against the champion and recorded."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bascule.core import Invalid, NotFound
from bascule.training import (
    confidence_of_look,
    judged,
    prepare,
    read_pipeline,
    read_values,
    train,
)
from bascule.training.on_ray import answer_of_worker
from bascule.training.pipelines import Pipeline, parsed
from bascule.training.rows import Rows
from bascule.training.training import fitted

FIT = """
from sklearn.linear_model import LogisticRegression

def fit(X, y, run, strength=1.0):
    model = LogisticRegression(C=strength).fit(X, y)
    run.log("train_accuracy", model.score(X, y))
    (run.folder / "note.txt").write_text("kept")
    return model
"""
TOML = """
[pipeline.late]
data = "rows.parquet"
target = "late"
time = "day"
fit = "train.py:fit"
held_out = 50
"""


def table(rows: int = 300, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    distance, weather = rng.normal(size=rows), rng.normal(size=rows)
    late = (distance + weather + rng.normal(size=rows) > 0).astype(int)
    return pa.table(
        {"day": rng.permutation(rows), "distance": distance, "weather": weather, "late": late}
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(FIT)
    Path("pipeline.toml").write_text(TOML)
    pq.write_table(table(), "rows.parquet")
    return tmp_path


def test_the_newest_rows_are_held_out_and_the_time_is_no_input(folder):
    prepared = prepare(read_pipeline(Path("pipeline.toml")))
    days = prepared.rows.train["day"].to_pylist()
    assert max(days) < min(prepared.rows.newest["day"].to_pylist())
    assert len(prepared.rows.newest) == 50
    bundle = train(prepared, folder / "work").bundle
    assert [field.name for field in bundle.signature.inputs] == ["distance", "weather"]


def test_equal_inputs_are_fitted_once_and_any_change_is_another_run(folder):
    steps: list[str] = []
    first = train(prepare(read_pipeline(Path("pipeline.toml"))), folder / "work", steps.append)
    again = train(prepare(read_pipeline(Path("pipeline.toml"))), folder / "work", steps.append)
    assert steps == ["fit", "pack"]
    assert again.was_known
    assert again.bundle.digest == first.bundle.digest
    assert again.facts["metrics"].keys() == {"train_accuracy"}
    assert again.facts["artefacts"] == ["note.txt"]
    keys = {prepare(read_pipeline(Path("pipeline.toml"))).key}
    keys.add(prepare(read_pipeline(Path("pipeline.toml")).with_parameters({"strength": 2.0})).key)
    Path("train.py").write_text(FIT + "\n# another line\n")
    keys.add(prepare(read_pipeline(Path("pipeline.toml"))).key)
    pq.write_table(table(seed=1), "rows.parquet")
    keys.add(prepare(read_pipeline(Path("pipeline.toml"))).key)
    assert len(keys) == 4


def test_rows_in_other_files_are_the_same_rows(folder):
    before = prepare(read_pipeline(Path("pipeline.toml"))).rows.digest
    rows = table()
    Path("rows.parquet").unlink()
    pq.write_table(rows.slice(0, 100), "part-0.parquet")
    pq.write_table(rows.slice(100), "part-1.parquet")
    Path("pipeline.toml").write_text(TOML.replace("rows.parquet", "part-*.parquet"))
    assert prepare(read_pipeline(Path("pipeline.toml"))).rows.digest == before


def test_bad_rows_are_refused_before_anything_is_fitted(folder):
    Path("checks.py").write_text(
        "def check(rows):\n    assert rows.distance.max() < 1, 'distance is over 1'\n"
    )
    Path("pipeline.toml").write_text(TOML + 'check = "checks.py:check"\n')
    with pytest.raises(Invalid, match="distance is over 1"):
        prepare(read_pipeline(Path("pipeline.toml")))


def test_a_decorated_function_is_a_pipeline(folder):
    Path("late.py").write_text(
        "import bascule\n"
        + FIT.replace("def fit", '@bascule.pipeline(data="rows.parquet", target="late")\ndef late')
    )
    pipeline = read_pipeline(Path("late.py"))
    assert (pipeline.name, pipeline.fit) == ("late", "late.py:late")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 3}, r"pipeline late: .*target"),
        ({"held_out": 0}, "held_out"),
        ({"fit": ""}, "needs fit or command"),
        ({"fit": "", "command": ["true"]}, "model_file"),
        ({"taget": "late"}, "taget"),
        ({"on": "spark"}, r"\$\.on"),
        ({"on": "ray", "fit": "", "command": ["true"], "model_file": "m.ubj"}, "not run on Ray"),
    ],
)
def test_an_error_names_the_field(change, message):
    with pytest.raises(Invalid, match=message):
        parsed("late", {"data": "rows.parquet", "target": "late", "fit": "train.py:fit", **change})


def test_a_pipeline_that_is_not_there_is_named_with_those_that_are(folder):
    with pytest.raises(NotFound, match="no pipeline 'early'") as raised:
        read_pipeline(Path("pipeline.toml"), "early")
    assert "late" in raised.value.hint


def test_a_table_that_a_batch_job_wrote_is_never_read_as_a_pipeline(folder):
    Path("scored.csv").write_text(TOML)
    with pytest.raises(Invalid, match=r"scored\.csv is no pipeline"):
        read_pipeline(Path("scored.csv"))


def test_parameters_are_json_or_texts():
    values = read_values(["depth=3", "loss = log_loss", "grid=[1, 2]", "name=a=b"])
    assert values == {"depth": 3, "loss": "log_loss", "grid": [1, 2], "name": "a=b"}
    for text in ("depth", "=3"):
        with pytest.raises(Invalid, match="is no parameter"):
            read_values([text])


def test_all_comparisons_with_a_champion_err_together_as_often_as_one_may():
    errors = [(1 - confidence_of_look(look)) / 2 for look in range(1, 100_000)]
    assert math.fsum(errors) == pytest.approx(0.05, abs=1e-5)
    assert errors[0] > errors[1] > errors[2]


def test_a_challenger_wins_where_it_is_shown_to_be_better():
    wins = {"margin": 0.0, "passes": True}
    assert judged("late/2", "late/1", 0.001, "", **wins).wins
    assert not judged("late/2", "late/1", 0.0, "", **wins).wins
    assert not judged("late/2", "late/1", None, "no truth", **wins).wins
    assert judged("late/2", "late/1", -0.005, "", margin=0.01, passes=True).wins
    assert not judged("late/2", "late/1", 0.5, "", margin=0.0, passes=False).wins
    assert judged("late/1", "", None, "", **wins).wins


def test_a_worker_of_ray_sends_back_the_model_its_notes_and_files_in_folders(tmp_path):
    code = b"""
def fit(X, y, run):
    run.log("loss", 0.5)
    (run.folder / "plots").mkdir()
    (run.folder / "plots" / "a.txt").write_text("kept")
    return sum(y)
"""
    rows = Rows(pa.table({"x": [1, 2], "late": [0, 1]}), pa.table({}), "", 2)
    pipeline = Pipeline(name="late", data="", target="late", fit="train.py:fit", on="ray")
    answer = answer_of_worker(fitted, pipeline, {"train.py": code}, rows, {})
    model, log, files = pickle.loads(answer)
    assert (model, log.metrics, files) == (1, {"loss": 0.5}, {"plots/a.txt": b"kept"})
