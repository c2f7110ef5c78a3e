"""The example projects run as their pages say: fitted, packed, checked, pushed, served, asked."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bascule.release import Criterion

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "examples").glob("*/train.py"))
PACKS = {"flight_times": "flight-time", "which_library": "which-library", "digits": "digits"}
SAYS = {
    "flight_times": r"JFK to MIA: \d+ min, \d+ to \d+\nEWR to SFO: \d+ min, \d+ to \d+\n",
    "which_library": r"scikit-learn +[01]\.\d\d .+\npandas +[01]\.\d\d .+\nnumpy +[01]\.\d\d .+\n",
    "digits": r"said  [\d ]+\ntruth [\d ]+\n",
}


def named(folder: Path) -> str:
    return folder.name


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_an_example_is_complete_and_linked(folder: Path) -> None:
    assert {"README.md", "ask.py", "bascule.toml", "train.py"} <= {p.name for p in folder.iterdir()}
    assert f"]({folder.name}/README.md)" in (ROOT / "examples" / "README.md").read_text()
    for script in folder.glob("*.py"):
        assert ast.get_docstring(ast.parse(script.read_text()))
    gates = tomllib.loads((folder / "bascule.toml").read_text())["gates"]["criteria"]
    assert len([Criterion.parse(text) for text in gates]) >= 5


def test_every_example_is_run() -> None:
    assert set(PACKS) == set(SAYS) == {folder.name for folder in FOLDERS}


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_an_example_is_packed_passes_its_gates_and_is_asked(
    folder: Path, tmp_path: Path, serve, monkeypatch
) -> None:
    work, name = tmp_path / folder.name, PACKS[folder.name]
    shutil.copytree(folder, work)
    monkeypatch.chdir(work)

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, timeout=300, check=False,
            env={k: v for k, v in os.environ.items() if not k.startswith("BASCULE_")},
        )  # fmt: skip
        assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    assert f"{name}.bundle" in run("train.py")
    assert "passed" in run("-m", "bascule.cli", "check", f"{name}.bundle")
    assert run("-m", "bascule.cli", "push", f"{name}.bundle") == f"{name}/1\n"
    running = serve(name)

    said = run("ask.py", f"http://127.0.0.1:{running.port}")
    assert re.fullmatch(SAYS[folder.name], said), said
