from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bascule.registry import open_registry
from bascule.registry.stores import schema

HOMES = sorted(Path(__file__).parent.glob("registry-*.sql"))


@pytest.mark.parametrize("written", HOMES, ids=lambda path: path.stem)
def test_a_home_of_every_schema_so_far_is_read(written, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with sqlite3.connect(home / "catalogue.db") as old:
        old.executescript(written.read_text())
    old.close()

    registry = open_registry(home)

    assert [(str(found), found.gates) for found in registry.versions("late")] == [
        ("late/1", "passed"),
        ("late/2", "failed"),
    ]
    champion = registry.aliases("late")["champion"]
    assert (champion.number, champion.moved_at) == (1, datetime(2026, 3, 1, 12, tzinfo=UTC))
    assert [(event.kind, event.number, event.reason) for event in registry.history("late")] == [
        ("pushed", 1, ""),
        ("gates_recorded", 1, "passed 1 of 1"),
        ("pushed", 2, ""),
        ("gates_recorded", 2, "failed roc_auc >= 0.8: 0.5 is not >= 0.8"),
        ("alias_moved", 1, "it passed"),
    ]
    assert registry.statements("late/1", "gates")[0].body["passed"] is True


def test_there_is_a_stored_home_for_every_schema():
    assert [path.stem for path in HOMES] == [
        f"registry-{number:04}" for number in range(1, int(schema.HEAD) + 1)
    ]
