"""The commands of training do over a control API what they do beside the registry."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.cli.test_remote_registry import control
from tests.unit.console.test_console_training import FIT, TOML

pytestmark = pytest.mark.slow


def test_runs_triggers_and_the_loop_over_a_server(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    distance = np.random.default_rng(0).normal(size=200)
    pq.write_table(pa.table({"distance": distance, "late": (distance > 0) * 1}), "rows.parquet")
    Path("train.py").write_text(FIT)
    Path("pipeline.toml").write_text(TOML)
    with control(tmp_path / "home") as url:

        def ask(*words: str):
            code, out, errors = command("--server", url, *words)
            assert code == 0, out + errors
            return json.loads(out) if "--json" in words else out

        assert "late@champion is late/1 now" in ask("train", "run", "-p", "strength=2")
        listed = ask("train", "runs", "--json")
        assert [(run["state"], run["version"]) for run in listed] == [("done", "late/1")]
        assert listed[0]["metrics"]["train_loss"] == 0.25
        run = listed[0]["id"][:8]
        assert ask("train", "show", run, "--json")["wins"] is True
        assert "no champion yet" in ask("train", "logs", run)
        assert ask("train", "compare", run, run, "--json")["strength"] == [2, 2]
        ask("trigger", "add", "drifted", "--on", "drift", "--pipeline", "late")
        ask("trigger", "pause", "drifted")
        assert "paused" in ask("trigger", "list")
        ask("trigger", "resume", "drifted")
        told = ask("loop", "status", "late", "--json")
        assert told["champion"] == "late/1"
        assert [own["challenger"] for own in told["challenges"]] == ["late/1"]
        assert [own["name"] for own in told["triggers"]] == ["drifted"]
        assert "late/1 is the champion, by late@champion" in ask("loop", "status", "late")
        ask("trigger", "remove", "drifted")
        assert ask("trigger", "list", "--json") == []
