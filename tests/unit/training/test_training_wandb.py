"""A run is written once to an offline run of wandb, and read back from its file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.homes import finished, inline_jobs
from tests.unit.training.test_training_runs import TOML, table

from bascule.core import Unavailable
from bascule.jobs import Task
from bascule.kinds.training import TRAIN
from bascule.settings import Settings, TrackingSettings
from bascule.training import Run, write_to_wandb

pytestmark = pytest.mark.slow  # wandb starts a service of its own

FIT = """
from sklearn.linear_model import LogisticRegression

def fit(X, y, run, strength=1.0):
    for step in range(3):
        run.log("loss", 1 / (1 + step), step=step / 2)
    return LogisticRegression(C=strength).fit(X, y)
"""


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(FIT)
    Path("pipeline.toml").write_text(TOML + "parameters = {strength = 0.5}\n")
    pq.write_table(table(), "rows.parquet")
    return Settings(home=tmp_path / "home", tracking=TrackingSettings(wandb="wandb"))


def run_of(settings: Settings) -> Run:
    jobs = inline_jobs(settings)
    content = TRAIN.parse({"why": "a test"})
    job = jobs.submit(Task(kind="train", input=content, by="ada", folder=str(Path.cwd())))
    finished(jobs)
    return Run.of(jobs.get(job.id))


def records_of(folder: Path) -> list[Any]:
    """What an offline run holds: a log of LevelDB, in blocks, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("run-*.wandb")
    content, place, whole, records = file.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        if (left := 32_768 - place % 32_768) < 7:
            place += left
            continue
        _, length, part = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4):  # whole, or the last part
            records.append(Record.FromString(whole))
            whole = b""
    return records


def items_of(updates: Any) -> dict[str, Any]:
    return {".".join(own.nested_key) or own.key: json.loads(own.value_json) for own in updates}


def test_parameters_curves_and_the_verdict_are_in_one_offline_run(settings):
    run = run_of(settings)
    assert run.state == "done", run.sentence
    (folder,) = Path("wandb").iterdir()
    assert folder.name.startswith("offline-run-")

    records = records_of(folder)
    (started,) = (own.run for own in records if own.HasField("run"))
    assert (started.project, started.display_name) == ("late", "late/1")
    assert started.notes == run.sentence
    assert items_of(started.config.update)["strength"] == 0.5
    history = [items_of(own.history.item) for own in records if own.HasField("history")]
    assert [(own["step"], own["loss"]) for own in history] == [
        (0.0, 1.0), (0.5, 0.5), (1.0, pytest.approx(1 / 3))
    ]  # fmt: skip
    summary: dict[str, Any] = {}
    for own in records:
        if own.HasField("summary"):
            summary |= items_of(own.summary.update)
    assert summary["version"] == "late/1"
    assert summary["held_out_accuracy"] == run.metrics["held_out_accuracy"]

    assert run_of(settings).version == "late/1"  # known: it is not written twice
    assert list(Path("wandb").iterdir()) == [folder]


def test_a_run_that_the_code_has_left_open_stays_apart(settings):
    lines = "import wandb\n" + FIT.replace(
        "    for step", '    wandb.init(mode="offline", dir=".", project="mine")\n    for step'
    )
    Path("train.py").write_text(lines)
    Path("mine").mkdir()
    run = run_of(settings)
    assert run.state == "done", run.sentence
    ours = [folder for folder in Path("wandb").glob("offline-run-*") if len(folder.name) > 50]
    assert len(ours) == 1
    (started,) = (own.run for own in records_of(ours[0]) if own.HasField("run"))
    assert started.project == "late"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    result = {"curves": {}, "pipeline": {"name": "late"}}
    with pytest.raises(Unavailable, match=r"no run of wandb is written to .*file"):
        write_to_wandb(tmp_path / "file", "0" * 32, result, {})
