"""Where `bascule jobs infer` looks for the server that predicts."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("a\n1\n")
    return tmp_path / "rows.csv"


def test_it_is_at_the_usual_port_of_a_control_api_whose_address_has_none(command, rows):
    code, _, errors = command("--server", "http://[::1]", "jobs", "infer", "m", rows)
    assert code != 0
    assert "[::1]:8080" in errors


def test_without_a_server_it_is_that_of_the_settings_as_for_the_answer(command, rows, monkeypatch):
    with socket.socket() as held:  # refuses connections
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("BASCULE_SERVING__PORT", str(held.getsockname()[1]))
        _, _, errors = command("jobs", "infer", "m", rows)
        assert f"127.0.0.1:{held.getsockname()[1]}" in errors
