"""Gates of a team that keeps its registry behind a server."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from shutil import copytree

import pytest
from tests.tiers import first_of
from tests.unit.cli.test_remote_registry import control


def test_the_first_version_of_a_second_model_has_no_champion_to_be_worse_than(
    tmp_path, monkeypatch, command, cancer_bundle, table_bundle
):
    home = tmp_path / "home"
    monkeypatch.setenv("BASCULE_HOME", str(home))
    # Copies: a check adds a statement to the bundle, which other tests share.
    cancer_bundle = copytree(cancer_bundle, tmp_path / "gb")
    table_bundle = copytree(table_bundle, tmp_path / "table")
    assert command("push", cancer_bundle)[0] == 0
    assert command("alias", "gb/1", "champion")[0] == 0
    words = ("check", table_bundle, "-c", "accuracy >= champion - 0.02")
    with control(home) as url:
        code, out, errors = command("--server", url, *words)
        assert code == 0, out + errors
        code, out, _ = command("--server", url, "check", cancer_bundle, *words[2:])
        assert code == 0, out
        criterion = "accuracy >= gb@best"
        code, out, errors = command("--server", url, "check", cancer_bundle, "-c", criterion)
        assert code != 0
        assert "best" in out + errors


@pytest.mark.parametrize("is_terminal", first_of([True, False]))
def test_a_link_to_sign_in_is_shown_on_a_terminal_and_written_to_no_log(tmp_path, is_terminal):
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "bascule.cli", "control", "--control-port", "0"],
        env={**os.environ, "BASCULE_HOME": str(tmp_path / "home"), "COLUMNS": "200"},
        stdout=theirs, stderr=theirs, cwd=tmp_path,
    ) as process:  # fmt: skip
        os.close(theirs)
        said = ""
        try:
            while "Ctrl-C stops it" not in said:
                said += os.read(ours, 65_536).decode()
        finally:
            process.terminate()
            os.close(ours)
    assert ("/sign-in?code=" in said) is is_terminal, said
    assert ("bascule sign-in makes a link" in said) is not is_terminal
