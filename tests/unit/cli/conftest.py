from __future__ import annotations

import pytest


@pytest.fixture
def run(tmp_path, monkeypatch, command):
    """Run a command in an empty folder with its own home: (exit code, output, messages)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))
    return command


@pytest.fixture
def call(tmp_path, monkeypatch, command):
    """Run a command in an empty folder, which holds its home: the exit code, and all it printed."""
    monkeypatch.chdir(tmp_path)
    for variable in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(variable, raising=False)

    def ended(*words):
        code, output, messages = command(*words)
        return code, output + messages

    return ended
