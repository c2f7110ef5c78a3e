"""lm-eval itself asks a server, by the command of the documentation, unchanged but for its port."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.harness_tasks import packages

from bascule.bundle import load
from bascule.release import check

PAGE = Path(__file__).parents[2] / "docs/how-to/judge-answers.md"
CAPITALS = ["France/Paris", "Italy/Rome", "Spain/Madrid", "Japan/Tokyo", "Egypt/Cairo"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With the task of the documentation; an answer that begins with the capital is right."""
    text = PAGE.read_text()
    (tmp_path / "evals").mkdir()
    task = re.search(r"```yaml\n(task: capitals\n.*?)```", text, re.DOTALL)[1]
    task = task.replace(
        "metric: exact_match",
        "metric: exact_match, regexes_to_ignore: ['^The capital of \\\\w+ is |\\\\.$']",
    )
    (tmp_path / "evals/capitals.yaml").write_text(task)
    lines = [dict(zip(("country", "capital"), pair.split("/"), strict=True)) for pair in CAPITALS]
    (tmp_path / "evals/capitals.jsonl").write_text(
        "".join(f"{json.dumps(line)}\n" for line in lines)
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_lm_eval_over_the_server_gives_what_a_gate_over_the_bundle_gives(
    serve, chat, folder, lm_eval
):
    server = serve(chat, env={"BASCULE_HOME": str(folder / "home")})
    command = re.search(r"^lm_eval --model .*?```", PAGE.read_text(), re.DOTALL | re.MULTILINE)[0]
    words = shlex.split(command.removesuffix("```").replace(":8080", f":{server.port}"))[1:]
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *words, "--output_path", "out"],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(packages()), "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = folder.glob("out/**/results_*.json")
    served = json.loads(file.read_text())["results"]["capitals"]["exact_match,none"]
    (result,) = check(
        load(chat), ["lm_eval[evals/capitals/exact_match chat] >= 0.9"],
        now=datetime(2026, 11, 30, tzinfo=UTC), by="me", record=lambda _: None,
    ).results  # fmt: skip
    assert served >= 0.4
    assert f" of {served:.4g} on 5 samples" in result.reason
