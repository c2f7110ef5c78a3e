from __future__ import annotations

import pytest

from bascule.cli import main


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command in this process: (exit code, output, messages)."""

    def call(*words):
        monkeypatch.setattr("sys.argv", ["bascule", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
