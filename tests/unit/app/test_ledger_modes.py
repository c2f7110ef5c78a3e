"""What a server records by its settings, and that it serves where nothing can be recorded."""

from __future__ import annotations

import logging
import os

import pytest

from bascule import app
from bascule.app import ledger_of
from bascule.settings import load_settings


def settings(tmp_path, **values):
    environ = {f"BASCULE_{name}": value for name, value in values.items()}
    return load_settings(tmp_path, environ=environ)


@pytest.mark.parametrize(
    ("mode", "host", "has_rows"),
    [
        ("auto", "127.0.0.1", True),
        ("auto", "::1", True),
        ("auto", "localhost", True),
        ("auto", "0.0.0.0", False),
        ("auto", "models.example", False),
        ("on", "0.0.0.0", True),
        ("profiles", "127.0.0.1", False),
    ],
)
def test_rows_are_recorded_on_loopback_or_where_they_are_asked_for(tmp_path, mode, host, has_rows):
    chosen = settings(tmp_path, MONITORING__LEDGER=mode, SERVING__HOST=host)
    ledger = ledger_of(chosen)
    assert ledger is not None
    assert ledger.is_anonymous is not has_rows


def test_off_records_nothing_and_makes_no_folder(tmp_path):
    assert ledger_of(settings(tmp_path, MONITORING__LEDGER="off")) is None
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_is_no_folder_is_said_once_and_nothing_is_recorded(tmp_path, caplog):
    (tmp_path / ".bascule").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        assert ledger_of(settings(tmp_path)) is None
    (said,) = caplog.messages
    assert "no answer is recorded" in said


def test_a_disk_that_is_full_at_the_start_is_said_and_nothing_is_recorded(
    tmp_path, caplog, monkeypatch
):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(app.os, "posix_fallocate", full)
    assert ledger_of(settings(tmp_path)) is None
    assert "No space left" in caplog.text
